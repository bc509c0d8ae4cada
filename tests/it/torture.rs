//! Histories that nobody wrote down beforehand: a busy estate with failovers whose
//! copies are held against a replica, and processes that are killed at any instant.
//!
//! The ordinary suite runs a short form of each; `make torture` runs the long one.
//! What was left to chance is repeated with the seed that each test prints, as far
//! as servers that run beside each other repeat anything.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod chance;
mod client;
mod digest;
mod disaster;
mod estate;
mod node;
mod segments;
mod soak;
mod store;
mod targets;
mod workload;

pub(crate) use chance::{Chance, minutes};
