//! Isolated instances that a run left behind: which are removed, and which a person has to
//! look at.
//!
//! It must never remove what nobody proved to be ours: prefix, tags and journal have to
//! agree, and the name has to be the one that the run gives.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::domain::{DatabaseName, Region, RunId};

/// The longest name that the provider takes is one of 63; the instance of a cluster is
/// called by two characters more.
const NAME_MAX: usize = 61;
/// Enough to tell the runs of one database apart.
const DIGITS: usize = 12;

/// A database as names are made of it. Two estates may call two databases alike in one
/// account, and have runs of one id: what the provider calls each tells them apart.
#[derive(Debug, Clone, Copy)]
pub struct Of<'a> {
    pub database: &'a DatabaseName,
    /// Region and identifier of the source.
    pub source: (&'a Region, &'a str),
}

/// What a run calls the instance that it makes: the prefix, the database as far as there
/// is room, and digits of the source and the run's id. Letters, digits and single hyphens, none at the
/// end, as the provider demands.
pub fn instance_id(prefix: &str, Of { database, source: (region, id) }: Of<'_>, run: &RunId) -> String {
    let digest = hex::encode(Sha256::digest(format!("{region} {id} {}", run.as_str())));
    let digits = digest.get(..DIGITS).unwrap_or(&digest);
    let room = NAME_MAX.saturating_sub(prefix.len() + digits.len() + 1);
    let mut name = String::new();
    for c in database.as_str().chars() {
        let c = if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
        if name.len() < room && !(c == '-' && (name.is_empty() || name.ends_with('-'))) {
            name.push(c);
        }
    }
    let name = name.trim_end_matches('-');
    let name = if name.is_empty() { String::new() } else { format!("{name}-") };
    format!("{prefix}{name}{digits}")
}

/// An instance that bears our prefix, and what the journal says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<'a> {
    pub id: &'a str,
    /// What the tags say, as they are written.
    pub database: Option<&'a str>,
    pub run: Option<&'a str>,
    pub expires_at: Option<&'a str>,
    /// Whether it is on its way out.
    pub is_going: bool,
    pub journaled: Journaled,
    /// Since when it is to go, as far as we know; none where it was neither asked nor seen to.
    pub going_since: Option<Timestamp>,
}

/// What the journal says of the run that an instance names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journaled {
    /// There is no such run.
    Unknown,
    UnderWay,
    Ended,
}

/// What becomes of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is in use, or goes already.
    Left,
    /// As what this run made.
    Removed(RunId),
    /// A person has to look, for this reason.
    Doubted(String),
}

/// How long an instance may take to go.
pub const GOING_MAX: Duration = Duration::from_secs(3600);

