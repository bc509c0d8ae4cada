//! Tells of the WAL that is not there what its absence breaks, and whether it is
//! a defect, may have expired, or is still on its way.

use jiff::SignedDuration;

use super::{Defect, Fault, Report, Verify};
use crate::{
    decide::recovery::{Facts, gaps},
    domain::{BackupId, Beat, Lsn, Segment, SegmentSize},
};

/// The WAL of a backup may still be on its way for that long after its end.
const WAL_GRACE: SignedDuration = SignedDuration::from_mins(15);

/// Reports every gap with what it breaks. WAL that retention has let go is none.
pub(super) fn account(verify: &Verify<'_>, facts: &Facts, beats: &[Beat], report: &mut Report) {
    let instants: Vec<gaps::Instant> =
        beats.iter().map(|beat| (beat.timeline, beat.commit_lsn, beat.acknowledged_at)).collect();
    for gap in gaps::gaps(facts, &instants, &|segment| (verify.retained)(segment)) {
        match gap.need {
            gaps::Need::Needed => {}
            gaps::Need::Unknown => {
                let what = told(&gap, facts.segment_size);
                report.notes.push(format!("it may have expired, as no backup needs it for itself: {what}"));
                continue;
            }
            gaps::Need::Expired => continue,
        }
        let is_arriving = |id: &BackupId| {
            let of = facts.backups.iter().find(|backup| backup.id == *id);
            of.is_some_and(|of| of.finished_at + WAL_GRACE > verify.now && gap.to == of.stop_lsn)
        };
        if !gap.unusable.is_empty() && gap.cut_off.is_empty() && gap.unusable.iter().all(is_arriving) {
            let names: Vec<&str> = gap.unusable.iter().map(BackupId::as_str).collect();
            report.unchecked.push(format!(
                "the WAL of backup {} up to {} is still on its way",
                names.join(", "),
                gap.to
            ));
            continue;
        }
        let first = Segment::holding(gap.timeline, gap.from, facts.segment_size);
        let mut defect =
            Defect::new(verify.layout.segment(first, facts.segment_size), Fault::Gap, told(&gap, facts.segment_size));
        defect.backup = gap.unusable.first().cloned();
        report.defects.push(defect);
    }
}

/// A gap in words: the LSNs, the backups, the instants.
fn told(gap: &gaps::Gap, size: SegmentSize) -> String {
    let listed = |ids: &[BackupId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let count = size.number_of(Lsn(gap.to.0 - 1)) - size.number_of(gap.from) + 1;
    let mut what = format!(
        "WAL of timeline {} from {} to {} is missing ({count} segment{})",
        gap.timeline,
        gap.from,
        gap.to,
        if count == 1 { "" } else { "s" }
    );
    if !gap.unusable.is_empty() {
        what = format!("{what}; it cannot be restored without it: backup {}", listed(&gap.unusable));
    }
    if !gap.cut_off.is_empty() {
        let after = gap.after.map_or_else(|| "its own end".to_owned(), |after| after.to_string());
        let until = gap.until.map_or_else(|| "now".to_owned(), |until| until.to_string());
        let backups = listed(&gap.cut_off);
        what = format!("{what}; no instant between {after} and {until} can be restored from backup {backups}");
    }
    what
}
