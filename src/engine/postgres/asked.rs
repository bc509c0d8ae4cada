//! What checks ask of a restored copy in SQL, whichever way it is reached: over the
//! private socket of an isolated instance, or over TLS at a provider's.

pub(super) mod catalogs;
mod ended;
mod session;
pub(super) mod ties;

pub(super) use ended::EndedRecovery;
pub(super) use session::{Session, failed};
