//! `lifeboat keygen`: an age identity for a restoring node or for escrow.

use std::path::PathBuf;

use age::secrecy::ExposeSecret;
use anyhow::Result;
use clap::Args;

use super::{Invocation, UsageError};
use crate::durable;

#[derive(Debug, Args)]
pub struct Options {
    /// A new file for the identity, readable by you alone.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

pub fn run(options: &Options, invocation: &Invocation) -> Result<u8> {
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    let text = format!("# public key: {recipient}\n{}\n", identity.to_string().expose_secret());
    durable::create_private(&options.output, text.as_bytes())
        .map_err(|error| UsageError::cannot_make(&options.output, &error))?;
    invocation.print(&serde_json::json!({"recipient": recipient, "identity_file": options.output}), |_| {
        format!(
            "{recipient}\nPut this line under `keys.recipients`. Whoever has {} opens every backup.",
            options.output.display()
        )
    })?;
    Ok(0)
}
