use super::*;
use crate::{
    decide::hold::{Cause, Edge},
    domain::Topic,
};

const CHRISTMAS: (&str, &str) = ("2026-12-26 02:00", "2026-12-26 04:00");

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn concerned(names: &[&str]) -> Vec<Concerned> {
    let zone = |name: &str| if name == "ledger" { "UTC" } else { "Europe/Malta" };
    names.iter().map(|name| Concerned { database: name.parse().unwrap(), timezone: zone(name).to_owned() }).collect()
}

/// A maintenance on the wall of Malta that `dba` is told of.
fn window((start, end): (&str, &str), reason: &str) -> Window {
    let edges: (Edge, Edge) = (start.parse().unwrap(), end.parse().unwrap());
    let hold = Hold::new(Cause::Maintenance, (&edges.0, &edges.1), "Europe/Malta", Vec::new()).unwrap();
    let told = [("dba".parse().unwrap(), concerned(&["wallet", "ledger"]))].into();
    Window { reason: reason.to_owned(), scope: Vec::new(), hold, told }
}

/// Looks, and stores what is to be said as if it had been tried.
fn look(windows: &[Window], told: &mut Vec<Told>, now: &str) -> Vec<String> {
    let now = at(now);
    let plan = stored(windows, told, now, (true, true));
    assert_eq!(super::plan(windows, told, now), Plan::default(), "once is enough");
    plan.say.into_iter().map(|saying| saying.id).collect()
}

/// Looks and stores as the outbox does; what is said is tried and sent, or not.
fn stored(windows: &[Window], told: &mut Vec<Told>, now: Timestamp, (is_tried, is_sent): (bool, bool)) -> Plan {
    let plan = plan(windows, told, now);
    told.retain(|told| told.is_tried || !plan.withdraw.contains(&told.id));
    for told in told.iter_mut().filter(|told| plan.withdraw.contains(&told.id)) {
        told.until = Timestamp::UNIX_EPOCH;
    }
    for Saying { id, notifier, said, until } in plan.say.clone() {
        assert!(told.iter().all(|told| told.id != id || !told.stands(now)), "{id} would not be stored");
        told.retain(|told| told.id != id);
        told.push(Told { id, notifier, said, at: now, until, is_tried, is_sent });
    }
    plan
}

fn stages(plan: &Plan) -> Vec<&str> {
    plan.say.iter().map(|saying| saying.id.rsplit('/').nth(1).unwrap()).collect()
}

fn id(what: &str) -> Vec<String> {
    vec![format!("maintenance/{what}/dba")]
}

const KEY: &str = "20261226t0100z-20261226t0300z-all";

#[test]
fn a_maintenance_is_announced_a_day_and_an_hour_before() {
    // When a daemon looks, and the stages that it says.
    for (looks, stages) in [
        (&["2026-12-25T00:59:59Z"][..], &[][..]),
        (
            &["2026-12-25T01:00:00Z", "2026-12-25T23:59:00Z", "2026-12-26T00:00:00Z", "2026-12-26T02:00:00Z"],
            &["24h", "1h"],
        ),
        // Known late: at once, and an hour before where there is one.
        (&["2026-12-25T20:00:00Z", "2026-12-26T00:30:00Z"], &["24h", "1h"]),
        (&["2026-12-26T00:20:00Z", "2026-12-26T00:50:00Z", "2026-12-26T01:30:00Z"], &["1h"]),
        // Under way already, and over.
        (&["2026-12-26T02:59:59Z"], &["1h"]),
        (&["2026-12-26T03:00:00Z"], &[]),
    ] {
        let mut told = Vec::new();
        let said: Vec<String> =
            looks.iter().flat_map(|now| look(&[window(CHRISTMAS, "disks")], &mut told, now)).collect();
        let wanted: Vec<String> = stages.iter().flat_map(|stage| id(&format!("{KEY}/{stage}"))).collect();
        assert_eq!(said, wanted, "{looks:?}");
    }
}

