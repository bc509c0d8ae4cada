//! What a tier promises and asks for, and what of it a database lacks: (what is
//! written, what is seen, now) -> an answer per need. `docs/tiers.md` has the
//! same as a table.
//!
//! What must never happen: a need that nobody could look at counts as met, or as
//! lacking. What a person has to do is told before its deadline; what runs by
//! itself is told when it did not.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::{due::Schedule, member};
use crate::domain::{DatabaseName, Objectives, Region, RunbookName, SiteName, Span, Tier};

/// What a tier comes with.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// What is promised where the file says nothing.
    pub objectives: Objectives,
    /// How often a drill has to pass; none where no drill is asked for.
    pub drill_every: Option<SignedDuration>,
    pub needs: &'static [Need],
}

/// Something that a tier asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The file promises no less than the tier.
    Promise,
    /// Servers at two sites.
    Sites,
    /// A standby at another site than the primary's that follows it.
    Standby,
    /// No commit is acknowledged before the vaults have it.
    Commits,
    /// A runbook that moves the primary.
    Runbook,
    /// The same, and the users with it.
    Traffic,
    /// Vaults in two regions.
    Region,
    /// Two vaults.
    Vault,
    /// Restore tests by schedule, each month.
    RestoreTests,
    /// One of them passed within the month.
    Proof,
    /// A drill passed within the tier's time.
    Drill,
}

impl Need {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promise => "promise",
            Self::Sites => "sites",
            Self::Standby => "standby",
            Self::Commits => "commits",
            Self::Runbook => "runbook",
            Self::Traffic => "traffic",
            Self::Region => "region",
            Self::Vault => "vault",
            Self::RestoreTests => "restore_tests",
            Self::Proof => "proof",
            Self::Drill => "drill",
        }
    }
}

const DAY: SignedDuration = SignedDuration::from_hours(24);
/// A month, whatever its length, and an hour that the clocks are put back.
const MONTH: SignedDuration = SignedDuration::from_hours(32 * 24);
/// Three months, whatever their length.
const QUARTER: SignedDuration = SignedDuration::from_hours(92 * 24);
/// A month, and the days by which a blackout may shift a restore test.
const PROVEN_WITHIN: SignedDuration = SignedDuration::from_hours(36 * 24);
/// Over so long the times of restore tests are looked at.
const YEAR: SignedDuration = SignedDuration::from_hours(366 * 24);

/// What each tier promises, and what it asks for.
///
/// A recovery point of "about nothing" is 1 s: heartbeats come every second, so that
/// a loss of less cannot be told from none.
pub const fn terms(tier: Tier) -> Terms {
    use Need::{Commits, Drill, Promise, Proof, Region, RestoreTests, Runbook, Sites, Standby, Traffic, Vault};
    let (rto, rpo, drill_every, needs): (u64, u64, _, &'static [Need]) = match tier {
        Tier::ActiveActive => {
            (30, 1, Some(MONTH), &[Promise, Sites, Standby, Commits, Traffic, Region, RestoreTests, Proof, Drill])
        }
        Tier::WarmStandby => {
            (5 * 60, 60, Some(QUARTER), &[Promise, Sites, Standby, Runbook, Region, RestoreTests, Proof, Drill])
        }
        Tier::PilotLight => (30 * 60, 15 * 60, None, &[Promise, Region, RestoreTests, Proof]),
        Tier::BackupOnly => (60 * 60, 15 * 60, None, &[Promise, Vault, RestoreTests, Proof]),
    };
    let objectives = Objectives { rto: Span::from_secs(rto), rpo: Span::from_secs(rpo) };
    Terms { objectives, drill_every, needs }
}

/// What the files say.
#[derive(Debug, Clone)]
pub struct Written {
    pub tier: Tier,
    pub database: DatabaseName,
    /// As they are held against what is measured.
    pub objectives: Objectives,
    /// Of each server.
    pub sites: Vec<SiteName>,
    /// Of each vault.
    pub regions: Vec<Region>,
    /// What the residency allows; empty where anything is.
    pub allowed: BTreeSet<Region>,
    /// Those of the database.
    pub runbooks: Vec<Runbook>,
    /// Whether those by schedule are monthly; none where none are.
    pub tested_monthly: Option<bool>,
}

/// A runbook of the database.
#[derive(Debug, Clone)]
pub struct Runbook {
    pub name: RunbookName,
    pub moves_users: bool,
}

