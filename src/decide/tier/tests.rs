//! A table per need: what is lacking is told with its remedy, once.

use super::*;
use crate::domain::{Lsn, Timeline};

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn days_ago(days: i64) -> Timestamp {
    now() - DAY * i32::try_from(days).unwrap()
}

/// An estate that lacks nothing.
fn written(tier: Tier) -> Written {
    Written {
        tier,
        database: "wallet".parse().unwrap(),
        objectives: terms(tier).objectives,
        sites: ["mt-a", "mt-b"].map(|site| site.parse().unwrap()).to_vec(),
        regions: ["eu-south-1", "eu-central-1"].map(|region| region.parse().unwrap()).to_vec(),
        allowed: BTreeSet::new(),
        runbooks: vec![Runbook { name: "switch".parse().unwrap(), moves_users: true }],
        tested_monthly: Some(true),
    }
}

fn member(name: &str, site: &str, is_standby: bool) -> (SiteName, member::Seen) {
    let (system_id, timeline, lsn) = ("7".to_owned(), Timeline(1), Lsn(100));
    let state = Ok(member::State { is_standby, system_id, timeline, lsn });
    (site.parse().unwrap(), member::Seen { member: name.parse().unwrap(), state })
}

fn seen() -> Seen {
    Seen {
        members: Some(vec![member("a", "mt-a", false), member("b", "mt-b", true)]),
        commits_wait: Some(true),
        evidence: Some(Proven {
            backed_up_at: Some(days_ago(300)),
            tested_at: Some(days_ago(10)),
            drilled: Some((days_ago(10), "switch".to_owned())),
        }),
    }
}

/// All that is lacking, by need.
fn lacks(written: &Written, seen: &Seen) -> Vec<(Need, String)> {
    let answers = look(written, seen, now()).into_iter();
    let lacking = answers.filter_map(|(need, answer)| match answer {
        Answer::Lacks(what) => Some((need, what)),
        Answer::Met | Answer::Unknown => None,
    });
    lacking.collect()
}

#[track_caller]
fn assert_lacks(written: &Written, seen: &Seen, need: Need, words: &[&str]) {
    let lacks = lacks(written, seen);
    let [(only, told)] = &lacks[..] else { panic!("{need:?}: {lacks:#?}") };
    assert_eq!(*only, need, "{told}");
    for word in words.iter().chain([&written.tier.as_str()]) {
        assert!(told.contains(word), "`{word}` is not in: {told}");
    }
}

#[test]
fn each_tier_has_its_terms() {
    use Need::{Commits, Drill, Promise, Proof, Region, RestoreTests, Runbook, Sites, Standby, Traffic, Vault};
    let all = [Promise, RestoreTests, Proof];
    for (tier, rto, rpo, drills, more) in [
        (Tier::ActiveActive, "30s", "1s", Some(32), vec![Sites, Standby, Commits, Traffic, Region, Drill]),
        (Tier::WarmStandby, "5m", "1m", Some(92), vec![Sites, Standby, Runbook, Region, Drill]),
        (Tier::PilotLight, "30m", "15m", None, vec![Region]),
        (Tier::BackupOnly, "1h", "15m", None, vec![Vault]),
    ] {
        let Terms { objectives, drill_every, needs } = terms(tier);
        assert_eq!((objectives.rto.to_string(), objectives.rpo.to_string()), (rto.to_owned(), rpo.to_owned()));
        assert_eq!(drill_every.map(|every| every.as_hours() / 24), drills, "{tier:?}");
        let needs: BTreeSet<Need> = needs.iter().copied().collect();
        assert_eq!(needs, all.into_iter().chain(more).collect(), "{tier:?}");
        assert_eq!(look(&written(tier), &seen(), now()).iter().filter(|(_, answer)| *answer != Answer::Met).count(), 0);
    }
}

#[test]
fn what_nobody_could_look_at_is_neither_met_nor_lacking() {
    let unknown = |seen: &Seen| {
        let answers = look(&written(Tier::ActiveActive), seen, now()).into_iter();
        answers.filter(|(_, answer)| *answer == Answer::Unknown).map(|(need, _)| need).collect::<Vec<_>>()
    };
    assert_eq!(unknown(&Seen::default()), [Need::Standby, Need::Commits, Need::Proof, Need::Drill]);
    assert_eq!(lacks(&written(Tier::ActiveActive), &Seen::default()), []);
    // Without a primary nobody knows whom a standby should follow.
    let members = Some(vec![member("a", "mt-a", true), member("b", "mt-b", true)]);
    assert_eq!(unknown(&Seen { members, ..seen() }), [Need::Standby]);
}