#[test]
fn each_week_is_announced_through_the_jump_of_the_clock() {
    let weekly = [window(("Sun 02:30", "Sun 04:00"), "patches")];
    let mut told = Vec::new();
    let mut said = Vec::new();
    let mut now = at("2026-10-17T00:00:00Z");
    while now < at("2026-11-02T00:00:00Z") {
        said.extend(look(&weekly, &mut told, &now.to_string()));
        now += SignedDuration::from_mins(30);
        told.retain(|told| told.said.occurrence.end > now);
    }
    let keys = ["20261018t0030z-20261018t0200z", "20261025t0030z-20261025t0300z", "20261101t0130z-20261101t0300z"];
    let wanted: Vec<String> =
        keys.iter().flat_map(|key| ["24h", "1h"].map(|stage| id(&format!("{key}-all/{stage}")).remove(0))).collect();
    assert_eq!(said, wanted);
}

#[test]
fn what_was_announced_is_called_off_or_replaced_when_it_is_edited() {
    let moved = ("2026-12-27 02:00", "2026-12-27 04:00");
    let far = ("2027-01-09 02:00", "2027-01-09 04:00");
    for (edited, wanted) in [
        (vec![], format!("{KEY}/cancelled")),
        (vec![window(moved, "disks")], "20261227t0100z-20261227t0300z-all/changed".to_owned()),
        (vec![window(far, "disks")], "20270109t0100z-20270109t0300z-all/changed".to_owned()),
        (
            vec![window(("2026-12-26 02:00", "2026-12-26 05:00"), "disks")],
            "20261226t0100z-20261226t0400z-all/24h".to_owned(),
        ),
        // Another reason is another maintenance: its own time to be told has not come.
        (vec![window(moved, "network")], format!("{KEY}/cancelled")),
    ] {
        let mut told = Vec::new();
        look(&[window(CHRISTMAS, "disks")], &mut told, "2026-12-25T12:00:00Z");
        assert_eq!(look(&edited, &mut told, "2026-12-25T13:00:00Z"), id(&wanted));
        let is_change = told[1].said.instead_of.is_some();
        assert_eq!(is_change, !wanted.ends_with("cancelled"));
        if is_change {
            assert_eq!(told[1].said.instead_of.as_ref(), Some(&told[0].said.occurrence));
        }
    }
    // A reason that was reworded says nothing; what is over is not called off.
    let mut told = Vec::new();
    look(&[window(CHRISTMAS, "disks")], &mut told, "2026-12-25T12:00:00Z");
    assert!(look(&[window(CHRISTMAS, "new disks")], &mut told, "2026-12-25T13:00:00Z").is_empty());
    assert!(look(&[], &mut told, "2026-12-26T03:00:00Z").is_empty());
}

#[test]
fn what_moved_is_announced_before_its_new_beginning_too() {
    let mut told = Vec::new();
    look(&[window(CHRISTMAS, "disks")], &mut told, "2026-12-25T12:00:00Z");
    let later = [window(("2027-01-09 02:00", "2027-01-09 04:00"), "disks")];
    let key = "20270109t0100z-20270109t0300z-all";
    for (now, stage) in
        [("2026-12-25T13:00:00Z", "changed"), ("2027-01-08T01:00:00Z", "24h"), ("2027-01-09T00:00:00Z", "1h")]
    {
        assert_eq!(look(&later, &mut told, now), id(&format!("{key}/{stage}")));
    }
}

#[test]
fn what_nobody_got_is_withdrawn_in_silence() {
    let mut told = Vec::new();
    look(&[window(CHRISTMAS, "disks")], &mut told, "2026-12-25T12:00:00Z");
    (told[0].is_tried, told[0].is_sent) = (false, false);
    let gone = plan(&[], &told, at("2026-12-25T13:00:00Z"));
    assert_eq!(gone, Plan { say: Vec::new(), withdraw: id(&format!("{KEY}/24h")) });
    // Where somebody may have got it, it is called off, and not announced late besides.
    told[0].is_tried = true;
    let gone = plan(&[], &told, at("2026-12-25T13:00:00Z"));
    assert_eq!(gone.withdraw, id(&format!("{KEY}/24h")));
    assert_eq!(gone.say[0].id, id(&format!("{KEY}/cancelled"))[0]);
}

