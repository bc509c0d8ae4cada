//! Durable runs, on SQLite and on a real PostgreSQL: one list of cases for both
//! (`cases`), and what only shows under faults (`crash`, `partition`).

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what these helpers unwrap fails the test, and what they print is measured"
)]

mod cases;
mod crash;
mod fleet;
pub(crate) mod generic;
mod nodes;
mod partition;
mod short;
mod speed;
mod state;
mod tables;
mod toy;
