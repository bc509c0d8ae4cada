//! The words of an announcement: whose, when, why, and what is held. Times are
//! absolute, as a notice may be read, or delivered, later.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Concerned, Occurrence, Said, Saying, Stage};
use crate::{
    decide::due,
    domain::{Notice, Topic},
};

/// More names than these are counted in a title.
const NAMES_MAX: usize = 5;
const HELD: &str = "Held: backups and restore tests by schedule, and drills.";
const NOT_HELD: &str = "Not held: WAL and heartbeats, copies, verification, pruning, and restores.";

/// The notice of a saying. What it says of itself stands in its details.
pub fn notice(saying: &Saying, at: Timestamp) -> Result<Notice, serde_json::Error> {
    let Saying { id, said, .. } = saying;
    let topic = match (said.stage, &said.instead_of) {
        (Stage::Cancelled, _) => Topic::MaintenanceCancelled,
        (_, Some(_)) => Topic::MaintenanceChanged,
        (_, None) => Topic::MaintenanceAnnounced,
    };
    Ok(Notice {
        id: id.clone(),
        topic,
        at,
        databases: said.databases.iter().map(|concerned| concerned.database.clone()).collect(),
        title: title(topic, said),
        text: text(topic, said),
        details: serde_json::to_value(said)?,
    })
}

fn title(topic: Topic, said: &Said) -> String {
    let what = match topic {
        Topic::MaintenanceAnnounced => "Maintenance",
        Topic::MaintenanceChanged => "Maintenance changed",
        Topic::MaintenanceCancelled => "Maintenance called off",
    };
    let names: Vec<&str> = said.databases.iter().map(|concerned| concerned.database.as_str()).collect();
    let shown = names.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
    let more = match names.len().saturating_sub(NAMES_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let zone = said.databases.first().map_or("UTC", |concerned| concerned.timezone.as_str());
    format!("{what}: {shown}{more}, {}", span(&said.occurrence, zone))
}

fn text(topic: Topic, said: &Said) -> String {
    let mut lines = vec![format!("Reason: {}", said.reason.replace(char::is_control, " "))];
    for (zone, names) in by_zone(&said.databases) {
        lines.push(format!("{}: {} ({zone})", names.join(", "), span(&said.occurrence, zone)));
    }
    lines.push(format!("UTC: {} to {}", said.occurrence.start, said.occurrence.end));
    let zone = said.databases.first().map_or("UTC", |concerned| concerned.timezone.as_str());
    match (topic, &said.instead_of) {
        (Topic::MaintenanceCancelled, _) => {
            lines.push("It was announced and does not take place: nothing is held then.".to_owned());
        }
        (_, before) => {
            let before = before.iter().map(|before| format!("Announced before: {}.", span(before, zone)));
            lines.extend(before.chain([HELD.to_owned(), NOT_HELD.to_owned()]));
        }
    }
    lines.join("\n")
}

fn by_zone(databases: &[Concerned]) -> BTreeMap<&str, Vec<&str>> {
    let mut zones: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for concerned in databases {
        zones.entry(&concerned.timezone).or_default().push(concerned.database.as_str());
    }
    zones
}

/// In this zone, which the rules of the configuration have read before.
fn span(occurrence: &Occurrence, zone: &str) -> String {
    let zone = due::parse_zone(zone).unwrap_or(chrono_tz::UTC);
    let [start, end] = [occurrence.start, occurrence.end].map(|at| due::on_the_wall(zone, at));
    format!("{start} to {end}")
}