#[test]
fn what_comes_back_is_announced_anew_but_not_for_ever() {
    let (with, without) = ([window(CHRISTMAS, "disks")], []);
    let mut told = Vec::new();
    let mut said = Vec::new();
    // Two nodes of different files look in turns, every minute.
    let mut now = at("2026-12-25T12:00:00Z");
    for turn in 0..120 {
        let windows: &[Window] = if turn % 2 == 0 { &with } else { &without };
        let Plan { say, withdraw } = stored(windows, &mut told, now, (true, true));
        assert!(withdraw.is_empty());
        said.extend(say.iter().map(|saying| saying.id.trim_start_matches("maintenance/").to_owned()));
        now += SignedDuration::from_mins(1);
    }
    let wanted: Vec<String> = ["24h", "cancelled", "24h-2", "cancelled-2", "24h-3", "cancelled-3"]
        .map(|stage| format!("{KEY}/{stage}/dba"))
        .into();
    assert_eq!(said, wanted);
    // What is not announced any more takes the place of nothing.
    let other = window(("2026-12-26 03:00", "2026-12-26 05:00"), "disks");
    look(&[other], &mut told, "2026-12-25T15:00:00Z");
    let off = id("20261226t0200z-20261226t0400z-all/cancelled");
    assert_eq!(look(&with, &mut told, "2026-12-25T16:00:00Z"), off);
}

#[test]
fn a_node_whose_files_are_old_says_nothing_of_what_is_new() {
    let later = window(("2027-01-09 02:00", "2027-01-09 04:00"), "disks");
    let sooner = window(("2026-12-26 03:00", "2026-12-26 05:00"), "disks");
    for (old, then) in [(vec![], "cancelled"), (vec![later], "changed"), (vec![sooner], "24h")] {
        let mut told = Vec::new();
        look(&[window(CHRISTMAS, "disks")], &mut told, "2026-12-25T12:00:00Z");
        for now in ["2026-12-25T12:00:05Z", "2026-12-25T12:04:59Z"] {
            assert!(look(&old, &mut told, now).is_empty(), "{then}");
        }
        assert!(look(&[window(CHRISTMAS, "disks")], &mut told, "2026-12-25T12:04:59Z").is_empty());
        assert_eq!(stages(&plan(&old, &told, at("2026-12-25T12:05:00Z"))), [then]);
    }
}

#[test]
fn a_change_that_was_not_told_ends_nothing() {
    let later = [window(("2027-01-09 02:00", "2027-01-09 04:00"), "disks")];
    for is_tried in [false, true] {
        let mut told = Vec::new();
        look(&[window(CHRISTMAS, "disks")], &mut told, "2026-12-25T12:00:00Z");
        let changed = stored(&later, &mut told, at("2026-12-25T13:00:00Z"), (is_tried, false));
        assert_eq!(stages(&changed), ["changed"]);
        let mut said = Vec::new();
        for now in ["2026-12-25T14:00:00Z", "2026-12-25T14:00:05Z", "2026-12-25T14:00:10Z"] {
            said.extend(stored(&[], &mut told, at(now), (true, true)).say.into_iter().map(|saying| saying.id));
        }
        let first = id(&format!("{KEY}/cancelled"));
        let second = id("20270109t0100z-20270109t0300z-all/cancelled");
        assert_eq!(said, if is_tried { [second, first].concat() } else { first });
    }
}

#[test]
fn what_was_withdrawn_is_said_when_it_is_true_again() {
    let with = [window(CHRISTMAS, "disks")];
    for is_tried in [false, true] {
        // An announcement.
        let mut told = Vec::new();
        let announced = stored(&with, &mut told, at("2026-12-25T12:00:00Z"), (is_tried, false));
        let gone = stored(&[], &mut told, at("2026-12-25T12:01:00Z"), (true, true));
        assert_eq!(gone, Plan { say: Vec::new(), withdraw: id(&format!("{KEY}/24h")) });
        assert_eq!(plan(&[], &told, at("2026-12-25T12:02:00Z")), Plan::default());
        let back = stored(&with, &mut told, at("2026-12-25T12:02:00Z"), (true, true));
        assert_eq!(back, announced);
        // That it is called off, and then anew what may have been heard of.
        let off = stored(&[], &mut told, at("2026-12-25T13:00:00Z"), (is_tried, false));
        assert_eq!(stages(&off), ["cancelled"]);
        assert_eq!(plan(&with, &told, at("2026-12-25T13:04:00Z")), Plan::default(), "files may differ");
        let back = stored(&with, &mut told, at("2026-12-25T13:05:00Z"), (true, true));
        assert_eq!(back.withdraw, id(&format!("{KEY}/cancelled")));
        assert_eq!(stages(&back), if is_tried { vec!["24h-2"] } else { vec![] });
        assert_eq!(plan(&with, &told, at("2026-12-25T13:05:05Z")), Plan::default());
        let off = plan(&[], &told, at("2026-12-25T14:00:00Z"));
        assert_eq!(stages(&off), [if is_tried { "cancelled-2" } else { "cancelled" }]);
    }
}

