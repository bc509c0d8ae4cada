//! Whether an instance that a provider restored stands apart from its source, by what the
//! provider tells of both; and what of it is otherwise than at the source.
//!
//! It must never take what is not told for apart.

use std::collections::BTreeMap;

use super::managed::{Difference, differences};
use crate::domain::{Check, InstanceSettings, Verdict};

/// What is known of a restored instance.
#[derive(Debug, Clone, Copy)]
pub struct ApartFacts<'a> {
    /// By ARN: region and account are in it.
    pub source: (&'a str, &'a InstanceSettings),
    pub restored: (&'a str, &'a InstanceSettings),
    pub ordered: Ordered<'a>,
}

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Ordered<'a> {
    pub subnet_group: &'a str,
    pub security_groups: &'a [String],
    pub tags: &'a BTreeMap<String, String>,
}

/// Every check, whatever the verdicts before it.
pub fn isolation(facts: &ApartFacts<'_>) -> Vec<Check> {
    let (source, restored, ordered) = (facts.source.1, facts.restored.1, facts.ordered);
    let not = |name: &str, expected: &str, actual: bool| {
        Check::judge(name, expected, if actual { "it is" } else { "as expected" }, !actual)
    };
    vec![
        level(facts),
        not("public_access", "not publicly accessible", restored.is_publicly_accessible),
        subnet_group(facts, restored.subnet_group.as_deref()),
        security_groups(facts, &source.security_groups, &restored.security_groups),
        not("deletion_protection", "not protected from its removal", restored.is_protected_from_deletion),
        tags(ordered.tags, &restored.tags),
    ]
}

/// Region and account of `arn:aws:rds:REGION:ACCOUNT:db:ID`.
fn place(arn: &str) -> Option<(&str, &str)> {
    let mut parts = arn.split(':').skip(3);
    let place = (parts.next()?, parts.next()?);
    (!place.0.is_empty() && !place.1.is_empty()).then_some(place)
}

/// What lies between the two. The provider routes nothing from one network to another by
/// itself; what somebody has led from one to the other it does not tell of an instance.
fn level(facts: &ApartFacts<'_>) -> Check {
    let (name, expected) = ("network", "an account, region or VPC other than the source's");
    let (source, restored) = (place(facts.source.0), place(facts.restored.0));
    let (Some((source_region, source_account)), Some((region, account))) = (source, restored) else {
        return Check::new(name, Verdict::Inconclusive, expected, "where they stand is not told by their ARNs");
    };
    let note = "peerings and gateways are not looked at";
    if account != source_account {
        let actual = format!("account {account}, the source's is {source_account}; {note}");
        return Check::new(name, Verdict::Pass, expected, actual);
    }
    match (facts.source.1.vpc.as_deref(), facts.restored.1.vpc.as_deref()) {
        (Some(source), Some(restored)) if source != restored || source_region != region => {
            let actual = format!("{restored} in {region}, the source is in {source} in {source_region}; {note}");
            Check::new(name, Verdict::Pass, expected, actual)
        }
        (Some(_), Some(restored)) => {
            let remedy = "name a `subnet_group` of a VPC from which production cannot be reached";
            Check::new(name, Verdict::Fail, expected, format!("{restored}, as the source; {remedy}"))
        }
        _ => Check::new(name, Verdict::Inconclusive, expected, "the provider does not tell in which VPC they are"),
    }
}

/// Whether names of groups mean the same in both places.
fn is_same_place(facts: &ApartFacts<'_>) -> bool {
    place(facts.source.0) == place(facts.restored.0)
}

fn subnet_group(facts: &ApartFacts<'_>, actual: Option<&str>) -> Check {
    let (name, wanted) = ("subnet_group", facts.ordered.subnet_group);
    let expected = format!("`{wanted}`, and not the source's");
    let is_sources = is_same_place(facts) && facts.source.1.subnet_group.as_deref() == actual;
    match actual {
        None => Check::new(name, Verdict::Inconclusive, expected, "the provider does not tell it"),
        Some(actual) => {
            let of_source = if is_sources { ", which is the source's" } else { "" };
            Check::judge(name, expected, format!("`{actual}`{of_source}"), actual == wanted && !is_sources)
        }
    }
}

fn security_groups(facts: &ApartFacts<'_>, source: &[String], actual: &[String]) -> Check {
    let sorted = |groups: &[String]| {
        let mut groups = groups.to_vec();
        groups.sort();
        groups
    };
    let (wanted, actual) = (sorted(facts.ordered.security_groups), sorted(actual));
    let shared: Vec<&String> = actual.iter().filter(|group| source.contains(group)).collect();
    let is_shared = is_same_place(facts) && !shared.is_empty();
    let expected = format!("{}, and none of the source's", wanted.join(", "));
    let of_source = if is_shared { "; the source has one of them" } else { "" };
    let told = if actual.is_empty() { "none".to_owned() } else { actual.join(", ") };
    Check::judge("security_groups", expected, format!("{told}{of_source}"), actual == wanted && !is_shared)
}

fn tags(wanted: &BTreeMap<String, String>, actual: &BTreeMap<String, String>) -> Check {
    let absent: Vec<&str> =
        wanted.iter().filter(|(key, value)| actual.get(*key) != Some(value)).map(|(key, _)| key.as_str()).collect();
    let told = if absent.is_empty() { "all there".to_owned() } else { format!("not as given: {}", absent.join(", ")) };
    Check::judge("tags", "run, database and when it expires", told, absent.is_empty())
}

/// How long a copy of another class takes says nothing of how long the source's would.
const CLASS: &str = "instance class";

/// The settings against the source's: those that differ on purpose, and those that do
/// not. What is measured on an instance that is otherwise is no measurement of the source.
pub fn settings(facts: &ApartFacts<'_>) -> Vec<Check> {
    let all = differences(facts.source.1, facts.restored.1);
    let (intended, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.is_intended && one.setting != CLASS);
    let told = |differences: &[Difference]| -> String {
        let one = |one: &Difference| format!("{} is {} and was {}", one.setting, one.restored, one.source);
        if differences.is_empty() {
            return "none".to_owned();
        }
        differences.iter().map(one).collect::<Vec<_>>().join("; ")
    };
    let verdict = if others.is_empty() { Verdict::Pass } else { Verdict::Inconclusive };
    vec![
        Check::new("settings_apart", Verdict::Pass, "otherwise on purpose", told(&intended)),
        Check::new("settings", verdict, "no other difference to the source", told(&others)),
    ]
}

#[cfg(test)]
mod tests;
