//! `make bench`: backup, restore and recovery point of Lifeboat beside its
//! peers, on the same cluster, in the same run, one after the other in turns.
//! Prints ratios and medians; with `--write FILE` they replace what stands
//! between the markers of that file. What is measured here is never asserted.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a benchmark ends at its first error, and its figures are for people"
)]

use std::path::PathBuf;

mod contenders;
mod estate;
mod measure;
mod recovery_point;
mod table;

use contenders::Contender;
use estate::Estate;
use measure::Measured;
use table::{Row, Table};

/// Turns that each contender has; of very many small files, of which a turn takes
/// minutes, one.
const ROUNDS: usize = 3;
const ROUNDS_OF_MANY: usize = 1;

/// What can be asked for.
struct Options {
    /// 1.0 is a cluster of about 3.6 GB.
    scale: f64,
    relations: u32,
    write: Option<PathBuf>,
}

impl Options {
    /// `cargo bench` adds `--bench`, which says nothing.
    fn read() -> Self {
        let mut options = Self { scale: 1.0, relations: 100_000, write: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--scale" => options.scale = words.next().unwrap().parse().unwrap(),
                "--relations" => options.relations = words.next().unwrap().parse().unwrap(),
                "--write" => options.write = words.next().map(PathBuf::from),
                _ => {}
            }
        }
        options
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(Options::read()));
}

async fn run(options: Options) {
    let mut table = Table::default();
    let estate = Estate::with_bets(options.scale).await;
    let size = estate.size_bytes().await;
    eprintln!("cluster of {size} bytes");
    turns(&estate, &format!("{:.1} GB in {} files", size as f64 / 1e9, estate.files()), ROUNDS, &mut table).await;
    let seconds = recovery_point::delays(&estate).await;
    table.recovery_point = Some(seconds);
    estate.end().await;
    if options.relations > 0 {
        let estate = Estate::with_relations(options.relations).await;
        let size = estate.size_bytes().await;
        let what = format!("{:.1} GB in {} files", size as f64 / 1e9, estate.files());
        turns(&estate, &what, ROUNDS_OF_MANY, &mut table).await;
        estate.end().await;
    }
    let text = table.markdown();
    println!("{text}");
    if let Some(file) = options.write {
        table::put(&file, &text);
    }
}

/// Backups and restores of all contenders in turns.
async fn turns(estate: &Estate, what: &str, rounds: usize, table: &mut Table) {
    let contenders = Contender::all(estate).await;
    let mut backups: Vec<Vec<Measured>> = contenders.iter().map(|_| Vec::new()).collect();
    let mut restores = backups.clone();
    let mut stored = vec![0; contenders.len()];
    for round in 0..rounds {
        for (at, contender) in contenders.iter().enumerate() {
            let backup = contender.back_up(estate).await;
            stored[at] = contender.stored_bytes();
            let restore = contender.restore(estate).await;
            eprintln!(
                "round {round}: {}: backup {backup:?}, restore {restore:?}, {} stored",
                contender.name(),
                stored[at]
            );
            backups[at].push(backup);
            restores[at].push(restore);
        }
    }
    for (work, all) in [("full backup", backups), ("restore", restores)] {
        for (at, measured) in all.into_iter().enumerate() {
            table.rows.push(Row {
                work: work.to_owned(),
                what: what.to_owned(),
                who: contenders[at].name().to_owned(),
                measured,
                stored_bytes: (work == "full backup").then(|| stored[at]),
            });
        }
    }
}
