//! The flows under kill -9, failures, aborts and failing undos, on a real estate: two
//! PostgreSQL servers, a vault, DNS. However a run was disturbed, it must end as if
//! nothing had happened, or as if it had never begun. What each flow must bear is in
//! `generic`, for all flows of one list (`list`); what only one of them can meet is in
//! the file that is named after it.

mod any_instant;
mod at_provider;
mod backup;
mod copy;
mod drill;
mod driver;
mod end;
mod generic;
mod lab;
mod list;
mod managed;
mod restore_test;
mod witness;
