//! Recovery to a known target and the isolated instance, on real PostgreSQL.

mod apart;
mod awaited;
mod catalogs;
mod copy;
mod limits;
mod planted;
mod stopping;
mod target;
