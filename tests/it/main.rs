//! The integration tests: one binary, a folder or file per area, on real
//! PostgreSQL clusters, real files and a real DNS server.

#![allow(clippy::unwrap_used, reason = "what fails in a helper fails the test")]
#![allow(clippy::print_stdout, reason = "measurements are printed")]

mod support;

mod api;
mod cli;
mod config;
mod crash;
mod demo;
mod dns;
mod drill;
mod evidence;
mod flow;
mod isolated;
mod lab;
mod notify;
mod protect;
mod rds;
mod readme;
mod report;
mod sample;
mod shown_commands;
mod tidy;
mod torture;
mod vault;