/// Judges one instance of a database.
pub fn judge(prefix: &str, of: Of<'_>, found: &Found<'_>, now: Timestamp) -> Fate {
    let doubted = |why: &str| Fate::Doubted(why.to_owned());
    if !found.id.starts_with(prefix) || found.database != Some(of.database.as_str()) {
        return doubted("its tags name another database, or none");
    }
    let Some(run) = found.run.map(|run| RunId::from(run.to_owned())) else {
        return doubted("no tag says which run made it");
    };
    if instance_id(prefix, of, &run) != found.id {
        return doubted(
            "it is not called as the run that its tag names would call it, of this database at the provider",
        );
    }
    let is_over = match (found.journaled, found.expires_at.map(str::parse::<Timestamp>)) {
        (Journaled::Unknown, _) => return doubted("the journal knows no such run"),
        (Journaled::Ended, _) => true,
        (Journaled::UnderWay, Some(Ok(expires_at))) => expires_at <= now,
        (Journaled::UnderWay, _) => return doubted("no tag says when it expires"),
    };
    if !is_over {
        return Fate::Left;
    }
    let limit = SignedDuration::try_from(GOING_MAX).unwrap_or(SignedDuration::MAX);
    if found.going_since.is_some_and(|since| now.duration_since(since) > limit) {
        return Fate::Doubted(format!("it was asked to go, and is still there after {GOING_MAX:?}"));
    }
    if found.is_going { Fate::Left } else { Fate::Removed(run) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "lifeboat-";

    fn of<'a>(database: &'a DatabaseName, region: &'a Region) -> Of<'a> {
        Of { database, source: (region, "prod") }
    }

    #[test]
    fn a_name_is_one_that_the_provider_takes() {
        let run = RunId::from("restore_test/wallet/scheduled/2026-11-29T01:00:00Z".to_owned());
        let other = RunId::from("restore_test/wallet/scheduled/2026-11-30T01:00:00Z".to_owned());
        for (database, begins) in [
            ("wallet", "lifeboat-wallet-"),
            ("a__b.-c", "lifeboat-a-b-c-"),
            ("1-", "lifeboat-1-"),
            (&"x".repeat(63), "lifeboat-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-"),
        ] {
            let database: DatabaseName = database.parse().unwrap();
            let (here, there): (Region, Region) = ("eu-south-1".parse().unwrap(), "eu-west-1".parse().unwrap());
            let id = instance_id(PREFIX, of(&database, &here), &run);
            assert!(id.starts_with(begins), "{id}");
            assert!(id.len() <= NAME_MAX && !id.contains("--") && !id.ends_with('-'), "{id}");
            assert!(id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{id}");
            assert_eq!(id, instance_id(PREFIX, of(&database, &here), &run));
            assert_ne!(id, instance_id(PREFIX, of(&database, &here), &other));
            assert_ne!(id, instance_id(PREFIX, of(&database, &there), &run), "of another estate");
        }
    }

    #[test]
    fn only_what_all_agree_on_is_removed() {
        let database: DatabaseName = "wallet".parse().unwrap();
        let run = "restore_test/wallet/manual/1";
        let here: Region = "eu-south-1".parse().unwrap();
        let id = instance_id(PREFIX, of(&database, &here), &RunId::from(run.to_owned()));
        let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        let (past, later) = ("2026-11-29T11:59:59Z", "2026-11-29T12:00:01Z");
        let found = Found {
            id: &id,
            database: Some("wallet"),
            run: Some(run),
            expires_at: Some(later),
            is_going: false,
            journaled: Journaled::UnderWay,
            going_since: None,
        };
        let ended = Found { journaled: Journaled::Ended, ..found.clone() };
        let removed = Fate::Removed(RunId::from(run.to_owned()));
        let told = |found: &Found<'_>| judge(PREFIX, of(&database, &here), found, now);
        assert_eq!(told(&found), Fate::Left, "its run goes on");
        assert_eq!(told(&Found { expires_at: Some(past), ..found.clone() }), removed, "whatever became of the test");
        assert_eq!(told(&ended), removed);
        assert_eq!(told(&Found { expires_at: None, ..ended.clone() }), removed, "the journal says enough");
        assert_eq!(told(&Found { is_going: true, ..ended.clone() }), Fate::Left);
        for doubtful in [
            Found { run: None, ..ended.clone() },
            Found { run: Some("restore_test/wallet/manual/2"), ..ended.clone() },
            Found { database: Some("ledger"), ..ended.clone() },
            Found { database: None, ..ended.clone() },
            Found { id: "wallet", ..ended.clone() },
            Found { journaled: Journaled::Unknown, ..ended.clone() },
            Found { expires_at: None, ..found.clone() },
            Found { expires_at: Some("soon"), ..found.clone() },
            Found { going_since: Some(now - SignedDuration::from_hours(2)), is_going: true, ..ended.clone() },
        ] {
            assert!(matches!(told(&doubtful), Fate::Doubted(_)), "{doubtful:?}");
        }
        let asked = Found { going_since: Some(now - SignedDuration::from_mins(5)), ..ended };
        assert_eq!(told(&asked), removed, "asked again: it may have come to nothing");
    }
}
