//! Statistics over runs: n, p50, p95 and max, by nearest rank, so that every
//! figure is one that was really measured.

use serde::Serialize;

use crate::domain::Verdict;

/// What a measure came to over all runs of a kind. A figure is none when
/// nothing was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Runs that were to measure it.
    pub runs: usize,
    /// Runs that did.
    pub n: usize,
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub max: Option<f64>,
    /// Runs that ended FAIL, ABORTED or ERROR.
    pub failures: usize,
    pub inconclusive: usize,
}

impl Figures {
    /// Over runs, each with its verdict and what it measured.
    pub fn of(runs: impl IntoIterator<Item = (Verdict, Option<f64>)>) -> Self {
        let mut figures = Self { runs: 0, n: 0, p50: None, p95: None, max: None, failures: 0, inconclusive: 0 };
        let mut values = Vec::new();
        for (verdict, measured) in runs {
            figures.runs += 1;
            match verdict {
                Verdict::Pass => {}
                Verdict::Inconclusive => figures.inconclusive += 1,
                Verdict::Fail | Verdict::Aborted | Verdict::Error => figures.failures += 1,
            }
            values.extend(measured.filter(|value| value.is_finite()));
        }
        values.sort_by(f64::total_cmp);
        figures.n = values.len();
        figures.p50 = nearest_rank(&values, 50);
        figures.p95 = nearest_rank(&values, 95);
        figures.max = values.last().copied();
        figures
    }
}

/// The smallest value that at least `percent` of all are not above.
fn nearest_rank(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_one_that_was_measured() {
        let runs = (1..=20).map(|i| (Verdict::Pass, Some(f64::from(i))));
        let figures = Figures::of(runs);
        assert_eq!((figures.p50, figures.p95, figures.max), (Some(10.0), Some(19.0), Some(20.0)));
        let figures =
            Figures::of([(Verdict::Fail, None), (Verdict::Inconclusive, Some(3.0)), (Verdict::Pass, Some(1.0))]);
        assert_eq!((figures.runs, figures.n, figures.failures, figures.inconclusive), (3, 2, 1, 1));
        assert_eq!((figures.p50, figures.p95, figures.max), (Some(1.0), Some(3.0), Some(3.0)));
        assert_eq!(Figures::of([]).max, None);
    }
}
