//! `lifeboat vault verify [DB]`: needs no daemon and no state database.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{
    app::{self, Role},
    cli::{Invocation, UsageError, interrupt::Interrupt, open, progress, progress::Line, restore, table, who},
    clock::Clock,
    config,
    domain::{ByteSize, DatabaseName, RunId, Share, VaultName, Verdict, with_causes},
    flow::{NewRun, StepError},
    flows::{
        Database, KeyError, Vault,
        restore::RestoreError,
        verify::{self, Asked, Params, Request},
    },
    vault::{StoreError, VaultIdentity, verify::Report, visit},
};

#[derive(Debug, Args)]
pub struct Options {
    /// All databases when none is named.
    database: Option<DatabaseName>,
    /// This vault and no other; all of the schedule when absent.
    #[arg(long, value_name = "VAULT")]
    vault: Option<VaultName>,
    #[command(flatten)]
    depth: Depth,
    /// Who signed the backups: `SHA256:…`, or a file with `ssh-ed25519 AAAA…`.
    /// Our own signing key when absent.
    #[arg(long, value_name = "KEY", conflicts_with = "record")]
    signed_by: Option<String>,
    /// Verify as a run of this node, with evidence, findings and a signed
    /// verification that makes backups VERIFIED; needs the state database.
    #[arg(long)]
    record: bool,
}

/// How much is read; everything when nothing is said.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Depth {
    /// Names, sizes, versions, signatures and gaps in the WAL, and no content.
    #[arg(long)]
    quick: bool,
    /// Read and decrypt everything.
    #[arg(long)]
    full: bool,
    /// What `--quick` looks at, and the share of the content whose turn it is now, such as `5%`.
    #[arg(long, value_name = "SHARE")]
    sample: Option<Share>,
}

impl Depth {
    /// An identity that is configured must be of use where content is read; what
    /// cannot be read without one is told in the report.
    async fn check_identity(&self, database: &Database) -> Result<(), KeyError> {
        match database.keys.identities().await {
            Err(KeyError::NoIdentity) | Ok(_) => Ok(()),
            Err(_) if self.quick => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn asked(&self, database: &Database) -> Asked {
        let rotation = verify::rotation(&database.schedule.config.verify);
        match self.sample {
            Some(share) => Asked::Sample(crate::decide::sample::Rotation { share, ..rotation }),
            None if self.quick => Asked::Quick,
            None => Asked::Full,
        }
    }
}

/// What is printed: of each vault a report per history that it holds, or why there
/// is none.
#[derive(Debug, Serialize)]
struct Verified {
    verdict: Verdict,
    reports: Vec<Report>,
    unverified: Vec<Unverified>,
}

/// A vault in which nothing of a database was verified.
#[derive(Debug, Serialize)]
struct Unverified {
    database: DatabaseName,
    vault: VaultName,
    reason: String,
}

impl Unverified {
    /// Why a vault has nothing to verify; none where it may have.
    async fn before_reading(database: &Database, vault: &Vault) -> Option<Self> {
        let store = vault.store.as_ref();
        let held = async {
            let is_there = VaultIdentity::read(store).await?.is_some();
            Ok::<_, StoreError>((is_there, store.list(&format!("{}/", database.name)).await?))
        };
        let name = &store.place().vault;
        let error = match visit(name, held).await {
            Ok((_, held)) if !held.is_empty() => return None,
            Ok((true, _)) => {
                let (vault, database) = (name.to_string(), database.name.to_string());
                with_causes(&RestoreError::Nothing { vault, database })
            }
            Ok((false, _)) => StoreError::NoVault { vault: name.clone() }.to_string(),
            Err(error) => with_causes(&error),
        };
        Some(Self { database: database.name.clone(), vault: name.clone(), reason: error })
    }
}

pub async fn run(options: Options, invocation: &Invocation) -> Result<u8> {
    if options.record {
        return record(options, invocation).await;
    }
    let estate = config::load(&invocation.config)?;
    // What a provider keeps is in no vault.
    let own = estate.schedules.iter().map(|schedule| &schedule.config).filter(|schedule| schedule.managed().is_none());
    let names: Vec<DatabaseName> = match &options.database {
        Some(name) => vec![name.clone()],
        None => own.map(|schedule| schedule.database.clone()).collect(),
    };
    let mut reports = Vec::new();
    let (mut verdicts, mut unverified) = (Vec::new(), Vec::new());
    for name in names {
        let trusted = options.signed_by.as_deref().map(restore::trusted).transpose()?;
        let database = app::open_for_restore(&estate, &name, trusted).await?;
        options.depth.check_identity(&database).await?;
        for vault in chosen(&database, options.vault.as_ref())? {
            if let Some(without) = Unverified::before_reading(&database, vault).await {
                verdicts.push(Verdict::Inconclusive);
                unverified.push(without);
                continue;
            }
            let found = of_vault(&database, vault, &options.depth).await?;
            // A vault that holds nothing of it has passed nothing.
            verdicts.push(verify::verdict(&found));
            reports.extend(found);
        }
    }
    let verified = Verified { verdict: Verdict::worst(verdicts), reports, unverified };
    invocation.print(&verified, text)?;
    Ok(verified.verdict.exit_code())
}

fn chosen<'a>(database: &'a Database, name: Option<&VaultName>) -> Result<Vec<&'a Vault>, UsageError> {
    match name {
        Some(name) => Ok(vec![restore::chosen_vault(database, name)?]),
        None => Ok(database.vaults.iter().collect()),
    }
}

