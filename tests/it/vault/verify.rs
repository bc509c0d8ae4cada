//! Verification: whatever is planted in a vault is named, and nothing else is.

mod defects;
mod estate;
mod expired;
mod many;
mod members;
mod planted;
mod samples;
mod vanishing;
