//! Which run goes first where not all can go at once: what brings service back,
//! before what protects, before what proves, before what tidies up. It follows
//! from the flow alone, so that all nodes order alike.

use crate::domain::record::kind;

/// The first goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// A restore, a failover, a drill: somebody waits, or a primary is moved.
    Recovery,
    Backup,
    RestoreTest,
    /// Copies, verification, expiry, rotation of keys.
    Care,
}

/// The priority of a flow's runs.
pub fn of(flow: &str) -> Priority {
    match flow {
        "restore" | "failover" | kind::DRILL => Priority::Recovery,
        kind::BACKUP => Priority::Backup,
        kind::RESTORE_TEST | kind::SELF_TEST => Priority::RestoreTest,
        _ => Priority::Care,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_before_protection_before_proof_before_care() {
        let mut flows = ["prune", "restore_test", "verify", "backup", "copy", "failover", "rotate_keys", "drill"];
        flows.sort_by_key(|flow| of(flow));
        assert_eq!(flows, ["failover", "drill", "backup", "restore_test", "prune", "verify", "copy", "rotate_keys"]);
    }
}