/// Verifies one vault, and shows how far it is. An interrupt ends it.
async fn of_vault(database: &Database, vault: &Vault, depth: &Depth) -> Result<Vec<Report>> {
    let mut interrupt = Interrupt::listen()?;
    let name = &vault.store.place().vault;
    let line = Line::start(format!("verifying `{}` in `{name}`", database.name));
    let say = |what: &str, done: Option<u64>, total: Option<u64>| {
        line.say(match (done, total) {
            (Some(done), Some(total)) if total > 0 => {
                let (done, total) = (ByteSize::from_bytes(done), ByteSize::from_bytes(total));
                format!("`{}` in `{name}`: {what} {done} of about {total}", database.name)
            }
            _ => format!("`{}` in `{name}`: {what}", database.name),
        });
    };
    let stop = CancellationToken::new();
    let now = Clock::system().now();
    let request = Request { depth: depth.asked(database), turn_at: now, now };
    let mut verifying = std::pin::pin!(verify::vault(database, vault, request, &stop, &say));
    let found = tokio::select! {
        found = &mut verifying => found,
        () = interrupt.heard() => {
            stop.cancel();
            verifying.await
        }
    };
    line.clear();
    match found {
        Err(StepError::Stopped) => anyhow::bail!("interrupted: nothing is known of what was not read yet"),
        found => Ok(found?),
    }
}

/// The same as durable runs, one per vault.
async fn record(options: Options, invocation: &Invocation) -> Result<u8> {
    let app = open(invocation, Role::WithoutDns).await?;
    let mut verdicts = Vec::new();
    let mut concluded = Vec::new();
    for database in app.chosen(options.database.as_ref())? {
        for vault in chosen(&database, options.vault.as_ref())? {
            let name = vault.store.place().vault.clone();
            let id = RunId::new(verify::NAME, database.name.as_str(), name.as_str(), &app.stamp());
            let placement = database.placement([&name]);
            let depth = options.depth.asked(&database);
            let params = Params { database: database.name.clone(), vault: name, depth, due_at: None };
            let run = NewRun::new(id, &database.name, &params, who())?.placed(placement);
            let summary = progress::drive(&app, run).await?;
            verdicts.push(summary.conclusion.as_ref().map_or(Verdict::Error, |conclusion| conclusion.verdict));
            concluded.push(summary);
        }
    }
    if invocation.json {
        let outputs: Vec<_> = concluded.iter().filter_map(|run| Some(&run.conclusion.as_ref()?.output)).collect();
        invocation.print(&serde_json::json!({"runs": outputs}), ToString::to_string)?;
    } else {
        for summary in &concluded {
            crate::cli::runs::print_conclusion(invocation, summary)?;
        }
    }
    Ok(Verdict::worst(verdicts).exit_code())
}

fn text(verified: &Verified) -> String {
    let mut text = String::new();
    for report in &verified.reports {
        let mut table = table(["", "listed", "read", "bytes"]);
        for (kind, tally) in &report.objects {
            table.add_row([
                kind.as_str().to_owned(),
                tally.listed.to_string(),
                tally.read.to_string(),
                ByteSize::from_bytes(tally.read_bytes).to_string(),
            ]);
        }
        text = format!(
            "{text}{} in {}, system id {}: {}, {} backup(s)\n{table}\n",
            report.database,
            report.vault,
            report.system_id,
            report.verdict(),
            report.backups.len()
        );
        for defect in &report.defects {
            text = format!("{text}{defect}\n");
        }
        for what in &report.unchecked {
            text = format!("{text}not checked: {what}\n");
        }
        for note in &report.notes {
            text = format!("{text}note: {note}\n");
        }
    }
    for Unverified { database, vault, reason } in &verified.unverified {
        text = format!("{text}{database} in {vault}: not verified: {reason}\n");
    }
    format!("{text}{}", verified.verdict)
}
