//! `lifeboat report`: recovery time and point, objectives against achieved.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::{Invocation, UsageError, open, output};
use crate::{app::Role, evidence::Month, report};

#[derive(Debug, Args)]
pub struct Options {
    /// Like `2026-11`; everything when absent.
    #[arg(long)]
    month: Option<Month>,
    /// As the name of the file ends when absent, else HTML.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Into this file; standard output when absent.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Html,
    /// What was promised and achieved, without the runs.
    Text,
    Json,
    Csv,
}

impl Format {
    /// What the ending of a file's name says.
    fn named_by(path: &Path) -> Option<Self> {
        Self::from_str(path.extension()?.to_str()?, true).ok()
    }
}

pub async fn run(options: Options, invocation: &Invocation) -> Result<u8> {
    let app = open(invocation, Role::WithoutDns).await?;
    let built = app.report(options.month).await?;
    let named = options.output.as_deref().and_then(Format::named_by);
    let format = options.format.or(named).unwrap_or(if invocation.json { Format::Json } else { Format::Html });
    let text = match format {
        Format::Html => report::html(&built)?,
        Format::Text => report::text(&built),
        Format::Json => serde_json::to_string_pretty(&built)?,
        Format::Csv => report::csv(&built),
    };
    match &options.output {
        Some(path) => {
            std::fs::write(path, text).map_err(|error| UsageError::cannot_make(path, &error))?;
            output::say(&format!("report in {}", path.display()));
        }
        None => output::print(&text)?,
    }
    Ok(0)
}
