//! What a program prints: the way to any store that is not built in.

use std::time::Duration;

use super::{Document, SecretError};
use crate::process::{ProcessError, Program};

/// A secret store that takes longer is not available.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn read(argv: &[String]) -> Result<Document, SecretError> {
    let (program, arguments) = argv.split_first().ok_or(SecretError::NoProgram)?;
    let output = Program::new(program).args(arguments).output(COMMAND_LIMIT).await;
    output.map(Document::text).map_err(|error| SecretError::Command {
        program: program.clone(),
        // What it said on standard error may hold the secret.
        reason: match error {
            ProcessError::Failed { status, .. } => status.to_string(),
            ProcessError::TimedOut { limit, .. } => format!("not within {limit:?}"),
            ProcessError::Start { source, .. } => source.to_string(),
            ProcessError::NoAccount => "no account".to_owned(),
        },
    })
}