#[test]
fn each_notifier_is_told_of_its_own_databases() {
    let mut all = window(CHRISTMAS, "disks");
    all.told.insert("oncall".parse().unwrap(), concerned(&["wallet"]));
    let said = plan(&[all], &[], at("2026-12-25T12:00:00Z")).say;
    let of = |saying: &Saying| saying.said.databases.iter().map(|one| one.database.to_string()).collect::<Vec<_>>();
    let told: Vec<_> = said.iter().map(|saying| (saying.notifier.as_str(), of(saying))).collect();
    assert_eq!(told, [("dba", vec!["wallet".to_owned(), "ledger".to_owned()]), ("oncall", vec!["wallet".to_owned()])]);
    // One that names databases is another than one for all.
    let mut named = window(CHRISTMAS, "disks");
    named.scope = vec!["wallet".parse().unwrap()];
    let id = &plan(&[named], &[], at("2026-12-25T12:00:00Z")).say[0].id;
    assert!(id.starts_with("maintenance/20261226t0100z-20261226t0300z-") && !id.contains("-all/"), "{id}");
}

#[test]
fn a_notice_names_databases_times_reason_and_what_is_held() {
    let mut told = Vec::new();
    let announced = plan(&[window(CHRISTMAS, "new\ndisks")], &told, at("2026-12-25T12:00:00Z")).say;
    let now = at("2026-12-25T12:00:00Z");
    let told_of = notice(&announced[0], now).unwrap();
    assert_eq!(told_of.topic, Topic::MaintenanceAnnounced);
    assert_eq!(
        told_of.title,
        "Maintenance: wallet, ledger, Sat 2026-12-26 02:00:00 CET to Sat 2026-12-26 04:00:00 CET"
    );
    assert_eq!(
        told_of.text,
        "Reason: new disks\n\
         wallet: Sat 2026-12-26 02:00:00 CET to Sat 2026-12-26 04:00:00 CET (Europe/Malta)\n\
         ledger: Sat 2026-12-26 01:00:00 UTC to Sat 2026-12-26 03:00:00 UTC (UTC)\n\
         UTC: 2026-12-26T01:00:00Z to 2026-12-26T03:00:00Z\n\
         Held: backups and restore tests by schedule, and drills.\n\
         Not held: WAL and heartbeats, copies, verification, pruning, and restores."
    );
    assert_eq!(told_of.details["stage"], "24h");
    assert_eq!(told_of.details["start"], "2026-12-26T01:00:00Z");
    assert_eq!(serde_json::from_value::<Said>(told_of.details).unwrap(), announced[0].said, "it is read back");

    look(&[window(CHRISTMAS, "disks")], &mut told, "2026-12-25T12:00:00Z");
    let now = at("2026-12-25T12:05:00Z");
    let off = notice(&plan(&[], &told, now).say[0], now).unwrap();
    assert!(
        off.title.starts_with("Maintenance called off: wallet, ledger") && off.text.contains("does not take place")
    );
    let later = [window(("2026-12-26 03:00", "2026-12-26 05:00"), "disks")];
    let changed = notice(&plan(&later, &told, now).say[0], now).unwrap();
    assert!(changed.title.starts_with("Maintenance changed: wallet, ledger, Sat 2026-12-26 03:00:00 CET"));
    assert!(changed.text.contains("Announced before: Sat 2026-12-26 02:00:00 CET to"), "{}", changed.text);
}
