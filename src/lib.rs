//! Lifeboat takes the backups of an estate of databases, restores them,
//! rehearses failovers, and keeps evidence of the recovery time and recovery
//! point really achieved.
//!
//! The modules below stand in reading order. Dependencies point one way:
//! `domain` and `decide` know nothing else of ours; `engine`, `vault`,
//! `dns` and `notify` know `domain`; `flow` runs durable steps; `flows` put all of them
//! together; `tasks`, `api` and `cli` call `flows`. Nobody imports `api` or
//! `cli`. `tests/it/tidy.rs` asserts it.

pub mod domain;

pub mod decide;

pub mod clock;
pub mod durable;
pub mod fault;
pub mod process;
pub mod telemetry;

pub mod aws;
pub mod config;
pub mod secrets;

pub mod dns;
pub mod engine;
pub mod notify;
pub mod vault;

pub mod db;
pub mod evidence;
pub mod flow;

pub mod flows;
pub mod report;

pub mod app;
pub mod tasks;

pub mod api;
pub mod cli;
