//! Parses arguments, starts logging, hands over to `cli`.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use lifeboat::{cli, telemetry};

/// Gives memory back that the system's allocator keeps in pieces: a daemon reads
/// thousands of files once, and then lives for months.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long calls of the operating system that nobody waits for any more may hold up the end.
const LEFT_BEHIND_LIMIT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    if let Err(error) = telemetry::init(arguments.log_level()) {
        tracing::error!(%error, "cannot start logging");
        return ExitCode::FAILURE;
    }
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(cli::run(arguments));
            // A call to a mount whose server is gone never returns.
            runtime.shutdown_timeout(LEFT_BEHIND_LIMIT);
            code
        }
        Err(error) => {
            tracing::error!(%error, "cannot start");
            ExitCode::FAILURE
        }
    }
}
