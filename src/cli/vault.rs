//! `lifeboat vault …`: care of the vaults; one file per verb.

use anyhow::Result;
use clap::Subcommand;

use super::Invocation;

pub mod copy;
pub mod dr_kit;
pub mod prune;
pub mod rebuild_catalog;
pub mod renew_locks;
pub mod rotate_keys;
pub mod verify;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check what the vaults hold: names, content, WAL without gaps; needs no daemon and no state database.
    Verify(verify::Options),
    /// Bring what a vault lacks from the others, now.
    Copy(copy::Options),
    /// What stays and why, and what goes; with --yes let exactly that go.
    Prune(prune::Options),
    /// Lock all that is kept for some weeks more.
    RenewLocks(renew_locks::Options),
    /// Wrap the keys of all backups and WAL for the recipients configured now.
    RotateKeys(rotate_keys::Options),
    /// Bring back into an empty state database what a vault keeps.
    RebuildCatalog(rebuild_catalog::Options),
    /// Write what a new node needs beside a vault and an identity, and the page to print.
    DrKit(dr_kit::Options),
}

pub async fn run(command: Command, invocation: &Invocation) -> Result<u8> {
    match command {
        Command::Verify(options) => verify::run(options, invocation).await,
        Command::Copy(options) => copy::run(options, invocation).await,
        Command::Prune(options) => prune::run(options, invocation).await,
        Command::RenewLocks(options) => renew_locks::run(options, invocation).await,
        Command::RotateKeys(options) => rotate_keys::run(options, invocation).await,
        Command::RebuildCatalog(options) => rebuild_catalog::run(options, invocation).await,
        Command::DrKit(options) => dr_kit::run(&options, invocation),
    }
}
