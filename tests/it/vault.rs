//! The vault: stores, sealing, backups that are restored and compared, WAL.

#![expect(clippy::unwrap_used, reason = "what the tests share is test code too")]

mod backup;
mod catalog;
mod copy;
mod damage;
mod differential;
mod faulty;
mod fetch;
pub(crate) mod fixture;
mod formats;
mod limit;
mod owned;
mod read_back;
mod s3;
mod script;
mod seal;
mod stores;
mod verify;
mod versioned;
mod wal;
