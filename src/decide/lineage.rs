//! What a backup builds upon: increments upon increments, upon a full one; a
//! differential upon a full one.

use crate::domain::BackupId;

/// A backup with all that it builds upon, the full one first; else the one that is
/// not among `all`. What closes a circle counts as not there.
pub fn chain<'a, T>(
    newest: &'a T,
    all: &'a [T],
    id: impl Fn(&T) -> &BackupId,
    parent: impl Fn(&T) -> Option<&BackupId>,
) -> Result<Vec<&'a T>, BackupId> {
    let mut chain = vec![newest];
    while let Some(wanted) = chain.last().and_then(|last| parent(last)) {
        let found = all.iter().find(|one| id(one) == wanted);
        let found = found.filter(|found| chain.iter().all(|one| id(one) != id(found)));
        chain.push(found.ok_or_else(|| wanted.clone())?);
    }
    chain.reverse();
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_whole_or_names_what_is_missing() {
        let all: Vec<(BackupId, Option<BackupId>)> = [
            ("full", None),
            ("one", Some("full")),
            ("two", Some("one")),
            ("odd", Some("lost")),
            ("round", Some("round")),
        ]
        .map(|(id, parent)| (id.parse().unwrap(), parent.map(|parent| parent.parse().unwrap())))
        .into();
        let told = |nth: usize| {
            chain(&all[nth], &all, |one| &one.0, |one| one.1.as_ref())
                .map(|chain| chain.iter().map(|one| one.0.as_str()).collect::<Vec<_>>())
                .map_err(|missing| missing.to_string())
        };
        assert_eq!(told(0), Ok(vec!["full"]));
        assert_eq!(told(2), Ok(vec!["full", "one", "two"]));
        assert_eq!(told(3), Err("lost".to_owned()));
        assert_eq!(told(4), Err("round".to_owned()));
    }
}
