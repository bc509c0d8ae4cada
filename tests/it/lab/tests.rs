//! What the lab itself does.

mod rows;
