//! How grave an open finding is: from its id alone, so that every node and every reader
//! puts the same one first.

use serde::Serialize;

use super::self_test;

/// The gravest comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// What was taken for proven is not.
    Critical,
    Ordinary,
}

/// A verifier that is blind is graver than anything that it could have found.
pub fn of(finding_id: &str) -> Severity {
    if self_test::unseen(finding_id).is_some() { Severity::Critical } else { Severity::Ordinary }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blind_verifier_comes_first() {
        let mut ids = ["restore_test/wallet", "self_test/wallet/wrong_key", "self_test/wallet", "chain/wallet"];
        ids.sort_by_key(|id| of(id));
        assert_eq!(ids, ["self_test/wallet/wrong_key", "restore_test/wallet", "self_test/wallet", "chain/wallet"]);
    }
}