/// What is known beside the files; none where nobody looked, or could.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// What the servers say of themselves, each with its site.
    pub members: Option<Vec<(SiteName, member::Seen)>>,
    /// Whether no commit is acknowledged before the vaults have it.
    pub commits_wait: Option<bool>,
    pub evidence: Option<Proven>,
}

/// What the evidence tells.
#[derive(Debug, Clone, Default)]
pub struct Proven {
    /// When the oldest backup of all was there.
    pub backed_up_at: Option<Timestamp>,
    /// When a restore test last passed.
    pub tested_at: Option<Timestamp>,
    /// When a drill last passed, and which.
    pub drilled: Option<(Timestamp, String)>,
}

/// What becomes of a need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Met,
    /// What is lacking, and what to do.
    Lacks(String),
    Unknown,
}

/// An answer to each need of the tier. What a person is told by one need is not told
/// again by another that follows from it.
pub fn look(written: &Written, seen: &Seen, now: Timestamp) -> Vec<(Need, Answer)> {
    let answer = |need: &Need| {
        let answer = match need {
            Need::Promise => promise(written),
            Need::Sites => sites(written),
            Need::Standby => standby(written, seen),
            Need::Commits => commits(written, seen),
            Need::Runbook => runbook(written),
            Need::Traffic => traffic(written),
            Need::Region => region(written),
            Need::Vault => vault(written),
            Need::RestoreTests => restore_tests(written),
            Need::Proof => proof(written, seen, now),
            Need::Drill => drill(written, seen, now),
        };
        (*need, answer)
    };
    terms(written.tier).needs.iter().map(answer).collect()
}

fn told(written: &Written, text: impl std::fmt::Display) -> Answer {
    Answer::Lacks(format!("tier `{}` {text}", written.tier.as_str()))
}

fn promise(written: &Written) -> Answer {
    let (promised, own) = (terms(written.tier).objectives, written.objectives);
    let weaker = [("RTO", promised.rto, own.rto), ("RPO", promised.rpo, own.rpo)].into_iter();
    let weaker = weaker.filter(|(_, promised, own)| own > promised);
    let weaker: Vec<String> =
        weaker.map(|(name, promised, own)| format!("{name} {promised}, and the file says {own}")).collect();
    match weaker.as_slice() {
        [] => Answer::Met,
        weaker => told(written, format!("promises {}: change the tier or the objective", weaker.join(", and "))),
    }
}

fn sites(written: &Written) -> Answer {
    let sites: BTreeSet<&SiteName> = written.sites.iter().collect();
    let now = match (written.sites.len(), sites.first()) {
        _ if sites.len() > 1 => return Answer::Met,
        (2.., Some(site)) => format!("all servers are at `{site}`"),
        _ => "there is one server".to_owned(),
    };
    told(written, format!("asks for a standby at another site, and {now}: name one under `members`"))
}

fn standby(written: &Written, seen: &Seen) -> Answer {
    if sites(written) != Answer::Met {
        return Answer::Met;
    }
    let Some(members) = &seen.members else { return Answer::Unknown };
    let states = || members.iter().filter_map(|(site, seen)| Some((site, seen.state.as_ref().ok()?)));
    let primary = states().filter(|(_, state)| !state.is_standby).max_by_key(|(_, state)| (state.timeline, state.lsn));
    let Some((home, primary)) = primary else { return Answer::Unknown };
    let primary =
        member::Primary { system_id: primary.system_id.clone(), timeline: primary.timeline, lsn: primary.lsn };
    let mut unfit = Vec::new();
    for (_, seen) in members.iter().filter(|(site, _)| site != home) {
        let why = match &seen.state {
            Err(why) => why.clone(),
            Ok(state) if !state.is_standby => format!("`{}` is a primary, too", seen.member),
            Ok(state) => match member::hindrance(state, &primary) {
                Some(why) => format!("standby `{}` {why}", seen.member),
                None => return Answer::Met,
            },
        };
        unfit.push(why);
    }
    told(written, format!("asks for a standby at another site, and none follows the primary: {}", unfit.join("; ")))
}

fn commits(written: &Written, seen: &Seen) -> Answer {
    match seen.commits_wait {
        None => Answer::Unknown,
        Some(true) => Answer::Met,
        Some(false) => told(
            written,
            "promises that nothing is lost, and the primary acknowledges commits before the vaults have them: put \
             `lifeboat` into its `synchronous_standby_names` so that each commit waits for it",
        ),
    }
}

fn runbook(written: &Written) -> Answer {
    if !written.runbooks.is_empty() {
        return Answer::Met;
    }
    let what = format!("asks for a runbook that moves the primary, and none names `{}`", written.database);
    told(written, format!("{what}: write one as runbooks/NAME.yaml"))
}

