//! Single instances: the calls of `rds:*DBInstance*` and `rds:*DBSnapshot*`.

mod restore;
mod snapshot;

/// The form of a single instance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Single;
