//! `lifeboat vault dr-kit --to FILE [--print]`: what a new node needs beside a
//! vault and an identity, encrypted to the configured recipients, and the page
//! to print and keep with the identity.
//!
//! What must never happen: a secret in it. References to secrets stay references,
//! and a password in the state database's URL is left out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use super::super::{Invocation, UsageError, signing_key};
use crate::{
    clock::Clock,
    config::{self, Estate},
    durable,
    vault::{self, Object, signature::Verifier},
};

mod page;

#[derive(Debug, Args)]
pub struct Options {
    /// A new file for the kit.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Print the page instead of what was written.
    #[arg(long)]
    print: bool,
}

pub fn run(options: &Options, invocation: &Invocation) -> Result<u8> {
    let estate = config::load(&invocation.config)?;
    let verifier = signing_key(&estate)?.verifier();
    let name = options.to.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let page = page::written(&estate, &verifier, &name, Clock::system().now());
    let files = contents(&estate, &invocation.config, &verifier, &page)?;
    let recipients = vault::recipients_from(&estate.daemon.keys.recipients)?;
    let kit = Object::seal(&tar_of(&files)?, true, &recipients)?;
    durable::create_private(&options.to, &kit.stored).map_err(|error| UsageError::cannot_make(&options.to, &error))?;
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let told = json!({
        "file": options.to, "files": names, "fingerprint": verifier.fingerprint(),
        "recipients": estate.daemon.keys.recipients, "page": page,
    });
    invocation.print(&told, |_| {
        if options.print {
            return page.clone();
        }
        format!(
            "{} holds {}.\nPrint the page (`--print`) and keep it with an age identity, apart from the vaults: it bears the fingerprint {}.",
            options.to.display(),
            names.join(", "),
            verifier.fingerprint()
        )
    })?;
    Ok(0)
}

/// Names and contents, in the order of the archive.
fn contents(estate: &Estate, config: &Path, verifier: &Verifier, page: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let named = |folder: &str, path: &Path| {
        format!("{folder}/{}", path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default())
    };
    let mut files = vec![
        ("README.md".to_owned(), page.as_bytes().to_vec()),
        ("signing.pub".to_owned(), format!("{}\n", verifier.to_openssh()).into_bytes()),
        ("lifeboat.yaml".to_owned(), without_password(read(config)?, &estate.daemon.state.url)?),
    ];
    for schedule in &estate.schedules {
        files.push((named("schedules", &schedule.file), read(&schedule.file)?));
    }
    for runbook in &estate.runbooks {
        files.push((named("runbooks", &runbook.file), read(&runbook.file)?));
    }
    Ok(files)
}

/// The one value of `lifeboat.yaml` that may hold a secret: `postgres://USER:PASSWORD@…`.
fn without_password(yaml: Vec<u8>, url: &str) -> Result<Vec<u8>> {
    let password = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')?.0.split_once(':'));
    let Some((_, password)) = password.filter(|(_, password)| !password.is_empty()) else { return Ok(yaml) };
    let text = String::from_utf8(yaml).context("lifeboat.yaml is no text")?;
    let stripped = text.replace(&format!(":{password}@"), ":@");
    anyhow::ensure!(
        !stripped.contains(password),
        "lifeboat.yaml holds the state database's password in more places than `state.url`; keep it there alone, or in a service file"
    );
    Ok(stripped.into_bytes())
}

fn tar_of(files: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o600);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content.as_slice()).context("make the archive")?;
    }
    archive.into_inner().context("make the archive")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_state_url_is_left_out() {
        let yaml = "state: {url: \"postgres://u:p:w@h/db\"}\n";
        let kept = without_password(yaml.into(), "postgres://u:p:w@h/db").unwrap();
        assert_eq!(String::from_utf8(kept).unwrap(), "state: {url: \"postgres://u:@h/db\"}\n");
        let twice = format!("{yaml}# p:w\n");
        assert!(without_password(twice.into(), "postgres://u:p:w@h/db").is_err());
        assert_eq!(without_password(b"x".to_vec(), "sqlite:lifeboat.db").unwrap(), b"x");
    }
}
