//! Which keys are wrapped anew for the recipients configured now, and what each
//! recipient can open. A rotation adds key objects and takes none away: it can
//! let somebody in, never out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

/// One key object of a backup or of a stretch of WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFacts {
    /// What tells the identity in it from others: the digest in its header.
    pub holds: String,
    /// Whether an identity of this node opens it.
    pub is_open: bool,
    /// For whom it is; none when it does not tell.
    pub recipients: Option<BTreeSet<String>>,
}

/// What to do about the key objects of one backup, or of one name of WAL keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rotation {
    /// The identities to wrap for the configured recipients.
    pub wrap: BTreeSet<String>,
    /// The identities that have to be wrapped on another node: none here opens them.
    pub closed: BTreeSet<String>,
}

pub fn plan(keys: &[KeyFacts], configured: &BTreeSet<String>) -> Rotation {
    let mut rotation = Rotation::default();
    for key in keys {
        let mut same = keys.iter().filter(|other| other.holds == key.holds);
        if same.clone().any(|other| other.recipients.as_ref() == Some(configured)) {
            continue;
        }
        let todo = if same.any(|other| other.is_open) { &mut rotation.wrap } else { &mut rotation.closed };
        todo.insert(key.holds.clone());
    }
    rotation
}

/// How many of some backups or stretches each recipient can open, by its public
/// key: those that are configured, and those that still can.
pub fn reach(groups: &[Vec<KeyFacts>], configured: &BTreeSet<String>) -> BTreeMap<String, usize> {
    let mut reach: BTreeMap<String, usize> = configured.iter().map(|recipient| (recipient.clone(), 0)).collect();
    for keys in groups {
        let all: BTreeSet<&String> = keys.iter().map(|key| &key.holds).collect();
        let mut opened: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
        for key in keys {
            for recipient in key.recipients.iter().flatten() {
                opened.entry(recipient).or_default().insert(&key.holds);
            }
        }
        for (recipient, opened) in opened {
            *reach.entry(recipient.clone()).or_default() += usize::from(opened == all);
        }
    }
    reach
}

/// When the period of rotation that `now` lies in began; periods are counted from
/// 1970 on, so that every node has the same.
pub fn period_begun(now: Timestamp, period: Duration) -> Timestamp {
    let period = i64::try_from(period.as_secs()).unwrap_or(i64::MAX).max(1);
    now - SignedDuration::from_secs(now.as_second().rem_euclid(period))
        - SignedDuration::from_nanos(now.subsec_nanosecond().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn key(holds: &str, is_open: bool, recipients: Option<&[&str]>) -> KeyFacts {
        KeyFacts { holds: holds.to_owned(), is_open, recipients: recipients.map(set) }
    }

    #[test]
    fn what_is_not_for_the_configured_recipients_is_wrapped_once() {
        let now = set(&["new", "escrow"]);
        let old = key("k", true, Some(&["old", "escrow"]));
        let rotated = key("k", false, Some(&["new", "escrow"]));
        let plan = |keys: &[KeyFacts]| plan(keys, &now);
        assert_eq!(plan(std::slice::from_ref(&old)), Rotation { wrap: set(&["k"]), closed: set(&[]) });
        assert_eq!(plan(&[old.clone(), rotated.clone()]), Rotation::default(), "done is done");
        assert_eq!(plan(&[rotated]), Rotation::default(), "nothing to do, nothing to open");
        assert_eq!(plan(&[key("k", true, None)]).wrap, set(&["k"]), "one that does not tell is wrapped");
        assert_eq!(plan(&[old, key("l", true, Some(&["new", "escrow"]))]).wrap, set(&["k"]));
        let closed = key("k", false, Some(&["old"]));
        assert_eq!(plan(std::slice::from_ref(&closed)), Rotation { wrap: set(&[]), closed: set(&["k"]) });
        assert_eq!(plan(&[closed, key("k", true, Some(&["older"]))]).wrap, set(&["k"]), "another object opens it");
    }

    #[test]
    fn a_recipient_reaches_what_all_of_its_keys_open() {
        let now = set(&["new"]);
        let old = key("k", true, Some(&["old"]));
        let both = vec![old.clone(), key("k", false, Some(&["new"]))];
        let two = vec![key("a", true, Some(&["new"])), key("b", true, Some(&["old"]))];
        let reach = reach(&[vec![old], both, two], &now);
        assert_eq!(reach, BTreeMap::from([("new".to_owned(), 1), ("old".to_owned(), 2)]));
    }

    #[test]
    fn a_period_begins_at_the_same_instant_for_everybody() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let day = Duration::from_secs(86_400);
        assert_eq!(period_begun(at("2026-11-21T14:05:00.5Z"), day), at("2026-11-21T00:00:00Z"));
        assert_eq!(period_begun(at("2026-11-21T00:00:00Z"), day), at("2026-11-21T00:00:00Z"));
        assert_eq!(period_begun(at("2026-11-20T23:59:59.9Z"), day), at("2026-11-20T00:00:00Z"));
    }
}
