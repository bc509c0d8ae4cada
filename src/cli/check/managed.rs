//! What `lifeboat check` says of databases that a provider runs.

use std::collections::BTreeSet;

use super::Looked;
use crate::{
    app,
    config::{Estate, ScheduleConfig},
    domain::{Region, with_causes},
    engine::managed::Duty,
    flows::prune_snapshots,
    secrets::Secrets,
};

/// What a person should know of the files.
pub(super) fn notes(schedule: &ScheduleConfig) -> impl Iterator<Item = String> {
    let shared = schedule.snapshot_copies.iter().filter(|copy| !copy.share_with.is_empty() && copy.kms_key.is_none());
    shared.map(|copy| {
        format!(
            "{}: the copies in {} are shared and name no `kms_key`: where the database is encrypted, name a key that those accounts may use",
            schedule.database, copy.region
        )
    })
}

/// What is protected, in one line; none where no provider runs it.
pub(super) fn summary(schedule: &ScheduleConfig) -> Option<String> {
    let source = schedule.managed()?;
    let objectives = schedule.objectives();
    let copies: BTreeSet<&str> = schedule.snapshot_copies.iter().map(|copy| copy.region.as_str()).collect();
    let copies = if copies.is_empty() { "nowhere".to_owned() } else { Vec::from_iter(copies).join(", ") };
    let what = if source.is_cluster { "cluster" } else { "instance" };
    let tested = match &schedule.restore_test {
        Some(test) => format!("restore test at `{}` {}", test.cron, schedule.timezone),
        None => "no restore test: its snapshots stay unproven".to_owned(),
    };
    Some(format!(
        "{}: RTO {}, RPO {}; snapshots of {what} {} in {}, copied to {copies}; {tested}",
        schedule.database, objectives.rto, objectives.rpo, source.id, source.region
    ))
}

/// Whether the provider lets each duty in, knows the database, and has it set up as the
/// schedule says.
pub(super) async fn look_at(estate: &Estate, secrets: &Secrets, schedule: &ScheduleConfig, found: &mut Looked) {
    let name = &schedule.database;
    let database = match app::open_managed(estate, secrets, name) {
        Ok(database) => database,
        Err(error) => return found.problem(with_causes(&error)),
    };
    for duty in [Duty::Backup, Duty::Restore, Duty::Delete] {
        if let Err(error) = database.provider.identity(duty).await {
            found.problem(format!("{name}: {}", with_causes(&error)));
        }
    }
    match database.provider.source().await {
        Ok(facts) => found.findings.extend(database.misset(&facts).iter().map(|told| format!("{name}: {told}"))),
        Err(error) => found.problem(format!("{name}: {}", with_causes(&error))),
    }
    // What was loaded names a region.
    let elsewhere: BTreeSet<Region> = prune_snapshots::regions(&database).unwrap_or_default();
    for region in elsewhere {
        if let Err(error) = database.provider.snapshots(&region).await {
            found.problem(format!("{name}: {}", with_causes(&error)));
        }
    }
}
