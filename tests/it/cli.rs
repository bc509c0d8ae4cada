//! The command line as an operator uses it: the real program as a child
//! process, files that an operator would write, a real PostgreSQL 15.

mod bucket;
mod copies;
mod daemon;
mod files;
mod journey;
mod keys;
mod locks;
mod prune;
mod recovery_kit;
mod refusals;
mod shared_state;
mod site;
mod streaming;
mod vaults;
mod verify;
