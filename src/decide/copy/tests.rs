use proptest::prelude::*;

use super::*;

fn held(start_segment: u64, parent: Option<&str>, parts: u32) -> HeldBackup {
    let size = SegmentSize::DEFAULT;
    HeldBackup {
        manifest_sha256: "a".repeat(64),
        parent: parent.map(|parent| parent.parse().unwrap()),
        finished_at: Timestamp::from_second(i64::try_from(start_segment).unwrap()).unwrap(),
        timeline: Timeline(1),
        start_lsn: Lsn(start_segment * size.bytes() + 40),
        segment_size: size,
        objects: (0..parts)
            .map(|part| format!("data/{part:05}.tar.zst.age"))
            .chain(["keys/0.age", "backup_manifest", "restore.sh"].map(str::to_owned))
            .collect(),
    }
}

fn segment(timeline: u32, number: u64) -> String {
    let size = SegmentSize::DEFAULT;
    let segment = Segment { timeline: Timeline(timeline), number };
    format!("wal/{timeline:08X}/{}.zst.age", segment.file_name(size))
}

fn tail(number: u64, from: u64) -> String {
    format!("{}.{from:08X}-{:08X}.tail.zst.age", segment(1, number).strip_suffix(".zst.age").unwrap(), from + 16)
}

impl Holding {
    fn with(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.names.extend(names.into_iter().map(|name| (name, 7)));
        self
    }

    fn with_backup(mut self, id: &str, backup: HeldBackup) -> Self {
        let names = backup.objects.iter().map(String::as_str).chain(["manifest.json", "manifest.json.sig"]);
        let names: Vec<_> = names.map(|name| (format!("backups/{id}/{name}"), 7)).collect();
        self.names.extend(names);
        self.backups.insert(id.parse().unwrap(), backup);
        self
    }
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.items().map(|item| item.name.as_str()).collect()
}

#[test]
fn wal_comes_first_then_the_newest_backup_with_its_chain_and_the_manifest_last() {
    let source = Holding::default()
        .with_backup("a", held(3, None, 1))
        .with_backup("b", held(5, None, 1))
        .with_backup("c", held(6, Some("b"), 1))
        .with([segment(1, 6), segment(2, 5), segment(1, 4), segment(1, 2), "wal/00000002.history".into()])
        .with(["wal/keys/000000010000000000000003/0.age".into(), "heartbeats/1-2.jsonl.zst.age".into()])
        .with(["proofs/a/run.json".into(), "proofs/a/run.json.sig".into()]);
    let plan = plan(std::slice::from_ref(&source), &Holding::default());
    let order: Vec<_> = plan.groups.iter().map(|group| format!("{:?}", group.of)).collect();
    let of = |id: &str| format!("BackupId({id:?})");
    let wanted = [
        "WalKeys".to_owned(),
        "Wal".to_owned(),
        format!("Backup({})", of("b")),
        format!("Commit({})", of("b")),
        format!("Backup({})", of("c")),
        format!("Commit({})", of("c")),
        format!("Backup({})", of("a")),
        format!("Commit({})", of("a")),
        "Beside".to_owned(),
        "Accounts".to_owned(),
    ];
    assert_eq!(order, wanted);
    let wal: Vec<&str> = plan.wal().map(|item| item.name.as_str()).collect();
    assert_eq!(wal, [&segment(1, 4), &segment(2, 5), &segment(1, 6)], "oldest first, nothing before the first backup");
    let commit: Vec<&str> = plan.groups[3].items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(commit, ["backups/b/manifest.json.sig", "backups/b/manifest.json"]);
    assert_eq!(plan.groups[2].items[0].name, "backups/b/keys/0.age");
}

#[test]
fn what_is_not_committed_and_what_is_there_is_not_copied() {
    let source = Holding::default().with_backup("a", held(3, None, 1)).with([
        "backups/open/data/00000.tar.zst.age".into(),
        "backups/a/stray".into(),
        segment(1, 3),
    ]);
    let source = source.with([
        "notes.txt".into(),
        "wal/notes".into(),
        "verifications/a/run.json".into(),
        "proofs/a/notes".into(),
    ]);
    let target = Holding::default().with_backup("a", held(3, None, 1)).with([segment(1, 3)]);
    assert_eq!(plan(std::slice::from_ref(&source), &target), Plan::default());
    // A person removed a damaged object; a rotation added a key.
    let mut repaired = target.clone();
    repaired.names.remove("backups/a/data/00000.tar.zst.age");
    repaired.backups.clear();
    let rotated = source.clone().with(["backups/a/keys/1.age".into()]);
    let found = plan(std::slice::from_ref(&rotated), &repaired);
    assert_eq!(names(&found), ["backups/a/keys/1.age", "backups/a/data/00000.tar.zst.age"]);
    assert_eq!(lag(&[rotated], &repaired).backups, 1, "what is not whole does not exist");
    let target = target.with(["wal/00000002.history".into()]);
    assert_eq!(plan(&[target], &Holding::default().with_backup("b", held(1, None, 1))).groups.len(), 4);
}

