//! Rules of a bucket that would delete or move objects behind a vault's back.
//! Only reads them: what they say is for a person to decide.

use aws_sdk_s3::types::{ExpirationStatus, LifecycleRule, TransitionStorageClass};

use crate::decide::bucket::overlaps;

/// What the rules that cover objects under a prefix would do to a vault.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Harm {
    /// The names of those that delete what no rule of ours lets go.
    pub(super) deleting: Vec<String>,
    /// What others would do.
    pub(super) findings: Vec<String>,
}

pub(super) fn harm(rules: &[LifecycleRule], prefix: &str) -> Harm {
    let enabled = rules.iter().filter(|rule| *rule.status() == ExpirationStatus::Enabled);
    let mut harm = Harm::default();
    enabled.filter(|rule| covers(rule, prefix)).for_each(|rule| harm.add(rule));
    harm
}

/// Whether what uploads under the whole prefix have left is aborted some day.
pub(super) fn aborts_uploads(rules: &[LifecycleRule], prefix: &str) -> bool {
    let aborts = |rule: &&LifecycleRule| {
        *rule.status() == ExpirationStatus::Enabled && rule.abort_incomplete_multipart_upload().is_some()
    };
    rules.iter().filter(aborts).any(|rule| covered(rule).is_some_and(|covered| prefix.starts_with(covered)))
}

/// Whether the rule may cover an object of ours. They carry no tags; how large
/// they are nobody knows ahead.
fn covers(rule: &LifecycleRule, prefix: &str) -> bool {
    covered(rule).is_some_and(|covered| overlaps(covered, prefix))
}

/// The prefix that a rule is for; none where it is for objects with tags alone.
fn covered(rule: &LifecycleRule) -> Option<&str> {
    let filter = rule.filter();
    let and = filter.and_then(|filter| filter.and());
    if filter.is_some_and(|filter| filter.tag().is_some()) || and.is_some_and(|and| !and.tags().is_empty()) {
        return None;
    }
    #[expect(deprecated, reason = "rules that were written before filters existed still have it")]
    let old = rule.prefix();
    let covered = filter.and_then(|filter| filter.prefix()).or(and.and_then(|and| and.prefix())).or(old);
    Some(covered.unwrap_or_default())
}

impl Harm {
    fn add(&mut self, rule: &LifecycleRule) {
        let name = rule.id().unwrap_or("without a name");
        let expires =
            rule.expiration().is_some_and(|expiration| expiration.days().is_some() || expiration.date().is_some());
        if expires {
            self.deleting.push(format!("`{name}`"));
        }
        if rule.noncurrent_version_expiration().is_some() {
            self.findings.push(format!(
            "the lifecycle rule `{name}` of the bucket would delete a backup's version once another was put over it; let it leave out the vault's prefix"
        ));
        }
        let moved = rule.transitions().iter().map(|transition| transition.storage_class());
        let old = rule.noncurrent_version_transitions().iter().map(|transition| transition.storage_class());
        let is_asleep = |class: Option<&TransitionStorageClass>| {
            matches!(class, Some(TransitionStorageClass::Glacier | TransitionStorageClass::DeepArchive))
        };
        if moved.chain(old).any(is_asleep) {
            self.findings.push(format!(
            "the lifecycle rule `{name}` of the bucket would move objects to a class that answers after hours; a restore asks for them and waits: let it leave out the vault's prefix, or move only what is larger than 128 KiB, and that late, if the RTO allows it"
        ));
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::{
        AbortIncompleteMultipartUpload, LifecycleExpiration, LifecycleRuleAndOperator, LifecycleRuleFilter,
        NoncurrentVersionExpiration, Tag, Transition,
    };

    use super::*;

    fn rule(filter: LifecycleRuleFilter, days: Option<i32>) -> LifecycleRule {
        LifecycleRule::builder()
            .id("old")
            .status(ExpirationStatus::Enabled)
            .filter(filter)
            .set_expiration(days.map(|days| LifecycleExpiration::builder().days(days).build()))
            .build()
            .unwrap()
    }

    fn under(prefix: &str) -> LifecycleRuleFilter {
        LifecycleRuleFilter::builder().prefix(prefix).build()
    }

    #[test]
    fn a_rule_that_covers_the_prefix_is_found_and_no_other() {
        let tag = || Tag::builder().key("a").value("b").build().unwrap();
        let and = |prefix: &str| LifecycleRuleAndOperator::builder().prefix(prefix);
        for (filter, covered) in [
            (under(""), true),
            (under("prod"), true),
            (under("prod/"), true),
            (under("prod/wallet/"), true),
            (under("test/"), false),
            (under("production/"), false),
            (LifecycleRuleFilter::builder().build(), true),
            (LifecycleRuleFilter::builder().object_size_greater_than(1).build(), true),
            (LifecycleRuleFilter::builder().tag(tag()).build(), false),
            (LifecycleRuleFilter::builder().and(and("prod/").object_size_less_than(9).build()).build(), true),
            (LifecycleRuleFilter::builder().and(and("prod/").tags(tag()).build()).build(), false),
            (LifecycleRuleFilter::builder().and(and("test/").object_size_less_than(9).build()).build(), false),
        ] {
            let found = harm(&[rule(filter.clone(), Some(30))], "prod/");
            assert_eq!(found != Harm::default(), covered, "{filter:?} gave {found:?}");
        }
        assert!(
            !harm(&[rule(under("prod/"), Some(30))], "").deleting.is_empty(),
            "everything is covered without a prefix"
        );
    }

    #[test]
    fn only_a_rule_for_the_whole_prefix_aborts_all_uploads() {
        let days = AbortIncompleteMultipartUpload::builder().days_after_initiation(7).build();
        let aborting = |filter| {
            let mut rule = rule(filter, None);
            rule.abort_incomplete_multipart_upload = Some(days.clone());
            rule
        };
        for (rule, expected) in [
            (aborting(under("")), true),
            (aborting(under("prod/")), true),
            (aborting(under("prod/wallet/")), false),
            (rule(under(""), None), false),
        ] {
            assert_eq!(aborts_uploads(std::slice::from_ref(&rule), "prod/"), expected, "{rule:?}");
            let mut off = rule;
            off.status = ExpirationStatus::Disabled;
            assert!(!aborts_uploads(&[off], "prod/"));
        }
    }

    #[test]
    fn each_harm_is_told_and_harmless_rules_are_not() {
        let harmless = LifecycleRule::builder()
            .status(ExpirationStatus::Enabled)
            .filter(under(""))
            .expiration(LifecycleExpiration::builder().expired_object_delete_marker(true).build())
            .build()
            .unwrap();
        assert_eq!(harm(&[harmless, rule(under(""), None)], "p/"), Harm::default());
        let mut off = rule(under(""), Some(1));
        off.status = ExpirationStatus::Disabled;
        assert_eq!(harm(&[off], "p/"), Harm::default());
        let all = LifecycleRule::builder()
            .id("all")
            .status(ExpirationStatus::Enabled)
            .filter(under(""))
            .expiration(LifecycleExpiration::builder().days(1).build())
            .noncurrent_version_expiration(NoncurrentVersionExpiration::builder().noncurrent_days(1).build())
            .transitions(Transition::builder().storage_class(TransitionStorageClass::DeepArchive).days(1).build())
            .build()
            .unwrap();
        let found = harm(&[all], "p/");
        assert_eq!(found.deleting, ["`all`"]);
        assert_eq!(found.findings.len(), 2, "{found:?}");
        assert!(found.findings.iter().all(|finding| finding.contains("`all`")), "{found:?}");
    }
}
