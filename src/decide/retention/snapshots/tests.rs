use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn snapshot(id: &str, region: &str, taken_at: &str, origin: SnapshotOrigin) -> Snapshot {
    Snapshot {
        id: id.to_owned(),
        arn: format!("arn:aws:rds:{region}:123456789012:snapshot:{id}"),
        region: region.parse().unwrap(),
        origin,
        state: SnapshotState::Available,
        progress_percent: 100,
        taken_at: Some(at(taken_at)),
        size_bytes: 1 << 30,
        kms_key: None,
        server_version: "15.8".to_owned(),
        copy_of: (region != "eu-south-1").then(|| format!("arn:aws:rds:eu-south-1:123456789012:snapshot:{id}")),
    }
}

/// Of one in the database's own region.
fn arn(id: &str) -> String {
    format!("arn:aws:rds:eu-south-1:123456789012:snapshot:{id}")
}

fn ours(id: &str, taken_at: &str) -> Snapshot {
    snapshot(id, "eu-south-1", taken_at, SnapshotOrigin::Ours)
}

fn daily(count: u32) -> Policy {
    let keep = BTreeMap::from([(KeepPeriod::Daily, count)]);
    Policy { lines: vec![Some(keep)], zone: chrono_tz::Europe::Malta }
}

fn facts(snapshots: Vec<Snapshot>) -> Facts {
    Facts { snapshots, ..Facts::default() }
}

fn goes(plan: &Plan) -> Vec<(&str, &str)> {
    plan.expire.iter().map(|one| (one.id.as_str(), one.region.as_str())).collect()
}

#[test]
fn the_newest_of_each_day_stays_with_its_copies_and_the_rest_goes() {
    let copy = |id, taken_at| snapshot(id, "eu-central-1", taken_at, SnapshotOrigin::Ours);
    let held = facts(vec![
        ours("one", "2026-11-01T02:00:00Z"),
        // A copy is made later, and is of the same state.
        copy("one", "2026-11-01T02:20:00Z"),
        ours("two", "2026-11-02T02:00:00Z"),
        ours("two-b", "2026-11-02T14:00:00Z"),
        ours("three", "2026-11-05T02:00:00Z"),
    ]);
    let plan = plan(&held, &daily(2));
    assert_eq!(goes(&plan), [("one", "eu-central-1"), ("one", "eu-south-1"), ("two", "eu-south-1")]);
    let kept: Vec<_> = plan.keep.iter().map(|kept| (kept.id.as_str(), kept.reasons.clone())).collect();
    let newest = |of: &str| Reason::Newest { period: KeepPeriod::Daily, of: of.to_owned() };
    assert_eq!(kept, [("two-b", vec![newest("2026-11-02")]), ("three", vec![newest("2026-11-05"), Reason::Last]),]);
}

#[test]
fn what_others_made_never_goes_and_counts_for_nothing() {
    let others = [SnapshotOrigin::Adopted, SnapshotOrigin::Automated];
    let mut all: Vec<Snapshot> =
        others.iter().map(|origin| snapshot("theirs", "eu-south-1", "2026-11-09T02:00:00Z", *origin)).collect();
    all.extend([ours("old", "2026-11-01T02:00:00Z"), ours("new", "2026-11-02T02:00:00Z")]);
    let plan = plan(&facts(all), &daily(1));
    assert_eq!((goes(&plan), plan.foreign), (vec![("old", "eu-south-1")], 2));
}

