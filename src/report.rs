//! What management and auditors read: objectives against what was achieved,
//! over all evidence of a month or of all time; and the status of now.
//!
//! Pure: entries in, a view model out, rendered as HTML, JSON or CSV. A number
//! that was not measured is never shown as zero; a restore's duration is never
//! called a recovery time; what a figure leaves out stands beside it.

pub mod build;
pub mod csv;
pub mod draw;
pub mod figures;
pub mod forms;
pub mod groups;
pub mod html;
pub mod managed;
pub mod page;
pub mod points;
pub mod status;
pub mod text;
pub mod words;

pub use build::{Report, build};
pub use groups::{Facts, Protected};
pub use status::EstateStatus;

pub use csv::csv;
pub use html::html;
pub use page::page;
pub use text::text;

/// The stylesheet of the report and the status page.
pub const STYLE: &str = include_str!("../templates/style.css");
