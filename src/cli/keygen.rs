//! `lifeboat keygen`: an age identity for a restoring node or for escrow, or the
//! fingerprint of the signing key.

use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::{Invocation, UsageError, signing_key};
use crate::{config, durable};

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Options {
    /// A new file for the identity, readable by you alone.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show the fingerprint of the signing key, and make nothing.
    #[arg(long)]
    fingerprint: bool,
}

pub fn run(options: &Options, invocation: &Invocation) -> Result<u8> {
    match &options.output {
        Some(output) if !options.fingerprint => identity(output, invocation)?,
        Some(_) | None => fingerprint(invocation)?,
    }
    Ok(0)
}

fn identity(output: &Path, invocation: &Invocation) -> Result<()> {
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    let text = format!("# public key: {recipient}\n{}\n", identity.to_string().expose_secret());
    durable::create_private(output, text.as_bytes()).map_err(|error| UsageError::cannot_make(output, &error))?;
    invocation.print(&json!({"recipient": recipient, "identity_file": output}), |_| {
        format!(
            "{recipient}\nPut this line under `keys.recipients`. Whoever has {} opens every backup.",
            output.display()
        )
    })
}

fn fingerprint(invocation: &Invocation) -> Result<()> {
    let verifier = signing_key(&config::load(&invocation.config)?)?.verifier();
    let fingerprint = verifier.fingerprint();
    let told = json!({"fingerprint": fingerprint, "public_key": verifier.to_openssh()});
    invocation.print(&told, |_| format!("{fingerprint}\n{}", verifier.to_openssh()))
}
