//! What is wrong with what the operator wrote, and where. A problem always
//! names a place and a remedy: `FILE:LINE:COLUMN: what; remedy`.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// A place in a file; both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Place {
    /// Where a problem of a whole file is shown.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// One thing that is wrong. Ordered by file, then place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    pub file: PathBuf,
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column } = self.place;
        write!(f, "{}:{line}:{column}: {}; {}", self.file.display(), self.what, self.remedy)
    }
}

/// Everything that is wrong, sorted; one line each when printed. Never empty
/// where it is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(transparent)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, file: &Path, place: Place, what: impl Into<String>, remedy: impl Into<String>) {
        let (what, remedy) = (on_one_line(what.into()), on_one_line(remedy.into()));
        self.0.push(Problem { file: file.to_owned(), place, what, remedy });
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    pub(super) fn sort(&mut self) {
        self.0.sort();
        self.0.dedup();
    }
}

/// What was written may hold anything, and goes to a terminal.
fn on_one_line(text: String) -> String {
    if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, problem) in self.0.iter().enumerate() {
            if nth > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
