//! What the operator wrote. All files are read together and checked as a
//! whole; every problem of every file is reported at once with its place.
//!
//! `yaml` reads a file into a tree that knows where everything stands; `walk`
//! holds the tree against the schema of the types, `rules` looks for what is
//! contradictory over all trees, and only files without a problem become the
//! types below. Types here are the written form. They hold no secrets, only
//! references. Nothing here starts anything or connects anywhere.

mod agenda;
pub mod aws;
pub mod check;
pub mod daemon;
mod given;
mod leaf;
pub mod load;
pub mod managed;
pub mod notify;
pub mod objectives;
pub mod point;
pub mod problem;
mod rules;
pub mod runbook;
pub mod schedule;
pub mod secret;
pub mod secret_stores;
mod tier;
pub mod vault;
mod vocabulary;
mod walk;
mod yaml;

pub use aws::AwsConfig;
pub use daemon::DaemonConfig;
pub use load::{Estate, Loaded, load};
pub use objectives::EstateObjectivesConfig;
pub use problem::{Place, Problem, Problems};
pub use runbook::RunbookConfig;
pub use schedule::ScheduleConfig;
pub use secret::SecretRef;
pub use secret_stores::SecretStoresConfig;
pub use vault::CredentialsConfig;
