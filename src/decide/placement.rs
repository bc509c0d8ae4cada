//! Which runs a node may take, and which no living node may. Limits count the
//! runs that are driven at this moment, whoever drives them; a run that waits
//! for a signal keeps its place.

use std::{collections::BTreeMap, num::NonZeroU32};

use crate::domain::{DatabaseName, Node, NodeRole, Placement, VaultName};

/// How many runs may be driven at a time that work on the same thing; what is
/// not named has no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    pub vaults: BTreeMap<VaultName, NonZeroU32>,
    pub databases: BTreeMap<DatabaseName, NonZeroU32>,
}

impl Limits {
    /// Whether any of them concerns such a run: only then it matters what else is driven.
    pub fn concern(&self, run: &Placement) -> bool {
        run.vaults.iter().any(|vault| self.vaults.contains_key(vault))
            || run.database.as_ref().is_some_and(|database| self.databases.contains_key(database))
    }

    /// Whether one more such run may be driven beside those that are.
    pub fn leave_room(&self, run: &Placement, driven: &[Placement]) -> bool {
        let below = |limit: Option<&NonZeroU32>, shares: &dyn Fn(&Placement) -> bool| {
            limit.is_none_or(|limit| {
                let count = driven.iter().filter(|other| shares(other)).count();
                u32::try_from(count).is_ok_and(|count| count < limit.get())
            })
        };
        let vaults =
            run.vaults.iter().all(|vault| below(self.vaults.get(vault), &|other| other.vaults.contains(vault)));
        let database = run
            .database
            .as_ref()
            .is_none_or(|name| below(self.databases.get(name), &|other| other.database.as_ref() == Some(name)));
        vaults && database
    }
}

/// Whether a living worker may drive such a run.
pub fn has_node(run: &Placement, nodes: &[Node]) -> bool {
    nodes.iter().any(|node| node.is_alive && node.roles.contains(&NodeRole::Worker) && run.allows(&node.region))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(database: &str, vaults: &[&str], regions: &[&str]) -> Placement {
        Placement {
            regions: regions.iter().map(|name| name.parse().unwrap()).collect(),
            vaults: vaults.iter().map(|name| name.parse().unwrap()).collect(),
            database: Some(database.parse().unwrap()),
        }
    }

    fn limits(vaults: &[(&str, u32)], databases: &[(&str, u32)]) -> Limits {
        Limits {
            vaults: vaults.iter().map(|(name, max)| (name.parse().unwrap(), NonZeroU32::new(*max).unwrap())).collect(),
            databases: databases
                .iter()
                .map(|(name, max)| (name.parse().unwrap(), NonZeroU32::new(*max).unwrap()))
                .collect(),
        }
    }

    #[test]
    fn what_is_not_limited_has_room_always() {
        let driven = vec![run("wallet", &["a"], &[]); 50];
        let none = Limits::default();
        assert!(none.leave_room(&run("wallet", &["a"], &[]), &driven));
        assert!(!none.concern(&run("wallet", &["a"], &[])));
        let other = limits(&[("b", 1)], &[("ledger", 1)]);
        assert!(!other.concern(&run("wallet", &["a"], &[])));
        assert!(other.leave_room(&run("wallet", &["a"], &[]), &driven));
    }

    #[test]
    fn each_limit_counts_what_shares_its_thing() {
        let limits = limits(&[("a", 2)], &[("wallet", 1)]);
        let cases = [
            ("nothing is driven", vec![], true),
            ("one of the vault's two places", vec![run("ledger", &["a"], &[])], true),
            ("both of them", vec![run("ledger", &["a"], &[]), run("bets", &["a", "b"], &[])], false),
            ("the database's only place", vec![run("wallet", &["b"], &[])], false),
            ("neither", vec![run("ledger", &["b"], &[]), run("bets", &["b"], &[])], true),
        ];
        for (what, driven, has_room) in cases {
            assert_eq!(limits.leave_room(&run("wallet", &["a"], &[]), &driven), has_room, "{what}");
        }
        assert!(limits.leave_room(&Placement::default(), &vec![run("wallet", &["a"], &[]); 9]), "it works on nothing");
    }

    #[test]
    fn only_a_living_worker_of_the_region_counts() {
        let node = |region: &str, roles: &[NodeRole], is_alive| Node {
            name: "n".to_owned(),
            region: region.parse().unwrap(),
            roles: roles.to_vec(),
            version: "1".to_owned(),
            seen_at: jiff::Timestamp::UNIX_EPOCH,
            is_alive,
        };
        let bound = run("wallet", &[], &["mt", "it"]);
        let worker = &NodeRole::ALL[..];
        assert!(has_node(&bound, &[node("it", worker, true)]));
        assert!(!has_node(&bound, &[node("it", worker, false)]));
        assert!(!has_node(&bound, &[node("de", worker, true)]));
        assert!(!has_node(&bound, &[node("mt", &[NodeRole::Scheduler, NodeRole::Api], true)]));
        assert!(has_node(&Placement::default(), &[node("de", worker, true)]));
        assert!(!has_node(&Placement::default(), &[]));
    }
}
