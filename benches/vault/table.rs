//! The figures as a table: medians, and ratios to the peer of the same run.

use std::{fmt::Write as _, path::Path};

use super::measure::{Measured, median};

/// Rows of this contender are the measure of all others.
const PEER: &str = "pgBackRest";

pub(crate) struct Row {
    pub(crate) work: String,
    pub(crate) what: String,
    pub(crate) who: String,
    pub(crate) measured: Vec<Measured>,
    pub(crate) stored_bytes: Option<u64>,
}

impl Row {
    fn seconds(&self) -> f64 {
        median(self.measured.iter().map(|measured| measured.seconds).collect())
    }

    fn peak_mib(&self) -> f64 {
        let peak = self.measured.iter().map(|measured| measured.peak_bytes).max().unwrap_or(0);
        peak as f64 / f64::from(1 << 20)
    }
}

/// What nobody else is beside.
pub(crate) struct Figure {
    pub(crate) work: String,
    pub(crate) what: String,
    pub(crate) measured: String,
    pub(crate) goal: String,
}

/// A table of such figures.
pub(crate) fn figures(all: &[Figure]) -> String {
    let mut text = format!("{}\n\n| work | with | measured | goal |\n|---|---|---|---|\n", machine());
    for Figure { work, what, measured, goal } in all {
        let _written = writeln!(text, "| {work} | {what} | {measured} | {goal} |");
    }
    text
}

#[derive(Default)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
}

impl Table {
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{}\n\n", machine());
        text += "| work | cluster | who | time | of the peer's | stored | of the peer's | peak memory |\n";
        text += "|---|---|---|---|---|---|---|---|\n";
        for row in &self.rows {
            let peer = self.rows.iter().find(|peer| peer.work == row.work && peer.what == row.what && peer.who == PEER);
            let of_peer = peer.map_or_else(String::new, |peer| format!("{:.2}×", row.seconds() / peer.seconds()));
            let stored = row.stored_bytes.map_or_else(String::new, |bytes| format!("{:.0} MB", bytes as f64 / 1e6));
            let stored_of_peer = row.stored_bytes.zip(peer.and_then(|peer| peer.stored_bytes));
            let stored_of_peer =
                stored_of_peer.map_or_else(String::new, |(ours, peers)| format!("{:.2}×", ours as f64 / peers as f64));
            let all: Vec<String> = row.measured.iter().map(|measured| format!("{:.1}", measured.seconds)).collect();
            let _written = writeln!(
                text,
                "| {} | {} | {} | {:.1} s ({}) | {of_peer} | {stored} | {stored_of_peer} | {:.0} MiB |",
                row.work,
                row.what,
                row.who,
                row.seconds(),
                all.join(", "),
                row.peak_mib(),
            );
        }
        text
    }
}

/// On what it was measured, and with which versions.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory: u64 = read("/proc/meminfo").split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
    let mut versions = Vec::new();
    for (program, argument) in [
        ("pgbackrest", "version"),
        ("zstd", "--version"),
        ("age", "--version"),
        ("/usr/lib/postgresql/15/bin/postgres", "--version"),
        ("/usr/local/lib/postgresql/18/bin/postgres", "--version"),
    ] {
        #[expect(clippy::disallowed_methods, reason = "a benchmark asks for versions before it measures")]
        let output = std::process::Command::new(program).arg(argument).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or(program);
        versions.push(format!("{name}: {}", text.lines().next().unwrap_or_default().trim_matches('*').trim()));
    }
    format!(
        "Measured with Lifeboat {} on {cores} cores ({model}), {} GiB of memory. Versions: {}.",
        env!("CARGO_PKG_VERSION"),
        memory >> 20,
        versions.join("; ")
    )
}

/// Replaces what stands between the markers of a file that name what was measured.
pub(crate) fn put(file: &Path, name: &str, text: &str) {
    let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- end of {name} -->"));
    let old = std::fs::read_to_string(file).unwrap();
    let (head, rest) = old.split_once(&begin).unwrap();
    let (_, tail) = rest.split_once(&end).unwrap();
    std::fs::write(file, format!("{head}{begin}\n{text}\n{end}{tail}")).unwrap();
}
