//! Plants a defect in a sound vault for a while, and holds what is found against it.

use std::path::PathBuf;

use lifeboat::{
    domain::Verdict,
    vault::{Manifest, signature::Signer, verify::Fault},
};

use super::estate::Estate;

/// A file that is changed for a while.
pub(super) struct Planted {
    path: PathBuf,
    before: Option<Vec<u8>>,
}

impl Planted {
    pub(super) fn write(path: PathBuf, bytes: &[u8]) -> Self {
        let before = std::fs::read(&path).ok();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        Self { path, before }
    }

    pub(super) fn change(path: PathBuf, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        Self::write(path, &bytes)
    }

    pub(super) fn flip(path: PathBuf) -> Self {
        Self::change(path, |bytes| {
            let at = bytes.len() * 2 / 3;
            bytes[at] ^= 0x02;
        })
    }

    pub(super) fn remove(path: PathBuf) -> Self {
        let before = Some(std::fs::read(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        Self { path, before }
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        match &self.before {
            Some(bytes) => std::fs::write(&self.path, bytes).unwrap(),
            None => std::fs::remove_file(&self.path).unwrap(),
        }
    }
}

impl Estate {
    /// A full verification finds this one fault at this object and nothing else.
    #[track_caller]
    pub(super) fn finds(
        &self,
        planted: Planted,
        fault: Fault,
        object: &str,
        words: &[&str],
    ) -> impl Future<Output = ()> {
        let told = format!("{fault:?} at {object}, {}", std::panic::Location::caller());
        async move {
            let report = self.full().await;
            drop(planted);
            assert_eq!(report.verdict(), Verdict::Fail, "{told}: {:?}", report.unchecked);
            let [defect] = &report.defects[..] else { panic!("{told}: {:#?}", report.defects) };
            assert_eq!(defect.fault, fault, "{told}: {defect}");
            assert!(defect.object.ends_with(object), "{told}: {defect}");
            let text = defect.to_string();
            for word in words {
                assert!(text.contains(word), "{told}: `{word}` is not in {text}");
            }
            assert!(!defect.remedy.is_empty());
        }
    }

    pub(super) fn manifest(&self, backup: &str) -> Manifest {
        serde_json::from_slice(&std::fs::read(self.path(&format!("backups/{backup}/manifest.json"))).unwrap()).unwrap()
    }

    /// A manifest that its owner of the key signed, whatever it says.
    pub(super) fn sign(&self, manifest: &Manifest, signer: &Signer) -> [Planted; 2] {
        let json = serde_json::to_vec_pretty(manifest).unwrap();
        let signature = signer.sign("lifeboat-manifest", &json).unwrap();
        let path = self.path(&format!("backups/{}/manifest.json", manifest.backup));
        let mut beside = path.clone().into_os_string();
        beside.push(".sig");
        [Planted::write(beside.into(), signature.as_bytes()), Planted::write(path, &json)]
    }
}
