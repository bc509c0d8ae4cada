//! Reconcilers: tasks that take no input, look at what is, and act. Each may be
//! started and stopped at any time; none holds anything that a restart loses.

pub mod announce;
pub mod chain;
pub mod copy;
pub mod exposure;
mod finding;
mod forecast;
pub mod forget;
pub mod headroom;
pub mod heartbeat;
pub mod ledger;
pub mod lever;
pub mod locks;
pub mod managed;
pub mod presence;
pub mod prune;
pub mod reload;
pub mod rotate;
pub mod running;
pub mod schedule;
pub mod slots;
pub mod stranded;
pub mod sweep;
pub mod tails;
pub mod tier;
pub mod vault;
pub mod verify;
pub mod wal;
pub mod witness;

use std::sync::Arc;

use crate::{app::App, flows::Database, process::Tasks};

/// Keeps WAL, slots, heartbeats and samples of all databases going whose data may be where
/// this node stands, and their metrics, until `tasks` end.
pub fn protect(app: &Arc<App>, tasks: &Tasks) {
    tasks.spawn(exposure::run(Arc::clone(app), tasks.stop().clone()));
    for database in near(app) {
        protect_one(app, database, tasks);
    }
}

/// The same for one database. These tasks go on while others are edited: of the app
/// they use no more than what every edit leaves as it is.
fn protect_one(app: &Arc<App>, database: &Arc<Database>, tasks: &Tasks) {
    tasks.spawn(wal::run(Arc::clone(app), Arc::clone(database), tasks.stop().clone()));
    tasks.spawn(slots::run(Arc::clone(app), Arc::clone(database), tasks.stop().clone()));
    tasks.spawn(chain::run(Arc::clone(app), Arc::clone(database), tasks.stop().clone()));
    tasks.spawn(headroom::run(Arc::clone(app), Arc::clone(database), tasks.stop().clone()));
    tasks.spawn(heartbeat::run(Arc::clone(app), Arc::clone(database), tasks.stop().clone()));
    tasks.spawn(witness::run(Arc::clone(app), Arc::clone(database), tasks.stop().clone()));
}

/// Takes care of tiers and vaults until `tasks` end: what a tier asks for is looked
/// for, how providers have set up what they run, and what tests left there; each vault is
/// watched; what they hold of heartbeats is merged, what is kept is locked, what is superseded goes.
pub fn care(app: &Arc<App>, tasks: &Tasks) {
    tasks.spawn(tier::run(Arc::clone(app), tasks.stop().clone()));
    tasks.spawn(managed::watch(Arc::clone(app), tasks.stop().clone()));
    tasks.spawn(sweep::run(Arc::clone(app), tasks.stop().clone()));
    let region = &app.estate.daemon.node.region;
    for database in app.resources.managed.values().filter(|database| database.placement().allows(region)) {
        tasks.spawn(heartbeat::managed::run(Arc::clone(app), Arc::clone(database), tasks.stop().clone()));
    }
    for vault in app.vaults.values() {
        tasks.spawn(vault::run(Arc::clone(app), Arc::clone(vault), tasks.stop().clone()));
    }
    for database in near(app) {
        for vault in &database.vaults {
            let vault = vault.clone();
            tasks.spawn(ledger::run(Arc::clone(app), Arc::clone(database), vault, tasks.stop().clone()));
        }
        tasks.spawn(tails::run(Arc::clone(app), Arc::clone(database), tasks.stop().clone()));
        tasks.spawn(locks::run(Arc::clone(app), Arc::clone(database), tasks.stop().clone()));
    }
}

/// Asks for runs until `tasks` end, besides those of the schedules: what a vault
/// lacks is copied from another, what they hold is verified, what is due goes,
/// and keys are rotated. Nodes that ask for the same get one run.
pub fn ask(app: &Arc<App>, tasks: &Tasks) {
    tasks.spawn(prune::run(Arc::clone(app), tasks.stop().clone()));
    tasks.spawn(managed::prune(Arc::clone(app), tasks.stop().clone()));
    tasks.spawn(rotate::run(Arc::clone(app), tasks.stop().clone()));
    for database in app.resources.databases.values() {
        for vault in database.vaults.iter().filter(|_| database.vaults.len() > 1) {
            let to = vault.store.place().vault.clone();
            tasks.spawn(copy::run(Arc::clone(app), Arc::clone(database), to, tasks.stop().clone()));
        }
    }
    for vault in app.vaults.keys() {
        tasks.spawn(verify::run(Arc::clone(app), vault.clone(), tasks.stop().clone()));
    }
}

/// The databases whose data may be where this node stands.
fn near(app: &App) -> impl Iterator<Item = &Arc<Database>> {
    let region = &app.estate.daemon.node.region;
    app.resources.databases.values().filter(|database| database.placement([]).allows(region))
}
