//! `lifeboat lever [on|off]`: the one switch that stops all drills and blocks
//! new ones.

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::{Invocation, UsageError, open, who};
use crate::{
    app::Role,
    domain::{Attribution, Lever},
};

#[derive(Debug, Args)]
pub struct Options {
    /// Where to turn it; shows how it stands when absent.
    #[arg(requires = "reason")]
    to: Option<Position>,
    /// Why; kept in the evidence.
    #[arg(long, requires = "to")]
    reason: Option<String>,
    /// Who turns it; the login name when absent.
    #[arg(long, requires = "to")]
    who: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Position {
    /// Stop all drills, and let none begin.
    On,
    /// Let drills begin again.
    Off,
}

pub async fn run(options: Options, invocation: &Invocation) -> Result<u8> {
    let by = match (&options.to, &options.reason) {
        (Some(_), reason) => {
            let who = options.who.unwrap_or_else(who);
            let by = Attribution::with_reason(&who, reason.as_deref().unwrap_or_default());
            Some(by.map_err(|error| UsageError(error.to_string()))?)
        }
        (None, _) => None,
    };
    let app = open(invocation, Role::WithoutDns).await?;
    let (Some(to), Some(by)) = (options.to, by) else {
        return show(invocation, &app.lever().await?);
    };
    let lever = app.turn_lever(to == Position::On, &by).await?;
    show(invocation, &lever)?;
    // Drills have been asked to stop by now: no vault may delay that.
    app.settle().await?;
    app.record_turns().await?;
    Ok(0)
}

fn show(invocation: &Invocation, lever: &Lever) -> Result<u8> {
    invocation.print(lever, |lever| format!("the safety lever is {lever}"))?;
    Ok(0)
}
