//! `make bench`: backup and restore of Lifeboat beside its peers, on the same
//! cluster, in the same run, one after the other in turns; then what there is no
//! peer for: recovery point, catch-up and replay of WAL. Prints ratios and
//! medians; with `--write FILE` they replace what stands between the markers of
//! that file. `--only NAME` measures one thing. What is measured here is never
//! asserted.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a benchmark ends at its first error, and its figures are for people"
)]

use std::path::PathBuf;

mod catch_up;
mod contenders;
mod daemon;
mod emulator;
mod estate;
mod forecast;
mod measure;
mod nodes;
mod recovery_point;
mod schedules;
mod table;
mod wal;

use contenders::Contender;
use estate::{Estate, PEERS_MAJOR};
use measure::Measured;
use table::{Row, Table};

/// Turns that each contender has; of very many small files, of which a turn takes
/// minutes, one.
const ROUNDS: usize = 3;
const ROUNDS_OF_MANY: usize = 1;
/// On which Lifeboat takes increments.
const OUR_MAJOR: u32 = 18;

/// What can be measured alone. The first of those on one cluster changes it least.
const PEERS: &str = "peers";
const RECOVERY_POINT: &str = "recovery-point";
const CATCH_UP: &str = "catch-up";
const WAL: &str = "wal";
const FORECAST: &str = "forecast";
const NODES: &str = "nodes";
const SCHEDULES: &str = "schedules";
const RELATIONS: &str = "relations";
const ALL: [&str; 8] = [PEERS, RECOVERY_POINT, CATCH_UP, WAL, FORECAST, NODES, SCHEDULES, RELATIONS];

/// What can be asked for.
struct Options {
    /// 1.0 is a cluster of about 3.6 GB.
    scale: f64,
    relations: u32,
    only: Option<String>,
    write: Option<PathBuf>,
}

impl Options {
    /// `cargo bench` adds `--bench`, which says nothing.
    fn read() -> Self {
        let mut options = Self { scale: 1.0, relations: 100_000, only: None, write: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--scale" => options.scale = words.next().unwrap().parse().unwrap(),
                "--relations" => options.relations = words.next().unwrap().parse().unwrap(),
                "--only" => options.only = words.next(),
                "--write" => options.write = words.next().map(PathBuf::from),
                _ => {}
            }
        }
        let only = options.only.as_deref();
        assert!(only.is_none_or(|only| ALL.contains(&only)), "--only takes one of {}", ALL.join(", "));
        options
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }

    fn tell(&self, name: &str, text: &str) {
        println!("{text}");
        if let Some(file) = &self.write {
            table::put(file, name, text);
        }
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    // A node that the section `nodes` has started.
    if let Some((url, name)) = nodes::asked() {
        return runtime.block_on(nodes::serve(&url, &name));
    }
    runtime.block_on(run(Options::read()));
}

async fn run(options: Options) {
    if [PEERS, RECOVERY_POINT, CATCH_UP, WAL].iter().any(|name| options.wants(name)) {
        let estate = Estate::with_bets(PEERS_MAJOR, options.scale).await;
        if options.wants(PEERS) {
            options.tell(PEERS, &peers(&estate, &options).await.markdown());
        }
        if options.wants(RECOVERY_POINT) {
            options.tell(RECOVERY_POINT, &table::figures(&recovery_point::measure(&estate).await));
        }
        if options.wants(CATCH_UP) {
            options.tell(CATCH_UP, &table::figures(&catch_up::measure(&estate, options.scale).await));
        }
        if options.wants(WAL) {
            options.tell(WAL, &table::figures(&wal::measure(&estate, options.scale).await));
        }
        estate.end().await;
    }
    if options.wants(FORECAST) {
        options.tell(FORECAST, &table::figures(&forecast::measure(options.scale).await));
    }
    if options.wants(NODES) {
        options.tell(NODES, &table::figures(&nodes::measure().await));
    }
    if options.wants(SCHEDULES) {
        options.tell(SCHEDULES, &table::figures(&schedules::measure().await));
    }
    if options.wants(RELATIONS) && options.relations > 0 {
        let mut table = Table::default();
        let estate = Estate::with_relations(options.relations).await;
        let size = estate.size_bytes().await;
        let what = format!("{:.1} GB in {} files", size as f64 / 1e9, estate.files());
        let contenders = Contender::all(&estate).await;
        turns(&estate, &contenders, &what, ROUNDS_OF_MANY, &mut table).await;
        estate.end().await;
        options.tell(RELATIONS, &table.markdown());
    }
}

/// Full backups, increments and restores.
async fn peers(estate: &Estate, options: &Options) -> Table {
    let mut table = Table::default();
    let size = estate.size_bytes().await;
    eprintln!("cluster of {size} bytes");
    let contenders = Contender::all(estate).await;
    let what = format!("{:.1} GB in {} files", size as f64 / 1e9, estate.files());
    turns(estate, &contenders, &what, ROUNDS, &mut table).await;
    let what = format!("{:.1} GB, one bet in 150 updated before each", size as f64 / 1e9);
    for contender in contenders.iter().skip(1) {
        increments(estate, contender, &what, &mut table).await;
    }
    let estate = Estate::with_bets(OUR_MAJOR, options.scale).await;
    let lifeboat = Contender::lifeboat(&estate);
    eprintln!("the full backup below the increments: {:?}", lifeboat.back_up(&estate).await);
    increments(&estate, &lifeboat, &what, &mut table).await;
    estate.end().await;
    table
}

/// Increments upon increments, each restored; nothing of a contender that has none.
async fn increments(estate: &Estate, contender: &Contender, what: &str, table: &mut Table) {
    let (mut taken, mut restored, mut stored) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        estate.settle_bets(round).await;
        let Some(increment) = contender.increment(estate).await else { return };
        let restore = contender.restore(estate).await;
        let bytes = contender.stored_bytes();
        eprintln!("round {round}: {}: increment {increment:?}, restore {restore:?}, {bytes} stored", contender.name());
        taken.push(increment);
        restored.push(restore);
        stored.push(bytes);
    }
    stored.sort_unstable();
    for (work, measured, stored_bytes) in
        [("increment", taken, stored.get(ROUNDS / 2).copied()), ("restore of an increment", restored, None)]
    {
        let (work, what, who) = (work.to_owned(), what.to_owned(), contender.name().to_owned());
        table.rows.push(Row { work, what, who, measured, stored_bytes });
    }
}

/// Backups and restores of all contenders in turns.
async fn turns(estate: &Estate, contenders: &[Contender], what: &str, rounds: usize, table: &mut Table) {
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
