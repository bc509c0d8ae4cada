//! When edited files are read: once they look different from those that were taken,
//! and look the same twice in a row, so that nobody is read in the middle of saving
//! several. Names, sizes and times of change are looked at, which network file
//! systems tell of as well.

use std::collections::BTreeMap;

/// How the files look: size and time of change in nanoseconds, by name.
pub type Look = BTreeMap<String, (u64, i128)>;

/// What was seen so far.
#[derive(Debug, Clone)]
pub struct Edits {
    taken: Look,
    last: Look,
}

impl Edits {
    /// `taken` are the files that were read.
    pub fn since(taken: Look) -> Self {
        Self { last: taken.clone(), taken }
    }

    /// Whether the files are to be read now. They count as taken then, also where
    /// they turn out to be broken: the same edit is not refused over and over.
    pub fn are_done(&mut self, look: Look) -> bool {
        let are_done = look == self.last && look != self.taken;
        if are_done {
            self.taken.clone_from(&look);
        }
        self.last = look;
        are_done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(files: &[(&str, u64)]) -> Look {
        files.iter().map(|(name, size)| ((*name).to_owned(), (*size, 0))).collect()
    }

    #[test]
    fn files_are_read_once_they_rest() {
        let start = [("a", 1)];
        for (what, looks) in [
            ("nothing changed", &[(&start[..], false), (&start, false)][..]),
            ("an edit, once", &[(&[("a", 2)], false), (&[("a", 2)], true), (&[("a", 2)], false)]),
            ("an edit under way", &[(&[("a", 2)], false), (&[("a", 3)], false), (&[("a", 3)], true)]),
            ("an edit taken back before it was read", &[(&[("a", 2)], false), (&start, false), (&start, false)]),
            ("a new file", &[(&[("a", 1), ("b", 1)], false), (&[("a", 1), ("b", 1)], true)]),
            ("a file that went", &[(&[], false), (&[], true)]),
            ("broken, then as it was", &[(&[("a", 2)], false), (&[("a", 2)], true), (&start, false), (&start, true)]),
        ] {
            let mut edits = Edits::since(look(&start));
            for (nth, (files, expected)) in looks.iter().enumerate() {
                assert_eq!(edits.are_done(look(files)), *expected, "{what}: look {nth}");
            }
        }
    }
}