#[test]
fn the_last_proven_stays_however_old() {
    let all = ["a", "b", "c"].iter().zip(1..).map(|(id, day)| ours(id, &format!("2026-11-0{day}T02:00:00Z"))).collect();
    let held = Facts { proven: ["a", "b"].map(arn).into(), ..facts(all) };
    let plan = plan(&held, &daily(1));
    assert_eq!(goes(&plan), [("a", "eu-south-1")]);
    assert_eq!(plan.keep[0].reasons, [Reason::LastProven]);

    // By its copy in its own region, too; one in another region is another one's proof.
    let copied = [("a", 1), ("a-copy", 1), ("b", 2), ("c", 3)];
    let all: Vec<_> = copied.iter().map(|(id, day)| ours(id, &format!("2026-11-0{day}T02:00:00Z"))).collect();
    let kept = |proven: String| {
        let plan = super::plan(&Facts { proven: [proven].into(), ..facts(all.clone()) }, &daily(1));
        plan.keep.iter().map(|kept| kept.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(kept(arn("a-copy")), ["a", "c"]);
    assert_eq!(kept(arn("a").replace("eu-south-1", "eu-west-1")), ["c"]);
}

#[test]
fn what_is_being_made_stays_and_what_failed_goes_once_another_is_there() {
    let with = |id: &str, state| Snapshot { state, taken_at: None, ..ours(id, "2026-11-01T02:00:00Z") };
    let (failed, making) = (with("failed", SnapshotState::Failed), with("making", SnapshotState::Creating));
    let alone = plan(&facts(vec![failed.clone(), making.clone()]), &daily(1));
    assert!(alone.expire.is_empty(), "{alone:?}");
    let beside = plan(&facts(vec![failed, making, ours("new", "2026-11-02T02:00:00Z")]), &daily(1));
    assert_eq!(goes(&beside), [("failed", "eu-south-1")]);
}

#[test]
fn nothing_goes_while_another_run_may_need_it() {
    let all = vec![ours("old", "2026-11-01T02:00:00Z"), ours("new", "2026-11-02T02:00:00Z")];
    let run = RunId::new("restore_test", "bets", "rds", "2026-11-02T05:00:00Z");
    let plan = plan(&Facts { busy: Some(run.clone()), ..facts(all) }, &daily(1));
    assert!(plan.expire.is_empty() && plan.busy == Some(run), "{plan:?}");
}

#[test]
fn without_a_limit_nothing_goes() {
    let all = vec![ours("old", "2020-11-01T02:00:00Z"), ours("new", "2026-11-02T02:00:00Z")];
    for lines in [vec![], vec![None], vec![Some(BTreeMap::from([(KeepPeriod::Daily, 1)])), None]] {
        assert!(plan(&facts(all.clone()), &Policy { lines, zone: chrono_tz::UTC }).expire.is_empty());
    }
}

#[test]
fn only_what_both_plans_let_go_is_removed() {
    let (old, new) = (ours("old", "2026-11-01T02:00:00Z"), ours("new", "2026-11-02T02:00:00Z"));
    let recorded = plan(&facts(vec![old.clone(), new.clone()]), &daily(1));
    let fresh = plan(&Facts { proven: [arn("old")].into(), ..facts(vec![old, new]) }, &daily(1));
    assert_eq!(recorded.allows(&recorded).len(), 1);
    assert!(fresh.allows(&recorded).is_empty());
}

#[test]
fn an_id_is_what_the_provider_takes_and_the_run_s_own() {
    let run = |due: &str| RunId::new("backup", "bets", "snapshot", due);
    let made_at = at("2026-11-29T02:00:03Z");
    let one = id("lifeboat-", "bets._eu", &run("2026-11-29T02:00:00Z"), made_at);
    assert!(one.starts_with("lifeboat-bets-eu-20261129t020003z-"), "{one}");
    assert!(!one.contains("--") && one.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{one}");
    assert_eq!(one, id("lifeboat-", "bets._eu", &run("2026-11-29T02:00:00Z"), made_at));
    assert_ne!(one, id("lifeboat-", "bets._eu", &run("2026-11-29T03:00:00Z"), made_at));
    let [home, other] = ["eu-south-1", "eu-west-1"].map(|region| region.parse::<Region>().unwrap());
    assert_eq!(copy_id(&one, &home, &other), one);
    assert_eq!(copy_id(&one, &home, &home), format!("{one}-copy"));
    let long = id("lifeboat-", &"x".repeat(80), &run("2026-11-29T02:00:00Z"), made_at);
    let (_, end) = one.split_once("eu").unwrap();
    assert!(long.ends_with(end) && copy_id(&long, &home, &home).len() <= 63, "{long}");
}
