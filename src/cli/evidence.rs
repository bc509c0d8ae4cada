//! `lifeboat evidence verify|export|show`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;

use super::{Invocation, UsageError, open, output, restore, signing_key};
use crate::{
    app::Role,
    config,
    evidence::{self, Month, VerifyReport},
    vault::signature::Verifier,
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check every entry, the chain, the signatures and the checkpoints.
    Verify {
        /// An exported bundle or a vault's folder, instead of the state database.
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
        /// The trusted key: `SHA256:…`, or a file with `ssh-ed25519 AAAA…`. Ours when absent.
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// A checkpoint that you kept yourself, its `.sig` beside it; may be given again.
        #[arg(long = "checkpoint", value_name = "FILE")]
        checkpoints: Vec<PathBuf>,
    },
    /// Write a bundle that an outsider verifies with public tools.
    Export {
        /// Up to the end of this month, like `2026-11`; everything when absent.
        #[arg(long)]
        month: Option<Month>,
        /// A new folder.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Show one record.
    Show {
        /// A run's id or an entry's index.
        which: String,
    },
}

pub async fn run(command: Command, invocation: &Invocation) -> Result<u8> {
    match command {
        Command::Verify { folder, key, checkpoints } => verify(folder, key, checkpoints, invocation).await,
        Command::Export { month, to } => {
            if to.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
                return Err(UsageError(format!("{} is not empty; name a new folder", to.display())).into());
            }
            let app = open(invocation, Role::WithoutDns).await?;
            let size = evidence::export(&app.resources.evidence, month, &to).await?;
            invocation.print(&serde_json::json!({"entries": size, "folder": to}), |_| {
                format!("{size} entries in {}; README.md there tells how to verify them", to.display())
            })?;
            Ok(0)
        }
        Command::Show { which } => {
            let app = open(invocation, Role::WithoutDns).await?;
            let Some(entry) = app.resources.evidence.get(&which).await? else {
                return Err(UsageError(format!("no evidence of `{which}`; `lifeboat runs` lists runs")).into());
            };
            output::print(&serde_json::to_string_pretty(&entry)?)?;
            Ok(0)
        }
    }
}

async fn verify(
    folder: Option<PathBuf>,
    key: Option<String>,
    kept: Vec<PathBuf>,
    invocation: &Invocation,
) -> Result<u8> {
    let given = key.as_deref().map(restore::trusted).transpose()?;
    let (entries, mut checkpoints, verifier) = if let Some(folder) = folder {
        let verifier = given.map_or_else(|| ours(invocation), Ok)?;
        let log = evidence::from_folder(&folder)?;
        (log.entries, log.checkpoints, verifier)
    } else {
        let app = open(invocation, Role::WithoutDns).await?;
        let entries = evidence::from_db(&app.resources.db).await?;
        let (checkpoints, unread) = app.resources.evidence.checkpoints().await;
        for (vault, error) in unread {
            tracing::warn!(%vault, %error, "checkpoints of this vault were not looked at");
        }
        (entries, checkpoints, given.unwrap_or_else(|| app.signer.verifier()))
    };
    for path in kept {
        checkpoints.push(evidence::source::checkpoint_file(&path).context("read the checkpoint")?);
    }
    let report = evidence::verify(&entries, &checkpoints, &verifier);
    invocation.print(&report, text)?;
    Ok(report.verdict().exit_code())
}

/// The key of this estate. Whoever looks at a bundle may have none.
fn ours(invocation: &Invocation) -> Result<Verifier> {
    let unknown =
        |why: String| UsageError(format!("whose evidence this is must be known; name it with `--key` ({why})"));
    let estate = config::load(&invocation.config)
        .map_err(|problems| unknown(problems.iter().next().map_or_else(String::new, ToString::to_string)))?;
    Ok(signing_key(&estate).map_err(|error| unknown(error.to_string()))?.verifier())
}

fn text(report: &VerifyReport) -> String {
    let mut text = format!(
        "{}: {} entries, {} checkpoints, key {}",
        report.verdict(),
        report.size,
        report.checkpoints,
        report.key
    );
    if let Some(head) = &report.head {
        text = format!("{text}\nhead {head}");
    }
    for problem in &report.problems {
        text = format!("{text}\n  {problem}");
    }
    text
}