#[test]
fn a_weaker_objective_is_told_with_what_the_tier_promises() {
    let promised = |rto, rpo| {
        let mut written = written(Tier::WarmStandby);
        written.objectives = Objectives { rto: Span::from_secs(rto), rpo: Span::from_secs(rpo) };
        written
    };
    assert_eq!(lacks(&promised(200, 0), &seen()), [], "more may always be promised");
    assert_lacks(&promised(3600, 60), &seen(), Need::Promise, &["RTO 5m, and the file says 1h", "change the tier"]);
    assert_lacks(&promised(301, 900), &seen(), Need::Promise, &["RTO 5m", "5m1s, and RPO 1m, and the file says 15m"]);
}

#[test]
fn a_standby_at_another_site_follows_the_primary() {
    let mut one_site = written(Tier::WarmStandby);
    one_site.sites = vec!["mt-a".parse().unwrap(); 2];
    assert_lacks(&one_site, &seen(), Need::Sites, &["all servers are at `mt-a`", "under `members`"]);
    one_site.sites.truncate(1);
    assert_lacks(&one_site, &seen(), Need::Sites, &["there is one server"]);

    let with = |spoil: &dyn Fn(&mut member::Seen)| {
        let (site, mut standby) = member("b", "mt-b", true);
        spoil(&mut standby);
        // One at the primary's own site does not help.
        let members = vec![member("a", "mt-a", false), (site, standby), member("c", "mt-a", true)];
        Seen { members: Some(members), ..seen() }
    };
    let state = |change: &dyn Fn(&mut member::State)| with(&|standby| change(standby.state.as_mut().unwrap()));
    for (seen, word) in [
        (with(&|standby| standby.state = Err("member `b` cannot be reached".to_owned())), "`b` cannot be reached"),
        (state(&|state| state.system_id = "8".to_owned()), "belongs to another cluster"),
        (state(&|state| state.timeline = Timeline(0)), "is on timeline 0"),
        (state(&|state| (state.is_standby, state.lsn) = (false, Lsn(50))), "`b` is a primary, too"),
    ] {
        assert_lacks(&written(Tier::WarmStandby), &seen, Need::Standby, &["none follows the primary", word]);
    }
    assert_eq!(lacks(&written(Tier::WarmStandby), &with(&|_| {})), []);
    let restored = written(Tier::PilotLight);
    assert_eq!(lacks(&Written { sites: Vec::new(), ..restored }, &Seen { members: None, ..seen() }), []);
}

#[test]
fn commits_wait_and_a_runbook_moves_primary_and_users() {
    let seen_late = Seen { commits_wait: Some(false), ..seen() };
    assert_lacks(&written(Tier::ActiveActive), &seen_late, Need::Commits, &["synchronous_standby_names", "`lifeboat`"]);
    assert_eq!(lacks(&written(Tier::WarmStandby), &seen_late), []);

    for (tier, need) in [(Tier::ActiveActive, Need::Traffic), (Tier::WarmStandby, Need::Runbook)] {
        let mut none = written(tier);
        none.runbooks.clear();
        // There is nothing to drill, which is not told twice.
        let mut never = seen();
        never.evidence.as_mut().unwrap().drilled = None;
        assert_lacks(&none, &never, need, &["none names `wallet`", "runbooks/NAME.yaml"]);
    }
    let mut standing = written(Tier::ActiveActive);
    standing.runbooks[0].moves_users = false;
    assert_lacks(&standing, &seen(), Need::Traffic, &["a step `dns` to `switch`"]);
    standing.tier = Tier::WarmStandby;
    assert_eq!(lacks(&standing, &seen()), []);
}

#[test]
fn a_copy_is_elsewhere_as_far_as_the_residency_allows() {
    let with = |regions: &[&str], allowed: &[&str]| {
        let mut written = written(Tier::PilotLight);
        written.regions = regions.iter().map(|region| region.parse().unwrap()).collect();
        written.allowed = allowed.iter().map(|region| region.parse().unwrap()).collect();
        written
    };
    let (a, b) = ("eu-south-1", "eu-central-1");
    for (regions, allowed, words) in [
        (&[a][..], &[][..], ["all vaults are in eu-south-1", "a vault in another region"]),
        (&[a, a], &[], ["all vaults are in eu-south-1", "a vault in another region"]),
        (&[a, a], &[a, b], ["all vaults are in eu-south-1", "a vault in eu-central-1"]),
        (&[a], &[a], ["the residency allows eu-south-1 alone", "a second vault in eu-south-1"]),
    ] {
        assert_lacks(&with(regions, allowed), &seen(), Need::Region, &words);
    }
    for (regions, allowed) in [(&[a, b][..], &[][..]), (&[a, b], &[a, b]), (&[a, a], &[a])] {
        assert_eq!(lacks(&with(regions, allowed), &seen()), [], "{regions:?} {allowed:?}");
    }
    let mut only = with(&[a], &[]);
    only.tier = Tier::BackupOnly;
    only.objectives = terms(Tier::BackupOnly).objectives;
    assert_lacks(&only, &seen(), Need::Vault, &["a second vault", "there is one"]);
    only.regions.push(a.parse().unwrap());
    assert_eq!(lacks(&only, &seen()), []);
}