fn traffic(written: &Written) -> Answer {
    match written.runbooks.as_slice() {
        [] => runbook(written),
        runbooks if runbooks.iter().any(|runbook| runbook.moves_users) => Answer::Met,
        runbooks => told(
            written,
            format!("asks for a runbook that moves the users too: add a step `dns` to {}", names(runbooks)),
        ),
    }
}

fn names(runbooks: &[Runbook]) -> String {
    let names: Vec<String> = runbooks.iter().map(|runbook| format!("`{}`", runbook.name)).collect();
    names.join(" or ")
}

fn region(written: &Written) -> Answer {
    let regions: BTreeSet<&Region> = written.regions.iter().collect();
    let Some(home) = regions.first().filter(|_| regions.len() == 1) else { return Answer::Met };
    let others: Vec<&str> = written.allowed.iter().filter(|region| region != home).map(Region::as_str).collect();
    if written.allowed.is_empty() || !others.is_empty() {
        let other = if others.is_empty() { "another region".to_owned() } else { others.join(" or ") };
        let what = format!("asks for a copy in another region, and all vaults are in {home}");
        return told(written, format!("{what}: name a vault in {other} under `vaults`"));
    }
    if written.regions.len() > 1 {
        return Answer::Met;
    }
    let what = format!("asks for a copy elsewhere, and there is one vault; the residency allows {home} alone");
    told(written, format!("{what}: name a second vault in {home}, in another place, under `vaults`"))
}

fn vault(written: &Written) -> Answer {
    if written.regions.len() > 1 {
        return Answer::Met;
    }
    told(written, "asks for a second vault, and there is one: name another under `vaults`")
}

fn restore_tests(written: &Written) -> Answer {
    let what = match written.tested_monthly {
        Some(true) => return Answer::Met,
        Some(false) => "`restore_test` is due less often: change its `cron`",
        None => "none is scheduled: add `restore_test`",
    };
    told(written, format!("asks for a restore test each month, and {what}"))
}

/// Whether no month passes without a due time, over a year from `now` on.
pub fn is_monthly(due: &Schedule, now: Timestamp) -> bool {
    let end = now + YEAR;
    let mut at = now;
    while at < end {
        // The last one that is not too late, so that a test of every minute costs no more.
        match due.latest_due(at, at + MONTH) {
            Some(next) => at = next,
            None => return false,
        }
    }
    true
}

/// The scheduler sees to it: a database that is new is given the same time.
fn proof(written: &Written, seen: &Seen, now: Timestamp) -> Answer {
    let Some(proven) = &seen.evidence else { return Answer::Unknown };
    if written.tested_monthly.is_none() {
        return Answer::Met;
    }
    let is_old = |at: &Timestamp| now.duration_since(*at) > PROVEN_WITHIN;
    let what = match (proven.tested_at, proven.backed_up_at) {
        (Some(at), _) if is_old(&at) => format!("the last one that passed was on {}", day(at)),
        (None, Some(at)) if is_old(&at) => format!("none has passed since the first backup on {}", day(at)),
        _ => return Answer::Met,
    };
    let remedy = format!("run `lifeboat restore-test {}`, and see why they do not pass", written.database);
    told(written, format!("asks for a restore test each month, and {what}: {remedy}"))
}

/// A person has to ask for it: told when three quarters of the time have passed.
fn drill(written: &Written, seen: &Seen, now: Timestamp) -> Answer {
    let Some(every) = terms(written.tier).drill_every.filter(|_| !written.runbooks.is_empty()) else {
        return Answer::Met;
    };
    let Some(proven) = &seen.evidence else { return Answer::Unknown };
    let asks = format!("asks for a drill every {} days", every.as_hours() / DAY.as_hours());
    let remedy = {
        let commands: Vec<String> =
            written.runbooks.iter().map(|runbook| format!("`lifeboat drill {}`", runbook.name)).collect();
        format!("run {}", commands.join(" or "))
    };
    let Some((at, runbook)) = &proven.drilled else {
        return told(written, format!("{asks}, and none has passed yet: {remedy}"));
    };
    let due = *at + every;
    if now < due - every / 4 {
        return Answer::Met;
    }
    let next = if now < due { "the next is due by" } else { "one was due by" };
    told(
        written,
        format!("{asks}, and {next} {}; the last that passed was `{runbook}` on {}: {remedy}", day(due), day(*at)),
    )
}

fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

#[cfg(test)]
mod tests;
