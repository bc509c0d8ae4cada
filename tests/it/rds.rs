//! RDS and Aurora through the SDK against moto, with a recorder between that tells what was
//! really asked. moto has one word for all: everything is available at once.

#![expect(clippy::unwrap_used, reason = "what the tests share is test code too")]

mod fixture;
mod guard;
mod instances;
mod policy;
mod promote;
mod recorder;
mod snapshots;