#[test]
fn restore_tests_are_due_in_each_month() {
    let is_monthly = |cron: &str| is_monthly(&Schedule::parse(cron, "Europe/Malta").unwrap(), now());
    for cron in ["0 5 1 * *", "30 2 28 * *", "0 5 * * 0", "*/5 * * * *", "* * * * * *"] {
        assert!(is_monthly(cron), "{cron}");
    }
    for cron in ["0 5 1 1,4,7,10 *", "0 5 1 1-11 *", "0 5 31 * *", "0 5 29 2 *"] {
        assert!(!is_monthly(cron), "{cron}");
    }
    let seldom = Written { tested_monthly: Some(false), ..written(Tier::BackupOnly) };
    assert_lacks(&seldom, &seen(), Need::RestoreTests, &["less often", "`cron`"]);
    let none = Written { tested_monthly: None, ..written(Tier::BackupOnly) };
    let mut never = seen();
    never.evidence.as_mut().unwrap().tested_at = None;
    assert_lacks(&none, &never, Need::RestoreTests, &["none is scheduled", "add `restore_test`"]);
}

#[test]
fn a_restore_test_has_passed_within_the_month_and_a_new_database_is_waited_for() {
    for (backed_up, tested, told) in [
        (None, None, None),
        (Some(36), None, None),
        (Some(37), None, Some("since the first backup on 2026-10-14")),
        (Some(300), Some(36), None),
        (Some(300), Some(37), Some("passed was on 2026-10-14")),
        // The first backup is gone from the evidence of a new state.
        (None, Some(37), Some("passed was on 2026-10-14")),
    ] {
        let mut seen = seen();
        let proven = seen.evidence.as_mut().unwrap();
        (proven.backed_up_at, proven.tested_at) = (backed_up.map(days_ago), tested.map(days_ago));
        let written = written(Tier::PilotLight);
        match told {
            None => assert_eq!(lacks(&written, &seen), [], "{backed_up:?} {tested:?}"),
            Some(told) => assert_lacks(&written, &seen, Need::Proof, &[told, "`lifeboat restore-test wallet`"]),
        }
    }
}

#[test]
fn a_drill_that_comes_due_is_told_ahead() {
    for (tier, ago, told) in [
        (Tier::WarmStandby, 68, None),
        (Tier::WarmStandby, 70, Some("the next is due by 2026-12-12; the last that passed was `switch` on 2026-09-11")),
        (Tier::WarmStandby, 91, Some("the next is due by 2026-11-21")),
        (Tier::WarmStandby, 92, Some("one was due by 2026-11-20")),
        (Tier::ActiveActive, 23, None),
        (Tier::ActiveActive, 25, Some("every 32 days, and the next is due by 2026-11-27")),
        (Tier::ActiveActive, 40, Some("one was due by 2026-11-12")),
    ] {
        let mut seen = seen();
        seen.evidence.as_mut().unwrap().drilled = Some((days_ago(ago), "switch".to_owned()));
        match told {
            None => assert_eq!(lacks(&written(tier), &seen), [], "{tier:?} {ago}"),
            Some(told) => assert_lacks(&written(tier), &seen, Need::Drill, &[told, "run `lifeboat drill switch`"]),
        }
    }
    let mut never = seen();
    never.evidence.as_mut().unwrap().drilled = None;
    let mut several = written(Tier::WarmStandby);
    several.runbooks.push(Runbook { name: "back".parse().unwrap(), moves_users: false });
    let words = ["none has passed yet", "`lifeboat drill switch` or `lifeboat drill back`"];
    assert_lacks(&several, &never, Need::Drill, &words);
    assert_eq!(lacks(&written(Tier::PilotLight), &never), [], "where a restore is the recovery, its test rehearses it");
}
