//! `lifeboat vault renew-locks [DB]`.

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::{
    app::Role,
    cli::{Invocation, open},
    domain::{DatabaseName, VaultName},
    flows::{locks, retention},
};

#[derive(Debug, Args)]
pub struct Options {
    /// All databases when none is named.
    database: Option<DatabaseName>,
    /// This vault only.
    #[arg(long)]
    vault: Option<VaultName>,
}

#[derive(Debug, Serialize)]
struct Shown {
    database: DatabaseName,
    vault: VaultName,
    /// Whether this vault locks at all.
    locks: bool,
    #[serde(flatten)]
    renewed: locks::Renewed,
}

/// 1 when something that is kept could not be locked.
pub async fn run(options: Options, invocation: &Invocation) -> Result<u8> {
    let app = open(invocation, Role::WithoutDns).await?;
    let mut shown = Vec::new();
    for database in app.chosen(options.database.as_ref())? {
        let memory = retention::Memory::read(&app.resources, &database, None).await?;
        for vault in &database.vaults {
            let name = vault.store.place().vault.clone();
            if options.vault.as_ref().is_some_and(|wanted| *wanted != name) {
                continue;
            }
            let renewed =
                locks::renew(&database, vault, &memory, &mut locks::Known::default(), app.clock.now()).await?;
            if let Some(renewed) = &renewed {
                locks::tell(&app.resources, &database, &name, Ok(renewed.clone())).await?;
            }
            let (locks, renewed) = (renewed.is_some(), renewed.unwrap_or_default());
            shown.push(Shown { database: database.name.clone(), vault: name, locks, renewed });
        }
    }
    invocation.print(&shown, |shown| {
        let mut table = crate::cli::table(["database", "vault", "kept objects", "locked anew", "failed"]);
        for Shown { database, vault, locks, renewed } in shown {
            let objects = if *locks { renewed.objects.to_string() } else { "locks nothing".to_owned() };
            let (locked, failed) = (renewed.locked.to_string(), renewed.failed.join("; "));
            table.add_row([database.to_string(), vault.to_string(), objects, locked, failed]);
        }
        table.to_string()
    })?;
    Ok(u8::from(shown.iter().any(|shown| !shown.renewed.failed.is_empty())))
}