#[test]
fn an_object_comes_from_every_vault_that_has_it_and_a_liar_gives_nothing() {
    let first = Holding::default().with_backup("a", held(3, None, 2));
    let liar = HeldBackup { manifest_sha256: "b".repeat(64), ..held(3, None, 2) };
    let liar = Holding::default().with_backup("a", liar);
    let mut partial = first.clone();
    partial.names.remove("backups/a/data/00001.tar.zst.age");
    let found = plan(&[first, liar, partial], &Holding::default());
    let sources: BTreeMap<&str, &Vec<usize>> = found.items().map(|item| (item.name.as_str(), &item.sources)).collect();
    assert_eq!(*sources["backups/a/data/00000.tar.zst.age"], [0, 2]);
    assert_eq!(*sources["backups/a/data/00001.tar.zst.age"], [0]);
}

#[test]
fn pieces_of_a_segment_that_somebody_has_whole_are_not_copied() {
    let base = || Holding::default().with_backup("a", held(3, None, 0));
    let source = base().with([segment(1, 3), tail(3, 0), tail(4, 0), tail(4, 16)]);
    let found = plan(std::slice::from_ref(&source), &base());
    assert_eq!(names(&found), [&segment(1, 3), &tail(4, 0), &tail(4, 16)]);
    assert_eq!(lag(&[source], &base()).segments, 1);
}

/// A vault with some backups of a chain and some WAL.
fn holding() -> impl Strategy<Value = Holding> {
    let backups = proptest::collection::btree_map(0u8..5, (0u32..3, any::<bool>()), 0..4);
    let wal = proptest::collection::btree_set((1u32..3, 0u64..8, any::<bool>()), 0..12);
    (backups, wal, proptest::collection::btree_set(0u8..5, 0..3)).prop_map(|(backups, wal, open)| {
        let mut holding = Holding::default();
        for (number, (parts, is_child)) in backups {
            let parent = number.checked_sub(1).filter(|_| is_child).map(|parent| format!("b{parent}"));
            holding = holding
                .with_backup(&format!("b{number}"), held(u64::from(number), parent.as_deref(), parts))
                .with([format!("proofs/b{number}/run.json"), format!("proofs/b{number}/run.json.sig")]);
        }
        let names = wal.into_iter().map(|(timeline, number, is_whole)| {
            if is_whole { segment(timeline, number) } else { tail(number, u64::from(timeline) * 16) }
        });
        holding.with(names).with(open.into_iter().map(|number| format!("backups/open{number}/data/00000.tar.zst.age")))
    })
}

proptest! {
    #[test]
    fn a_plan_adds_only_in_order_and_is_complete(
        sources in proptest::collection::vec(holding(), 1..3),
        mut target in holding(),
    ) {
        let found = plan(&sources, &target);
        let mut newest_wal = "";
        for item in found.items() {
            prop_assert!(!item.sources.is_empty());
            prop_assert!(!item.name.contains("/open"), "{} is not committed", item.name);
            if let Some(id) = item.name.strip_suffix("/manifest.json") {
                let id: BackupId = id.strip_prefix("backups/").unwrap().parse().unwrap();
                let held = sources.iter().find_map(|source| source.backups.get(&id)).unwrap();
                for name in held.objects.iter().map(String::as_str).chain(["manifest.json.sig"]) {
                    let name = format!("backups/{id}/{name}");
                    prop_assert!(target.names.contains_key(&name), "{} before {}", item.name, name);
                }
            }
            if let Some(signed) = item.name.strip_suffix(".json").filter(|name| name.starts_with("proofs/")) {
                let signature = format!("{signed}.json.sig");
                prop_assert!(target.names.contains_key(&signature), "no {signature}");
            }
            if let Some(position) = position(&item.name) {
                prop_assert!(newest_wal <= position);
                newest_wal = position;
            }
            prop_assert!(target.names.insert(item.name.clone(), item.size).is_none(), "{} is there", item.name);
        }
        for source in &sources {
            for (id, held) in &source.backups {
                target.backups.entry(id.clone()).or_insert_with(|| held.clone());
            }
        }
        prop_assert_eq!(plan(&sources, &target), Plan::default());
        prop_assert_eq!(lag(&sources, &target), Lag::default());
    }
}

fn beats(first: i64, last: i64) -> String {
    format!("heartbeats/{}", BeatRange { first, last }.file_name())
}

/// Vaults merge the heartbeats of an hour in their own time, and do not bring one
/// another back what they have merged.
#[test]
fn heartbeats_that_are_there_in_other_pieces_are_not_copied() {
    let small = [beats(1, 10), beats(11, 20), beats(21, 30)];
    let merged = Holding::default().with([beats(1, 30), beats(31, 40)]);
    let open = Holding::default().with(small.clone()).with([beats(31, 40)]);
    assert_eq!(names(&plan(std::slice::from_ref(&open), &merged)), [""; 0]);
    assert_eq!(names(&plan(std::slice::from_ref(&merged), &open)), [""; 0]);
    let lacks_some = Holding::default().with([beats(1, 10), beats(31, 40)]);
    assert_eq!(names(&plan(std::slice::from_ref(&open), &lacks_some)), [&small[1], &small[2]]);
    assert_eq!(names(&plan(std::slice::from_ref(&merged), &lacks_some)), [&beats(1, 30)]);
    let between = Holding::default().with(small).with([beats(1, 30), beats(31, 40)]);
    let sources = [open, between];
    assert_eq!(names(&plan(&sources, &Holding::default())), [&beats(1, 30), &beats(31, 40)], "the larger one");
}
