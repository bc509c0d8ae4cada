//! The flows of the real daemon under kill -9, aborts and failing undos, on a
//! real estate: two PostgreSQL servers, a vault, DNS. However a run was disturbed,
//! it must end as if nothing had happened, or as if it had never begun.

mod backup;
mod copy;
mod drill;
mod failures;
mod lab;
mod prune;
mod restore_test;
