//! Rules of databases that a provider runs, and of those that none does: what belongs to
//! the one makes no sense for the other, and is refused with what to write instead. Where
//! data may be is looked at here first: every region that a schedule names.

use super::{Outside, Report, Spot, outside, require};
use crate::domain::Span;

const DAY: Span = Span::from_secs(86_400);
/// The most that the provider keeps: <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_WorkingWithAutomatedBackups.BackupRetention.html>.
const RETENTION_MAX: Span = Span::from_secs(35 * 86_400);

/// What such databases are found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Instance,
    Cluster,
}

impl Kind {
    const fn key(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Cluster => "cluster",
        }
    }
}

/// Keys of databases that no provider runs, with what to do instead.
const OWN: [(&str, &str); 9] = [
    ("members", "remove it: the provider tells where the database is reached"),
    ("connection", "remove it: the provider tells where the database is reached"),
    ("vaults", "remove it: the provider keeps the snapshots; name where copies go under `snapshot_copies`"),
    ("wal", "remove it, and say how far back every instant can be restored: `automated_backups: {retention: 14d}`"),
    ("copy", "remove it, and name where copies go under `snapshot_copies`"),
    ("verify", "remove it: what the provider keeps cannot be read; a restore test proves it"),
    ("backup_from", "remove it: a snapshot is taken of the storage"),
    ("backup_rate_max", "remove it: a snapshot is taken of the storage"),
    ("tier", "remove it, and write `objectives`: a tier asks for vaults, members and runbooks, which it does not have"),
];

/// Keys of databases that a provider runs, with what to do instead.
const PROVIDERS: [(&str, &str); 6] = [
    ("instance", "name the servers under `members`, or write `engine: rds`"),
    ("cluster", "name the servers under `members`, or write `engine: aurora`"),
    ("region", "name the servers under `members`, or write `engine: rds`"),
    ("roles", "remove it, and say how to log in under `login`"),
    ("automated_backups", "remove it, and write `wal: {stream: true, window: 31d}`"),
    ("snapshot_copies", "remove it, and name further vaults under `vaults`"),
];

/// What a database that no provider runs must not have.
pub(super) fn refuse(schedule: Spot<'_>, report: &mut Report<'_>) {
    for (key, remedy) in PROVIDERS {
        if schedule.get(key).exists() {
            report.add(schedule.key(key), format!("`{key}` is for databases that a provider runs"), remedy);
        }
    }
    for line in schedule.get("backups").items() {
        let kind = line.get("kind");
        if kind.text() == Some("snapshot") {
            report.add(kind.place, "a snapshot is taken by the provider that runs a database", "use `kind: full`");
        }
    }
    let kind = schedule.get("restore_test").get("target").get("kind");
    if kind.text() == Some("rds") {
        report.add(kind.place, "no provider runs this database, so none restores it", "use `kind: local`");
    }
}

pub(super) fn check(daemon: Spot<'_>, schedule: Spot<'_>, kind: Kind, report: &mut Report<'_>) {
    let name = match kind {
        Kind::Instance => ("instance", "The name of its instance at the provider, for `engine: rds`"),
        Kind::Cluster => ("cluster", "The name of its cluster at the provider, for `engine: aurora`"),
    };
    require(schedule, &[name, ("region", "Where the provider runs it, for `engine: rds` and `aurora`")], report);
    let other = if kind == Kind::Instance { Kind::Cluster } else { Kind::Instance }.key();
    if schedule.get(other).exists() {
        let what = format!("`{other}` belongs to the other engine of this provider");
        report.add(schedule.key(other), what, format!("write `{}`, or the other `engine`", kind.key()));
    }
    for (key, remedy) in OWN {
        if schedule.get(key).exists() {
            report.add(schedule.key(key), format!("`{key}` is for databases that no provider runs"), remedy);
        }
    }
    schedule.get("backups").items().for_each(|line| of_line(line, report));
    inside(schedule, schedule.get("region"), "the database is", report);
    automated(schedule, report);
    copies(schedule, report);
    let test = schedule.get("restore_test");
    if test.exists() {
        restore_test(daemon, schedule, test, report);
    }
}

fn of_line(line: Spot<'_>, report: &mut Report<'_>) {
    let kind = line.get("kind");
    if let Some(text) = kind.text().filter(|text| ["full", "incremental", "differential"].contains(text)) {
        let what = format!("a backup of kind `{text}` reads files, and the provider gives none");
        report.add(kind.place, what, "use `kind: snapshot`");
    }
    for key in ["backup_from", "backup_rate_max"] {
        if line.get(key).exists() {
            let what = format!("`{key}` is for databases that no provider runs");
            report.add(line.key(key), what, "remove it: a snapshot is taken of the storage");
        }
    }
}

