//! Whether a restore test at a provider may begin: what it will cost, by how long such
//! tests took, against what it may.
//!
//! It must never take what is not known for cheap: before the first test, it is the time
//! for which the instance may live.

use std::time::Duration;

/// What Amazon bills of an instance at least:
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/User_DBInstanceBilling.html>.
const BILLED_MIN: Duration = Duration::from_secs(600);

/// What is known of the cost, before anything is made.
#[derive(Debug, Clone, PartialEq)]
pub struct CostFacts<'a> {
    /// What a test may cost; anything where it is absent.
    pub cost_max: Option<f64>,
    pub hourly_cost: Option<f64>,
    /// How long the instances of earlier tests lived.
    pub past: &'a [Duration],
    /// How long the instance may live.
    pub ttl: Duration,
}

/// The cost that is expected; none where nobody says what an hour costs. An error, with
/// the remedy, where the test may not begin.
pub fn judge(facts: &CostFacts<'_>) -> Result<Option<f64>, String> {
    let longest = facts.past.iter().max().copied();
    let expected = longest.unwrap_or(facts.ttl).max(BILLED_MIN);
    let cost = facts.hourly_cost.map(|hourly| hourly * expected.as_secs_f64() / 3600.0);
    match (facts.cost_max, cost) {
        (Some(_), None) => Err(
            "`restore_test.target.cost_max` is of no use without `hourly_cost`; add what an hour of the instance costs"
                .to_owned(),
        ),
        // What is no number is over every limit.
        (Some(limit), Some(cost)) if cost > limit || cost.is_nan() || limit.is_nan() => {
            let hours = expected.as_secs_f64() / 3600.0;
            let by = match longest {
                Some(_) => "as long as the longest of the last tests took",
                None => "the whole `ttl`, as there was no test yet",
            };
            Err(format!(
                "the test would cost {cost:.2} for {hours:.1} hours ({by}) and may cost {limit:.2}; raise `restore_test.target.cost_max`, or name a smaller class or a shorter `ttl`"
            ))
        }
        (_, cost) => Ok(cost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_cost_too_much_does_not_begin() {
        let hour = Duration::from_secs(3600);
        let told =
            |cost_max, hourly_cost, past: &[Duration]| judge(&CostFacts { cost_max, hourly_cost, past, ttl: hour * 8 });
        assert_eq!(told(None, None, &[]), Ok(None));
        assert_eq!(told(None, Some(0.5), &[]), Ok(Some(4.0)), "the whole time that it may live");
        assert_eq!(told(Some(4.0), Some(0.5), &[]), Ok(Some(4.0)));
        assert_eq!(told(Some(1.0), Some(0.5), &[hour, hour * 2]), Ok(Some(1.0)), "as long as the longest");
        assert_eq!(told(Some(1.0), Some(6.0), &[Duration::from_secs(1)]), Ok(Some(1.0)), "ten minutes at least");
        assert!(told(Some(3.9), Some(0.5), &[]).unwrap_err().contains("cost 4.00 for 8.0 hours (the whole `ttl`"));
        assert!(told(Some(0.4), Some(0.5), &[hour]).unwrap_err().contains("(as long as the longest"));
        assert!(told(Some(4.0), None, &[]).is_err(), "a limit of something unknown");
        assert!(told(Some(4.0), Some(f64::NAN), &[]).is_err());
    }
}
