//! `lifeboat status`: are we recoverable, to which second, how long would it
//! take, when was it last proven. `lifeboat findings`: what a person must fix.

use anyhow::Result;
use jiff::Timestamp;

use super::{Invocation, age, open};
use crate::{
    app::Role,
    domain::{Lever, Node, Verdict},
    report::{
        groups::Group,
        managed::RegionStatus,
        points,
        status::{DatabaseStatus, EstateStatus, Finding, LastRestoreTest},
        words,
    },
};

pub async fn run(invocation: &Invocation) -> Result<u8> {
    let app = open(invocation, Role::WithoutDns).await?;
    let status = app.status().await?;
    invocation.print(&status, text)?;
    Ok(status.verdict.exit_code())
}

/// A row for each database.
fn databases(status: &EstateStatus) -> String {
    let mut table = super::table([
        "database",
        "verdict",
        "recoverable to",
        "exposure",
        "newest backup",
        "last proven",
        "would take",
    ]);
    for database in &status.databases {
        let exposure: Vec<String> = database
            .exposure
            .iter()
            .map(|vault| {
                format!(
                    "{}: {}",
                    vault.vault,
                    vault.seconds.map_or("unknown".to_owned(), |seconds| format!("{seconds:.0} s"))
                )
            })
            .collect();
        table.add_row([
            database.database.to_string(),
            database.verdict.to_string(),
            database.recoverable_to.map_or("nothing".to_owned(), |at| words::instant(&at)),
            exposure.join("\n"),
            database.newest_backup.as_ref().map_or("none".to_owned(), |backup| {
                format!(
                    "{} ({}, {})",
                    backup.id,
                    backup.state.as_str(),
                    age(status.generated_at.duration_since(backup.finished_at))
                )
            }),
            last_proven(database.last_proven.as_ref(), database.last_restore_test.as_ref()),
            database
                .would_take_seconds
                .map_or("unknown".to_owned(), |seconds| format!("about {}", words::seconds(&seconds))),
        ]);
    }
    for database in &status.managed {
        let exposure = |region: &RegionStatus| {
            let seconds = region.exposure_seconds.map_or("unknown".to_owned(), |seconds| format!("{seconds:.0} s"));
            format!("{}: {seconds}", region.region)
        };
        table.add_row([
            database.database.to_string(),
            database.verdict.to_string(),
            database.recoverable_to.map_or("nothing".to_owned(), |at| format!("{} (claimed)", words::instant(&at))),
            database.regions.iter().map(exposure).collect::<Vec<_>>().join("\n"),
            database.newest_snapshot.as_ref().map_or("none".to_owned(), |snapshot| snapshot.id.clone()),
            last_proven(database.last_proven.as_ref(), database.last_restore_test.as_ref()),
            "unknown".to_owned(),
        ]);
    }
    table.to_string()
}

fn text(status: &EstateStatus) -> String {
    let table = databases(status);
    let groups: String = shown(&status.groups).map(|group| told(group, status.generated_at)).collect();
    let mut text = format!("{}\n{groups}{table}{}", status.headline, lever_line(&status.lever));
    for database in &status.databases {
        let tier = database.tier.map_or_else(String::new, |tier| format!(" (tier {})", tier.as_str()));
        text = format!("{text}\n{}{tier}: {}", database.database, database.headline);
    }
    for database in &status.managed {
        text = format!("{text}\n{}: {}", database.database, database.headline);
        for region in &database.regions {
            text = format!("{text}\n{}: {}", database.database, region.in_words());
        }
    }
    for (database, vault) in status.databases.iter().flat_map(|of| of.exposure.iter().map(move |one| (of, one))) {
        text = format!(
            "{text}\n{}: exposure of {} in the last day: {}",
            database.database,
            vault.vault,
            words::exposure_over(&vault.last_day)
        );
    }
    for (database, window) in status.databases.iter().flat_map(|of| of.broken_windows.iter().map(move |one| (of, one)))
    {
        text = format!("{text}\n{}: BROKEN WINDOW: {}", database.database, window.message);
    }
    for (database, on_primary) in status.databases.iter().filter_map(|of| Some((of, of.wal_on_primary.as_ref()?))) {
        text = format!("{text}\n{}: WAL on the primary: {}", database.database, on_primary.in_words());
    }
    for (database, seen) in status.databases.iter().flat_map(|of| of.wal_on_standbys.iter().map(move |one| (of, one))) {
        text = format!("{text}\n{}: WAL on standby {}: {}", database.database, seen.member, seen.in_words());
    }
    for (database, away) in status.databases.iter().filter_map(|of| Some((of, of.primary_away.as_ref()?))) {
        text = format!("{text}\n{}: {}", database.database, away.in_words());
    }
    for (database, copies) in status.databases.iter().flat_map(|of| of.copies.iter().map(move |copies| (of, copies))) {
        if copies.missing_backups + copies.missing_wal > 0 {
            text = format!(
                "{text}\n{}: vault {} lacks {} backups ({:.0} s behind) and {} WAL segments that another vault has",
                database.database, copies.vault, copies.missing_backups, copies.lag_seconds, copies.missing_wal
            );
        }
    }
    text += &(recovery_points(status) + &nodes(status));
    for finding in &status.findings {
        text = format!("{text}\n{}FINDING {}: {}", finding.mark(), finding.subject, finding.message);
    }
    text
}

