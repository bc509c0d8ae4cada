//! `lifeboat vault rebuild-catalog [--from V]`: after the state database was lost.

use anyhow::Result;
use clap::Args;

use super::super::{Invocation, UsageError, open};
use crate::{
    app::{Role, rebuild::Rebuilt},
    domain::VaultName,
};

#[derive(Debug, Args)]
pub struct Options {
    /// From this vault alone; from all of them when absent. Any one is enough.
    #[arg(long, value_name = "VAULT")]
    from: Option<VaultName>,
}

pub async fn run(options: Options, invocation: &Invocation) -> Result<u8> {
    let app = open(invocation, Role::WithoutDns).await?;
    if let Some(from) = options.from.as_ref().filter(|from| !app.vaults.contains_key(*from)) {
        let known: Vec<String> = app.vaults.keys().map(ToString::to_string).collect();
        return Err(UsageError(format!("`{from}` is no vault; there are: {}", known.join(", "))).into());
    }
    let rebuilt = app.rebuild(options.from.as_ref()).await?;
    invocation.print(&rebuilt, text)?;
    Ok(u8::from(!rebuilt.problems.is_empty()))
}

fn text(rebuilt: &Rebuilt) -> String {
    let mut lines = Vec::new();
    for vault in &rebuilt.vaults {
        lines.push(format!(
            "{}: {} heartbeats and {} evidence entries came back; {} backups ({} PROVEN) are read from it as ever",
            vault.vault, vault.heartbeats, vault.evidence, vault.backups, vault.proven
        ));
    }
    lines.extend(rebuilt.notes.iter().map(|note| format!("note: {note}")));
    lines.extend(rebuilt.problems.iter().map(|problem| format!("PROBLEM {problem}")));
    lines.join("\n")
}
