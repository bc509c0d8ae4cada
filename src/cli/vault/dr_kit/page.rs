//! The page of the DR kit. Its commands are run literally by a test: what stands here must work at 3 am.

use jiff::Timestamp;

use crate::{
    config::{Estate, ScheduleConfig},
    vault::signature::Verifier,
};

/// The page, in Markdown.
pub(super) fn written(estate: &Estate, verifier: &Verifier, kit: &str, now: Timestamp) -> String {
    let daemon = &estate.daemon;
    let schedules = || estate.schedules.iter().map(|schedule| &schedule.config);
    let fingerprint = verifier.fingerprint();
    let lines = |lines: Vec<String>| lines.join("\n");
    let vaults = daemon.vaults.iter().map(|(name, vault)| {
        let ((kind, place), region) = (vault.location(), vault.region());
        format!("| {name} | {kind} | {region} | `{place}` |")
    });
    let blocks = |command: &dyn Fn(&ScheduleConfig) -> String| {
        // What a provider keeps is restored there alone.
        let own = schedules().filter(|schedule| schedule.managed().is_none());
        lines(own.map(|schedule| format!("```sh\n{}\n```", command(schedule))).collect())
    };
    let with = |schedule: &ScheduleConfig| {
        let name = &schedule.database;
        format!(
            "lifeboat restore {name} --vault \"$VAULT\" --identity \"$IDENTITY\" --to \"$RESTORED/{name}\" --latest --signed-by {fingerprint}"
        )
    };
    let without = |schedule: &ScheduleConfig| {
        let name = &schedule.database;
        format!(
            "MANIFEST=$(ls \"$VAULT\"/{name}/*/*/backups/*/manifest.json | awk -F/ '{{ print $(NF - 1), $0 }}' | sort | tail -1 | cut -d' ' -f2-)\nsh \"$(dirname \"$MANIFEST\")/restore.sh\" \"$IDENTITY\" \"$RESTORED/{name}\" latest {fingerprint}"
        )
    };
    let start = |schedule: &ScheduleConfig| {
        let name = &schedule.database;
        format!(
            "chown -R postgres: \"$RESTORED/{name}\"\nrunuser -u postgres -- \"/usr/lib/postgresql/$(cat \"$RESTORED/{name}/PG_VERSION\")/bin/pg_ctl\" -D \"$RESTORED/{name}\" -l \"$RESTORED/{name}/startup.log\" -w -t 3600 start"
        )
    };
    let fields = [
        ("{node}", daemon.node.name.clone()),
        ("{made_at}", now.to_string()),
        ("{version}", env!("CARGO_PKG_VERSION").to_owned()),
        ("{public_key}", verifier.to_openssh()),
        ("{fingerprint}", fingerprint.clone()),
        ("{vaults}", lines(vaults.collect())),
        ("{databases}", lines(schedules().map(database).collect())),
        ("{recipients}", lines(daemon.keys.recipients.iter().map(|key| format!("- `{key}`")).collect())),
        ("{kit}", kit.to_owned()),
        ("{with_lifeboat}", blocks(&with)),
        ("{without_lifeboat}", blocks(&without)),
        ("{start}", blocks(&start)),
    ];
    fields.into_iter().fold(include_str!("page.md").to_owned(), |page, (name, value)| page.replace(name, &value))
}

fn database(schedule: &ScheduleConfig) -> String {
    if let Some(source) = schedule.managed() {
        let (name, objectives) = (&schedule.database, schedule.objectives());
        let rto_rpo = format!("{}, {}", objectives.rto, objectives.rpo);
        return format!("| {name} | snapshots of its provider | {rto_rpo} | {} in {} |", source.id, source.region);
    }
    let vaults: Vec<&str> = schedule.vaults.iter().map(crate::domain::VaultName::as_str).collect();
    let members = schedule.all_members();
    let servers: Vec<String> = members.values().map(|member| format!("{}:{}", member.host, member.port)).collect();
    format!(
        "| {} | {} | {}, {} | {} |",
        schedule.database,
        vaults.join(", "),
        schedule.objectives().rto,
        schedule.objectives().rpo,
        servers.join(", ")
    )
}
