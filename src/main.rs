//! Parses arguments, starts logging, hands over to `cli`.

use std::process::ExitCode;

use clap::Parser;
use lifeboat::{cli, telemetry};

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    if let Err(error) = telemetry::init(arguments.log_level()) {
        tracing::error!(%error, "cannot start logging");
        return ExitCode::FAILURE;
    }
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(cli::run(arguments)),
        Err(error) => {
            tracing::error!(%error, "cannot start");
            ExitCode::FAILURE
        }
    }
}
