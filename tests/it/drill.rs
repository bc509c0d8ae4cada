//! Promotion and the drill's steps on a real primary with a streaming standby,
//! the embedded DNS server and a client that logs in and writes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

mod estate;
mod promote;
mod switchover;
