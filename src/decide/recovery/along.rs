//! One line of history of several, by its last timeline: what was written before
//! a promotion and is nowhere but in the vaults lies on the older one.
//!
//! What must never happen: another line than the one that was named.

use super::{Coverage, Facts, Line, Refusal, named, off_line};
use crate::domain::{BackupId, Timeline};

impl Facts {
    /// What leads along `timeline` to its end, and nothing of later ones.
    pub fn along(mut self, timeline: Timeline, backup: Option<&BackupId>) -> Result<Self, Refusal> {
        let backups = self.backups.iter().map(|backup| backup.timeline);
        let known: std::collections::BTreeSet<Timeline> =
            self.coverage.timelines().into_iter().chain(backups).collect();
        if !known.contains(&timeline) {
            return Err(Refusal::NoTimeline { timeline, known: known.into_iter().collect() });
        }
        let line = Line::leading_to(timeline, &self.histories)?;
        if let Some(id) = backup {
            let backup = named(&self, id)?;
            if !line.holds(backup) {
                return Err(off_line(&self, &line, backup));
            }
        }
        let all: Vec<_> = self.restorable().map(|backup| (backup.id.clone(), backup.timeline)).collect();
        self.backups.retain(|backup| line.holds(backup));
        if self.restorable().next().is_none() {
            return Err(if all.is_empty() { Refusal::NoBackup } else { Refusal::NoBackupOn { timeline, known: all } });
        }
        self.coverage.retain(&line);
        Ok(self)
    }
}

impl Coverage {
    fn retain(&mut self, line: &Line) {
        let is_on = |timeline| line.timelines().any(|on| on == timeline);
        self.whole.retain(|segment| is_on(segment.timeline));
        self.tails.retain(|segment, _| is_on(segment.timeline));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        decide::recovery::{Candidate, choose},
        domain::{Lsn, RecoveryTarget, Segment, SegmentSize},
    };

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn lsn(segment: u64, offset: u64) -> Lsn {
        Lsn(segment * SIZE.bytes() + offset)
    }

    /// Timeline 1 goes on to segment 7; timeline 2 left it in segment 4, and 3 left 2 in segment 6.
    fn facts() -> Facts {
        let mut coverage = Coverage::default();
        for (timeline, numbers) in [(1, 1..8), (2, 4..7), (3, 6..10)] {
            numbers.for_each(|number| coverage.add_whole(Segment { timeline: Timeline(timeline), number }));
        }
        let candidate = |id: &str, timeline, at| Candidate {
            id: id.parse().unwrap(),
            timeline: Timeline(timeline),
            start_lsn: at,
            stop_lsn: at.forward(100),
            finished_at: jiff::Timestamp::UNIX_EPOCH,
            parent: None,
        };
        let fork = |timeline, at| (Timeline(timeline), at);
        Facts {
            backups: vec![candidate("a", 1, lsn(2, 40)), candidate("b", 1, lsn(5, 40)), candidate("c", 2, lsn(5, 40))],
            coverage,
            histories: BTreeMap::from([
                (Timeline(2), vec![fork(1, lsn(4, 1000))]),
                (Timeline(3), vec![fork(1, lsn(4, 1000)), fork(2, lsn(6, 1000))]),
            ]),
            segment_size: SIZE,
            not_after: None,
        }
    }

    fn taken(timeline: u32, target: &RecoveryTarget, backup: Option<&str>) -> Result<(String, u32, Lsn), Refusal> {
        let backup = backup.map(|id| id.parse().unwrap());
        let facts = facts().along(Timeline(timeline), backup.as_ref())?;
        let chosen = choose(&facts, target, backup.as_ref())?;
        Ok((chosen.backup.to_string(), chosen.timeline.0, chosen.end))
    }

    #[test]
    fn the_line_that_was_named_is_followed_to_its_own_end() {
        let latest = |timeline, backup| taken(timeline, &RecoveryTarget::Latest, backup).unwrap();
        assert_eq!(latest(3, None), ("c".to_owned(), 3, lsn(10, 0)));
        assert_eq!(latest(1, None), ("b".to_owned(), 1, lsn(8, 0)), "beyond the fork, from a backup there");
        assert_eq!(latest(1, Some("a")), ("a".to_owned(), 1, lsn(8, 0)));
        assert_eq!(latest(2, None), ("c".to_owned(), 2, lsn(7, 0)));
        assert_eq!(taken(1, &RecoveryTarget::Immediate, None).unwrap().0, "b");
        let at = |timeline| taken(timeline, &RecoveryTarget::Lsn(lsn(5, 500)), None).unwrap();
        assert_eq!((at(1).1, at(2).1, at(3).1), (1, 2, 2), "the same position on each line");
        let early = taken(3, &RecoveryTarget::BeforeLsn(lsn(3, 0)), None).unwrap();
        assert_eq!((early.0.as_str(), early.1), ("a", 1), "before both forks");
    }

    #[test]
    fn what_is_not_there_or_leads_elsewhere_is_refused_with_what_is() {
        let refused = |timeline, backup| taken(timeline, &RecoveryTarget::Latest, backup).unwrap_err();
        let unknown = refused(7, None);
        assert!(matches!(unknown, Refusal::NoTimeline { .. }) && unknown.to_string().ends_with("of: 1, 2, 3"));
        let off = refused(2, Some("b")).to_string();
        assert!(off.contains("`b` is on timeline 1") && off.contains("timeline 2") && off.contains("c, a"), "{off}");
        let past = taken(1, &RecoveryTarget::Lsn(lsn(9, 0)), None).unwrap_err();
        assert!(matches!(&past, Refusal::AfterTip { bounds, .. } if bounds.newest == lsn(8, 0)), "{past}");
        let mut facts = facts();
        facts.backups.remove(0);
        facts.backups.pop();
        let none = facts.along(Timeline(3), None).unwrap_err().to_string();
        assert!(none.contains("timeline 3") && none.contains("b on timeline 1"), "{none}");
    }
}
