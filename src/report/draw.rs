//! Geometry of the drawings: numbers in, positions in percent out. Percent, so
//! that a drawing fills any width while its text keeps its size.

use jiff::Timestamp;

use super::words;
use crate::domain::{Phase, record::DnsTimes};

/// Number of colours in the stylesheet (`.c0` …).
const COLOURS: usize = 8;

/// One phase in a stacked bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    pub name: String,
    pub seconds: f64,
    pub colour: usize,
    /// Percent of the whole width.
    pub x: f64,
    pub width: f64,
    /// Wide enough to carry its figure.
    pub labelled: bool,
}

impl Segment {
    /// Percent at which its label is centred.
    pub fn middle(&self) -> f64 {
        self.x + self.width / 2.0
    }
}

/// Lays phases end to end. Those without a length are kept, with no width.
pub fn stack(phases: &[Phase]) -> Vec<Segment> {
    let total: f64 = phases.iter().map(|phase| phase.seconds.max(0.0)).sum();
    let scale = if total > 0.0 { 100.0 / total } else { 0.0 };
    let mut x = 0.0;
    let mut segments = Vec::with_capacity(phases.len());
    for (at, phase) in phases.iter().enumerate() {
        let width = phase.seconds.max(0.0) * scale;
        segments.push(Segment {
            name: phase.name.clone(),
            seconds: phase.seconds,
            colour: at % COLOURS,
            x,
            width,
            labelled: width >= 9.0,
        });
        x += width;
    }
    segments
}

/// One instant of a change of DNS.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsMark {
    /// `D0` … `D7`.
    pub name: &'static str,
    pub meaning: &'static str,
    pub at: Option<Timestamp>,
    /// Seconds since D0; none where either was not measured.
    pub offset: Option<f64>,
    /// Percent of the way from D0 to the last mark.
    pub x: Option<f64>,
}

/// The eight instants, measured or not.
pub fn dns_marks(times: &DnsTimes) -> Vec<DnsMark> {
    let named = [
        ("D0", "decision", times.d0),
        ("D1", "change accepted", times.d1),
        ("D2", "provider in sync", times.d2),
        ("D3", "every authoritative server answers anew", times.d3),
        ("D4", "recursive resolvers answer anew", times.d4),
        ("D5", "clients reach the new site", times.d5),
        ("D6", "old site drained", times.d6),
        ("D7", "stable period began", times.d7),
    ];
    let offset = |at: Option<Timestamp>| Some(words::between(&times.d0?, &at?));
    let longest = named.iter().filter_map(|(_, _, at)| offset(*at)).fold(0.0, f64::max);
    named
        .into_iter()
        .map(|(name, meaning, at)| {
            let offset = offset(at);
            let x = offset.map(|offset| if longest > 0.0 { (offset / longest * 100.0).clamp(0.0, 100.0) } else { 0.0 });
            DnsMark { name, meaning, at, offset, x }
        })
        .collect()
}

/// Keeps a mark that stands at either end inside the drawing.
pub fn inset(x: &f64) -> f64 {
    0.8 + x * 0.984
}

/// How far a measured value reaches on a bar whose objective stands at 75
/// percent; at least a sliver, so that something is seen of what is not zero.
pub fn against(value: &f64, objective: f64) -> f64 {
    let value = *value;
    if value <= 0.0 {
        0.0
    } else if objective <= 0.0 {
        100.0
    } else {
        (value / objective * 75.0).clamp(0.8, 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_fill_the_bar_exactly() {
        let phases = [("fetch", 3.0), ("replay", 6.0), ("nothing", 0.0), ("checks", 1.0)]
            .map(|(name, seconds)| Phase { name: name.into(), seconds });
        let segments = stack(&phases);
        assert_eq!(segments.iter().map(|s| s.width).collect::<Vec<_>>(), [30.0, 60.0, 0.0, 10.0]);
        assert_eq!(segments.iter().map(|s| s.x).collect::<Vec<_>>(), [0.0, 30.0, 90.0, 90.0]);
        assert!(stack(&[Phase { name: "x".into(), seconds: 0.0 }]).iter().all(|s| s.width == 0.0));
    }

    #[test]
    fn an_instant_that_was_not_measured_has_no_place() {
        let at = |text: &str| Some(text.parse().unwrap());
        let times = DnsTimes {
            d0: at("2026-11-21T05:00:00Z"),
            d1: at("2026-11-21T05:00:01Z"),
            d7: at("2026-11-21T05:00:04Z"),
            ..DnsTimes::default()
        };
        let marks = dns_marks(&times);
        assert_eq!(marks[1].offset, Some(1.0));
        assert_eq!(marks[1].x, Some(25.0));
        assert_eq!(marks[7].x, Some(100.0));
        assert_eq!((marks[2].offset, marks[2].x), (None, None));
    }

    #[test]
    fn the_objective_stands_at_three_quarters() {
        assert!((against(&900.0, 900.0) - 75.0).abs() < 1e-9);
        assert!((against(&0.0, 900.0) - 0.0).abs() < 1e-9);
        assert!((against(&9000.0, 900.0) - 100.0).abs() < 1e-9);
        assert!((against(&1.0, 0.0) - 100.0).abs() < 1e-9);
    }
}
