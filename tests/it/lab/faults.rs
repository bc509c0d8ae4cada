//! What goes wrong in the lab, as a test plants it.

use tokio::sync::watch;

use super::answer::Answer;

/// What Amazon answers instead of doing what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Throttling,
    Capacity,
    AccessDenied,
    ExpiredToken,
    /// The service itself fails.
    Broken,
    /// A status, and a code as Amazon spells it.
    Other(u16, &'static str),
}

impl Refusal {
    pub(super) fn answer(self) -> Answer {
        let (status, code, message) = match self {
            Self::Throttling => (400, "Throttling", "Rate exceeded"),
            Self::Capacity => {
                (400, "InsufficientDBInstanceCapacity", "There is no capacity for this class in the zone")
            }
            Self::AccessDenied => (403, "AccessDenied", "The caller is not authorized to perform this on the resource"),
            Self::ExpiredToken => (403, "ExpiredToken", "The security token included in the request is expired"),
            Self::Broken => (500, "InternalFailure", "The request processing has failed"),
            Self::Other(status, code) => (status, code, "Refused by the lab"),
        };
        Answer::refusal(status, code, message)
    }
}

/// How what is made or removed comes to no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stuck {
    /// A snapshot, an instance or a cluster is being made, until it is let go.
    Creating,
    /// An instance or a cluster is being removed, until it is let go.
    Deleting,
    /// It ends as failed instead of available.
    Failed,
    /// What is committed to an instance or a cluster becomes restorable no more, until it is
    /// let go: `LatestRestorableTime` stands still.
    Archiving,
}

#[derive(Debug)]
struct Rule {
    action: String,
    /// How many calls go well before.
    after: u32,
    /// How many calls it is for; all when none.
    left: Option<u32>,
    effect: Effect,
}

#[derive(Debug, Clone, Copy)]
enum Effect {
    Refuse(Refusal),
    Lose,
}

#[derive(Debug, Default)]
struct Rules {
    rules: Vec<Rule>,
    stuck: Vec<(Stuck, String)>,
}

/// What goes wrong from now on. `*` stands for all actions of RDS.
#[derive(Debug, Default)]
pub(crate) struct Faults(watch::Sender<Rules>);

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    Refuse(Refusal),
    /// Is carried out, and the connection closed instead of an answer.
    Lose,
}

impl Faults {
    /// The next calls are refused.
    pub(crate) fn refuse(&self, action: &str, refusal: Refusal, calls: u32) {
        self.add(action, 0, Some(calls), Effect::Refuse(refusal));
    }

    /// All calls from the nth from now on are refused: `1` is the next one.
    pub(crate) fn refuse_from(&self, action: &str, nth: u32, refusal: Refusal) {
        self.add(action, nth.saturating_sub(1), None, Effect::Refuse(refusal));
    }

    /// The next calls are carried out, and their answers lost.
    pub(crate) fn lose_answers(&self, action: &str, calls: u32) {
        self.add(action, 0, Some(calls), Effect::Lose);
    }

    /// Whatever has an identifier that begins so gets stuck, until `clear`.
    pub(crate) fn stick(&self, how: Stuck, begin: &str) {
        self.0.send_modify(|rules| rules.stuck.push((how, begin.to_owned())));
    }

    /// Everything goes well again, also what is stuck.
    pub(crate) fn clear(&self) {
        self.0.send_replace(Rules::default());
    }

    fn add(&self, action: &str, after: u32, left: Option<u32>, effect: Effect) {
        self.0.send_modify(|rules| rules.rules.push(Rule { action: action.to_owned(), after, left, effect }));
    }

    /// Counts a call; the first rule that is for it says what becomes of it.
    pub(super) fn fate(&self, service: &str, action: &str) -> Fate {
        let mut fate = Fate::Pass;
        self.0.send_modify(|rules| {
            for rule in &mut rules.rules {
                if rule.action != action && (rule.action != "*" || service != "rds") {
                    continue;
                }
                if rule.after > 0 {
                    rule.after -= 1;
                } else if rule.left != Some(0) && fate == Fate::Pass {
                    rule.left = rule.left.map(|left| left - 1);
                    fate = match rule.effect {
                        Effect::Refuse(refusal) => Fate::Refuse(refusal),
                        Effect::Lose => Fate::Lose,
                    };
                }
            }
        });
        fate
    }

    pub(super) fn is_stuck(&self, how: Stuck, id: &str) -> bool {
        self.0.borrow().holds(how, id)
    }

    /// Waits until it is let go.
    pub(super) async fn let_go(&self, how: Stuck, id: &str) {
        let mut rules = self.0.subscribe();
        // The sender is ours, and lives.
        let _rules = rules.wait_for(|rules| !rules.holds(how, id)).await;
    }
}

impl Rules {
    fn holds(&self, how: Stuck, id: &str) -> bool {
        self.stuck.iter().any(|(stuck, begin)| *stuck == how && id.starts_with(begin.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_action() {
        let faults = Faults::default();
        faults.refuse("A", Refusal::Throttling, 2);
        faults.refuse_from("B", 2, Refusal::AccessDenied);
        faults.lose_answers("*", 1);
        let fate = |action: &str| faults.fate("rds", action);
        let throttled = Fate::Refuse(Refusal::Throttling);
        assert_eq!([fate("A"), fate("A"), fate("A"), fate("A")], [throttled, throttled, Fate::Lose, Fate::Pass]);
        let denied = Fate::Refuse(Refusal::AccessDenied);
        assert_eq!([fate("B"), fate("B"), fate("B")], [Fate::Pass, denied, denied]);
        faults.lose_answers("*", 1);
        assert_eq!(faults.fate("sts", "C"), Fate::Pass);
        faults.clear();
        assert_eq!(fate("B"), Fate::Pass);
    }

    #[tokio::test]
    async fn what_is_stuck_is_let_go_by_its_name() {
        let faults = Faults::default();
        faults.stick(Stuck::Creating, "copy-");
        assert!(faults.is_stuck(Stuck::Creating, "copy-1") && !faults.is_stuck(Stuck::Deleting, "copy-1"));
        assert!(!faults.is_stuck(Stuck::Creating, "wallet"));
        let waits = faults.let_go(Stuck::Creating, "copy-1");
        let ((), ()) = tokio::join!(waits, async { faults.clear() });
    }
}
