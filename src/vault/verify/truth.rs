//! Whether a validly signed manifest agrees with itself and with PostgreSQL's
//! own. A signature proves who wrote it, not that it is true.

use std::collections::BTreeSet;

use crate::vault::{Manifest, server::ServerManifest};

/// What a manifest says that it contradicts itself.
pub(super) fn contradictions(manifest: &Manifest) -> Vec<String> {
    let mut lies = Vec::new();
    let plain: u64 = manifest.parts().map(|part| part.plain_size).sum();
    if plain != manifest.size_bytes {
        lies.push(format!("it says {} bytes, and its parts are {plain}", manifest.size_bytes));
    }
    let stored: u64 = manifest.objects.iter().map(|object| object.stored_size).sum();
    if stored != manifest.stored_bytes {
        lies.push(format!("it says {} stored bytes, and its objects are {stored}", manifest.stored_bytes));
    }
    if manifest.start_lsn >= manifest.stop_lsn {
        lies.push(format!("it starts at {} and stops at {}", manifest.start_lsn, manifest.stop_lsn));
    }
    let names: BTreeSet<&str> = manifest.objects.iter().map(|object| object.name.as_str()).collect();
    if names.len() != manifest.objects.len() {
        lies.push("it names an object twice".to_owned());
    }
    for needed in ["backup_manifest", "config.tar.zst.age", "RESTORE.md", "restore.sh", "keys/0.age"] {
        if !names.contains(needed) {
            lies.push(format!("it names no `{needed}`"));
        }
    }
    if let Some((nth, part)) =
        manifest.parts().enumerate().find(|(nth, part)| part.name != format!("data/{nth:05}.tar.zst.age"))
    {
        lies.push(format!("part {nth} is named `{}`", part.name));
    } else if manifest.parts().next().is_none() {
        lies.push("it names no part".to_owned());
    }
    lies
}

/// What it says otherwise than PostgreSQL's own manifest does, which has the
/// digest that this one names.
pub(super) fn against_server(manifest: &Manifest, server: &ServerManifest) -> Vec<String> {
    let mut lies = Vec::new();
    let mut compare = |what: &str, ours: String, theirs: Option<String>| {
        if let Some(theirs) = theirs.filter(|theirs| *theirs != ours) {
            lies.push(format!("it says {what} {ours}, and `backup_manifest` says {theirs}"));
        }
    };
    compare("system id", manifest.system_id.clone(), server.system_id.map(|id| id.to_string()));
    let (first, last) =
        (server.ranges.iter().map(|range| range.start).min(), server.ranges.iter().max_by_key(|r| r.end));
    compare("start LSN", manifest.start_lsn.to_string(), first.map(|lsn| lsn.to_string()));
    // One from a standby stops at a record of the primary's behind the end.
    let of_standby = manifest.from.as_ref().is_some_and(|from| from.is_standby);
    let end = last.filter(|range| !of_standby || manifest.stop_lsn < range.end);
    compare("stop LSN", manifest.stop_lsn.to_string(), end.map(|range| range.end.to_string()));
    // A standby may follow its primary to a new timeline while it is backed up.
    let is_one = server.ranges.iter().any(|range| range.timeline == manifest.timeline);
    let other = last.filter(|_| !is_one).map(|range| range.timeline.to_string());
    compare("timeline", manifest.timeline.to_string(), other);
    lies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::server::ServerFiles;

    type Lie = fn(&mut Manifest);

    /// A manifest that is true.
    fn honest() -> Manifest {
        let object = |name: &str, size: u64| serde_json::json!({"name": name, "stored_size": size, "stored_sha256": "", "plain_size": size, "plain_sha256": ""});
        serde_json::from_value(serde_json::json!({
            "format": 1, "backup": "b", "database": "wallet", "kind": "full", "system_id": "7", "incarnation": 1,
            "timeline": 2, "segment_size": 16_777_216, "start_lsn": "0/2000028", "stop_lsn": "0/2000100",
            "server_version": "15.18", "started_at": "2026-11-21T05:00:00Z", "finished_at": "2026-11-21T05:01:00Z",
            "size_bytes": 30, "stored_bytes": 35, "damaged": false, "parent": null, "recipients": [],
            "lifeboat_version": "0.1.0", "required_settings": {},
            "objects": [
                object("data/00000.tar.zst.age", 10), object("data/00001.tar.zst.age", 20),
                object("backup_manifest", 1), object("keys/0.age", 1), object("config.tar.zst.age", 1),
                object("RESTORE.md", 1), object("restore.sh", 1),
            ],
        }))
        .unwrap()
    }

    #[test]
    fn a_manifest_that_contradicts_itself_is_noticed() {
        assert_eq!(contradictions(&honest()), [""; 0]);
        let lies: [(Lie, &str); 6] = [
            (|m| m.size_bytes = 31, "its parts are 30"),
            (|m| m.stored_bytes = 0, "its objects are 35"),
            (|m| m.stop_lsn = m.start_lsn, "starts at"),
            (|m| m.objects[1].name = "data/00002.tar.zst.age".to_owned(), "part 1 is named"),
            (|m| m.objects[6].name = "other".to_owned(), "names no `restore.sh`"),
            (|m| m.objects[6].name = "RESTORE.md".to_owned(), "an object twice"),
        ];
        for (lie, told) in lies {
            let mut manifest = honest();
            lie(&mut manifest);
            let found = contradictions(&manifest);
            assert!(found.iter().any(|found| found.contains(told)), "{told} is not in {found:?}");
        }
    }

    #[test]
    fn the_servers_own_manifest_is_believed_rather() {
        let range = r#"{"Timeline": 2, "Start-LSN": "0/2000028", "End-LSN": "0/2000100"}"#;
        let told = |system_id: Option<u64>, ranges: &[&str]| {
            let ranges = ranges.iter().map(|range| serde_json::from_str(range).unwrap()).collect();
            against_server(&honest(), &ServerManifest { system_id, ranges, files: ServerFiles::default() })
        };
        assert_eq!(told(Some(7), &[range]), [""; 0]);
        assert_eq!(told(None, &[]), [""; 0], "says nothing");
        let followed = range.replace("\"Timeline\": 2", "\"Timeline\": 1").replace("2000100", "2000080");
        assert_eq!(told(None, &[&followed, range]), [""; 0]);
        assert_eq!(told(Some(8), &[&followed]).len(), 3);
        let from = Some(crate::domain::TakenFrom { member: "b".parse().unwrap(), is_standby: true });
        let of_standby = |end: &str| {
            let ranges = vec![serde_json::from_str(&range.replace("2000100", end)).unwrap()];
            let server = ServerManifest { system_id: None, ranges, files: ServerFiles::default() };
            against_server(&Manifest { from: from.clone(), ..honest() }, &server)
        };
        assert_eq!(of_standby("2000080"), [""; 0]);
        assert_eq!(of_standby("2000108").len(), 1);
    }
}
