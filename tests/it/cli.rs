//! The command line as an operator uses it: the real program as a child
//! process, files that an operator would write, a real PostgreSQL 15.

mod beats;
mod bucket;
mod chain;
mod clusters;
mod copies;
mod daemon;
mod expiry_under_locks;
mod files;
mod increments;
mod journey;
mod keys;
mod left;
mod locks;
mod output;
mod points;
mod prune;
mod recovery_kit;
mod refusals;
mod restoring;
mod secrets;
mod shared_state;
mod silent;
pub(crate) mod site;
mod status;
mod streaming;
mod vaults;
mod verify;
mod verify_runs;