/// A line for each database whose restore tests alternate.
fn recovery_points(status: &EstateStatus) -> String {
    let told = |of: &DatabaseStatus| Some(format!("\n{}: {}", of.database, points::in_words(&of.recovery_points)?));
    status.databases.iter().filter_map(told).collect()
}

/// A jurisdiction that covers the whole estate says nothing new.
fn shown(groups: &[Group]) -> impl Iterator<Item = &Group> {
    let all = groups.first().map_or(0, |estate| estate.databases.len());
    groups.iter().enumerate().filter(move |(at, group)| *at == 0 || group.databases.len() < all).map(|(_, group)| group)
}

/// The answers for a group, a line each.
fn told(group: &Group, now: Timestamp) -> String {
    let sentences = group.sentences(now).into_iter().map(|sentence| format!("  {sentence}\n"));
    std::iter::once(format!("{}\n", group.title())).chain(sentences).collect()
}

/// A line for each node where there are several, or one is silent.
fn nodes(status: &EstateStatus) -> String {
    let is_worth_a_line = |node: &&Node| status.nodes.len() > 1 || !node.is_alive;
    let line = |node: &Node| {
        let roles: Vec<String> = node.roles.iter().map(ToString::to_string).collect();
        let seen = age(status.generated_at.duration_since(node.seen_at));
        let alive = if node.is_alive { "alive".to_owned() } else { format!("SILENT, last heard {seen} ago") };
        let (name, region, version) = (&node.name, &node.region, &node.version);
        format!("\nnode {name} ({region}, {}, version {version}): {alive}", roles.join(" and "))
    };
    status.nodes.iter().filter(is_worth_a_line).map(line).collect()
}

/// Nothing while the lever is off.
fn lever_line(lever: &Lever) -> String {
    if lever.on { format!("\nSAFETY LEVER {lever}: no drill runs") } else { String::new() }
}

/// When it was last proven, and how a test ended since.
fn last_proven(proven: Option<&LastRestoreTest>, last: Option<&LastRestoreTest>) -> String {
    let proven = proven.map_or("never".to_owned(), |test| test.at.to_string());
    match last {
        Some(test) if test.verdict != Verdict::Pass => format!("{proven}\nlast test: {} {}", test.verdict, test.at),
        Some(_) | None => proven,
    }
}

pub async fn findings(invocation: &Invocation) -> Result<u8> {
    let app = open(invocation, Role::WithoutDns).await?;
    let findings = app.findings().await?;
    invocation.print(&findings, |findings| {
        let lines: Vec<String> = findings
            .iter()
            .map(|finding| {
                let Finding { subject, message, opened_at, .. } = finding;
                format!("{}{subject}: {message} (since {})", finding.mark(), words::instant(opened_at))
            })
            .collect();
        if lines.is_empty() { "nothing to fix".to_owned() } else { lines.join("\n") }
    })?;
    Ok(u8::from(!findings.is_empty()))
}