/// Refuses a region that the data may not be in.
fn inside(schedule: Spot<'_>, region: Spot<'_>, subject: &str, report: &mut Report<'_>) {
    if let Some(Outside { region: named, jurisdiction, allowed }) = outside(schedule, region) {
        report.add(
            region.place,
            format!("{subject} in {named}, outside the residency of {jurisdiction}"),
            format!("use a region of {allowed}, or allow {named} under `residency`"),
        );
    }
}

fn automated(schedule: Spot<'_>, report: &mut Report<'_>) {
    let automated = schedule.get("automated_backups");
    let retention = automated.get("retention");
    if let Some(span) = retention.parsed::<Span>() {
        let is_whole = span.as_duration().as_secs().is_multiple_of(DAY.as_duration().as_secs());
        if !is_whole || !(DAY..=RETENTION_MAX).contains(&span) {
            report.add(
                retention.place,
                format!("the provider keeps its backups for whole days, up to {RETENTION_MAX}, and not for {span}"),
                format!("write `1d` to `{RETENTION_MAX}`"),
            );
        }
    }
    let replicated = automated.get("replicated_to");
    report.refuse_twins(replicated);
    let home = schedule.get("region").text();
    for region in replicated.items() {
        inside(schedule, region, "automated backups are replicated to a region", report);
        if region.text().is_some() && region.text() == home {
            report.add(region.place, "the database itself is in this region", "name another one, or remove it");
        }
    }
}

fn copies(schedule: Spot<'_>, report: &mut Report<'_>) {
    let copies = schedule.get("snapshot_copies");
    let mut seen: Vec<&str> = Vec::new();
    for copy in copies.items() {
        let region = copy.get("region");
        inside(schedule, region, "snapshots are copied to a region", report);
        if let Some(name) = region.text() {
            if seen.contains(&name) {
                report.add(region.place, format!("snapshots are copied to {name} already"), "keep one of the two");
            }
            seen.push(name);
            let is_at_home = schedule.get("region").text() == Some(name);
            if is_at_home && !copy.get("kms_key").exists() {
                report.add(
                    region.place,
                    "a copy in the database's own region, with the same key, protects nothing more",
                    "name another region, or another `kms_key`",
                );
            }
        }
        report.refuse_twins(copy.get("share_with"));
    }
}

fn restore_test(daemon: Spot<'_>, schedule: Spot<'_>, test: Spot<'_>, report: &mut Report<'_>) {
    super::restores_here(daemon, schedule, "the test would read its copy from this node", report);
    let target = test.get("target");
    if target.get("kind").text() == Some("rds") {
        of_target(schedule, target, report);
    } else if !target.exists() || target.get("kind").text() == Some("local") {
        let place = if target.exists() { target.get("kind").place } else { schedule.key("restore_test") };
        report.add(
            place,
            "nothing of what the provider keeps can be restored on this machine",
            "write `target: {kind: rds, subnet_group: …, security_groups: […]}`",
        );
    }
    for check in test.get("checks").items() {
        if check.text() == Some("page_checksums") {
            report.add(
                check.place,
                "`page_checksums` reads files, and the provider gives none",
                "remove it; `amcheck` and `full_read` read all pages over a connection",
            );
        }
    }
    if test.get("self_test").exists() {
        report.add(
            test.key("self_test"),
            "a self-test plants faults into what a vault holds, and this database has none",
            "remove it",
        );
    }
    algorithms(test.get("recovery_point"), report);
}

/// What chooses among vaults and their backups.
fn algorithms(point: Spot<'_>, report: &mut Report<'_>) {
    let algorithm = point.get("algorithm");
    let all = point.get("of").items().chain([algorithm]);
    for one in
        all.filter(|one| ["other_vault", "increment_chain", "catalog_lost"].contains(&one.text().unwrap_or_default()))
    {
        report.add(
            one.place,
            format!("`{}` chooses among what vaults hold, and this database has none", one.text().unwrap_or_default()),
            "use `latest_at_disaster`, `random_within_window` or `oldest`",
        );
    }
}

fn of_target(schedule: Spot<'_>, target: Spot<'_>, report: &mut Report<'_>) {
    inside(schedule, target.get("region"), "the test would restore to a region", report);
    let groups = target.get("security_groups");
    if groups.is_empty() {
        report.add(
            groups.place,
            "without a security group the copy gets that of its VPC, which may let in others",
            "name one that lets in nobody but this node",
        );
    }
    report.refuse_twins(groups);
    report.refuse_zero(target, "ttl", "write how long the copy may live, such as `8h`");
    let (most, hourly) = (target.get("cost_max"), target.get("hourly_cost"));
    if most.exists() && !hourly.exists() {
        report.add(
            target.key("cost_max"),
            "nobody knows what an hour of the copy costs",
            "add `hourly_cost`, as the provider's price list says",
        );
    }
    for (key, amount) in [("cost_max", most), ("hourly_cost", hourly)] {
        if amount.parsed::<f64>().is_some_and(|amount| amount <= 0.0) {
            report.add(amount.place, format!("`{key}` is no price"), "write more than 0, or remove it");
        }
    }
}
