//! What a schema cannot say: contradictions inside a file and over files.
//!
//! Rules read the located trees and not the types, so that a file with one bad
//! value is still checked for everything else. A rule that lacks a value it
//! needs is silent: the schema has reported that value already.

mod daemon;
mod notify;
mod objectives;
mod runbook;
mod schedule;
mod secret_stores;

use std::{collections::BTreeMap, path::Path};

use super::{
    problem::{Place, Problems},
    yaml::Spot,
};
use crate::domain::Span;

/// A file as rules see it.
#[derive(Clone, Copy)]
pub(super) struct Tree<'a> {
    pub(super) file: &'a Path,
    pub(super) root: Spot<'a>,
}

/// Collects the problems of one file.
struct Report<'a> {
    file: &'a Path,
    problems: &'a mut Problems,
}

impl Report<'_> {
    fn add(&mut self, place: Place, what: impl Into<String>, remedy: impl Into<String>) {
        self.problems.add(self.file, place, what, remedy);
    }

    /// Refuses `0s` where nothing could ever be that quick.
    fn refuse_zero(&mut self, parent: Spot<'_>, key: &str, remedy: &str) {
        let spot = parent.get(key);
        if spot.parsed::<Span>() == Some(Span::from_secs(0)) {
            self.add(spot.place, format!("`{key}` is zero"), remedy);
        }
    }

    /// A command is a list whose first item is a program's absolute path.
    fn command(&mut self, list: Spot<'_>) {
        match list.items().next() {
            None if list.is_empty() => self.add(list.place, "the command is empty", "write `[/path/to/program, …]`"),
            None => {}
            Some(program) => {
                if let Some((what, remedy)) = super::leaf::refuse("program", program.text().unwrap_or("/")) {
                    self.add(program.place, what, remedy);
                }
            }
        }
    }

    /// Where a secret is found: a command must be one, and a store must be known.
    fn secret(&mut self, daemon: Spot<'_>, secret: Spot<'_>) {
        self.command(secret.get("command"));
        if secret.get("vault").exists() && daemon.exists() && !daemon.get("secret_stores").get("vault").exists() {
            self.add(
                secret.key("vault"),
                "nothing says where HashiCorp Vault is",
                "write `secret_stores: {vault: {address: …}}` in lifeboat.yaml (`docs/secrets.md`)",
            );
        }
    }

    /// Values that stand in a list twice.
    fn refuse_twins(&mut self, list: Spot<'_>) {
        let mut seen: Vec<&str> = Vec::new();
        for item in list.items() {
            let Some(text) = item.text() else { continue };
            if seen.contains(&text) {
                self.add(item.place, format!("`{text}` is listed twice"), "keep one of the two");
            }
            seen.push(text);
        }
    }
}

pub(super) fn check(daemon: &Tree<'_>, schedules: &[Tree<'_>], runbooks: &[Tree<'_>], problems: &mut Problems) {
    // A file of which nothing could be read has its problem already.
    let readable = |tree: &&Tree<'_>| tree.root.exists();
    if readable(&daemon) {
        daemon::check(daemon.root, &mut Report { file: daemon.file, problems });
        objectives::check(daemon, schedules, problems);
    }
    for schedule in schedules.iter().filter(readable) {
        schedule::check(daemon.root, schedule.root, &mut Report { file: schedule.file, problems });
    }
    for runbook in runbooks.iter().filter(readable) {
        runbook::check(daemon.root, schedules, runbook.root, &mut Report { file: runbook.file, problems });
    }
    refuse_same_name(schedules, "database", "database", problems);
    refuse_same_name(runbooks, "runbook", "runbook", problems);
}

fn refuse_same_name(trees: &[Tree<'_>], key: &str, what: &str, problems: &mut Problems) {
    let mut first: BTreeMap<&str, &Path> = BTreeMap::new();
    for tree in trees {
        let spot = tree.root.get(key);
        let Some(name) = spot.text() else { continue };
        if let Some(first) = first.get(name) {
            let what = format!("the {what} `{name}` is defined in {} already", first.display());
            problems.add(tree.file, spot.place, what, "rename one of the two, or merge the files");
        } else {
            first.insert(name, tree.file);
        }
    }
}

/// Names that exist, for a message.
fn known<'a>(names: impl Iterator<Item = &'a str>, text: &str, kind: &str) -> String {
    let names: Vec<&str> = names.collect();
    match super::walk::nearest(text, &names) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names.is_empty() => format!("define a {kind} first"),
        None => format!("use one of: {}", names.join(", ")),
    }
}
