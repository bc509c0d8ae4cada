//! Parts that are validly sealed and signed, and do not hold what PostgreSQL
//! sent: its own manifest tells, file by file.

use std::io::Read;

use lifeboat::{
    domain::Verdict,
    vault::{Manifest, Object, ObjectKey, identities_from, read_sealed, verify::Fault},
};
use sha2::{Digest, Sha256};

use super::{estate::Estate, planted::Planted};

type Members = Vec<(tar::Header, Vec<u8>)>;

fn members_of(tar: &[u8]) -> Members {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let (header, mut content) = (entry.header().clone(), Vec::new());
        entry.read_to_end(&mut content).unwrap();
        (header, content)
    });
    entries.collect()
}

fn tar_of(members: &Members) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (header, content) in members {
        let mut header = header.clone();
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn name_of(header: &tar::Header) -> String {
    header.path().unwrap().display().to_string()
}

/// One that is not empty and no file of which more is read than its bytes.
fn is_plain(header: &tar::Header, content: &[u8]) -> bool {
    content.len() > 100 && !name_of(header).ends_with("pg_control") && !name_of(header).ends_with("backup_label")
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Everything that somebody with the signing key can make consistent.
struct Resealed {
    _planted: Vec<Planted>,
}

impl Estate {
    /// Changes the members of the first part of a backup, seals it with the
    /// backup's key and signs a manifest that names what is there then.
    async fn reseal(&self, backup: &str, change: impl FnOnce(&mut Members)) -> Resealed {
        let store = self.fixture.store.as_ref();
        let key = |name: &str| ObjectKey::new(format!("{}backups/{backup}/{name}", self.layout.prefix())).unwrap();
        let identity = std::slice::from_ref(&self.fixture.identity);
        let text = read_sealed(store, &key("keys/0.age"), false, identity).await.unwrap();
        let opened = identities_from(std::str::from_utf8(&text).unwrap()).unwrap();
        let part = "data/00000.tar.zst.age";
        let mut members = members_of(&read_sealed(store, &key(part), true, &opened).await.unwrap());
        change(&mut members);
        let plain = tar_of(&members);
        let stored = Object::seal(&plain, true, &[opened[0].to_public()]).unwrap().stored;
        let mut manifest: Manifest = self.manifest(backup);
        let record = manifest.objects.iter_mut().find(|record| record.name == part).unwrap();
        (record.stored_size, record.stored_sha256) = (stored.len() as u64, hash(&stored));
        record.plain_size = plain.len() as u64;
        manifest.size_bytes = manifest.parts().map(|part| part.plain_size).sum();
        manifest.stored_bytes = manifest.objects.iter().map(|object| object.stored_size).sum();
        // What was said of the honest manifest would give the other one away.
        let told = self.names(&format!("verifications/{backup}"));
        let mut planted: Vec<Planted> = told.iter().map(|name| Planted::remove(self.path(name))).collect();
        planted.push(Planted::write(self.path(&format!("backups/{backup}/{part}")), &stored));
        planted.extend(self.sign(&manifest, &self.fixture.signer));
        Resealed { _planted: planted }
    }

    async fn finds_member(&self, change: impl FnOnce(&mut Members), fault: Fault, words: &[&str]) {
        let resealed = self.reseal("two", change).await;
        let report = self.full().await;
        drop(resealed);
        let [defect] = &report.defects[..] else { panic!("{words:?}: {:#?}", report.defects) };
        assert_eq!((report.verdict(), defect.fault), (Verdict::Fail, fault), "{defect}");
        for word in words {
            assert!(defect.to_string().contains(word), "`{word}` is not in {defect}");
        }
        let found = report.backups.iter().find(|found| found.backup.as_str() == "two").unwrap();
        assert!(!found.sound.contains("manifest.json"), "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_does_not_hold_what_postgresql_sent_is_named() {
    let estate = Estate::make().await;
    let mut name = String::new();
    let resealed =
        estate.reseal("two", |members| name = name_of(&members.iter().find(|(h, c)| is_plain(h, c)).unwrap().0)).await;
    let report = estate.full().await;
    assert_eq!(report.defects, [], "sealed anew and the same");
    drop(resealed);
    let name = name.as_str();
    let at = |members: &Members| members.iter().position(|(header, _)| name_of(header) == name).unwrap();
    let part = "backups/two/data/00000.tar.zst.age";
    let flip = |members: &mut Members| {
        let nth = at(members);
        members[nth].1[50] ^= 1;
    };
    estate.finds_member(flip, Fault::Structure, &[part, name, "checksum", "`backup_manifest` says"]).await;
    let cut = |members: &mut Members| {
        let nth = at(members);
        members[nth].1.pop();
    };
    estate.finds_member(cut, Fault::Structure, &[part, name, "size", "`backup_manifest` says"]).await;
    let add = |members: &mut Members| {
        let (mut header, content) = members[at(members)].clone();
        header.set_path("base/1/extra").unwrap();
        members.push((header, content));
    };
    estate.finds_member(add, Fault::Structure, &[part, "base/1/extra", "`backup_manifest` does not name it"]).await;
    let leave_out = |members: &mut Members| drop(members.remove(at(members)));
    let words = ["backups/two/manifest.json", name, "1 file(s) that no part holds"];
    estate.finds_member(leave_out, Fault::LyingManifest, &words).await;
    assert_eq!(estate.full().await.defects, []);
}
