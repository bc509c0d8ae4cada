//! The identifiers that calls may name which make, change or remove something.
//!
//! What must never happen: such a call that names the source, or what somebody else made.
//! [`Name`] and [`Own`] can be made here alone, and `caller/change.rs` takes nothing else.

use std::{collections::BTreeMap, fmt};

use crate::engine::managed::{PREFIX, tag};

/// The name of what is to be made. Calls that take it fail where it is there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(String);

/// The name of something that is there and was looked at: it bears our prefix and tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Own(String);

/// Why an identifier may not be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Foreign {
    Source,
    /// Not of lower-case letters, digits and single hyphens with our prefix before them.
    Unlike,
    /// The tag's key, what it should say and what it says.
    Tag {
        key: &'static str,
        wanted: String,
        found: Option<String>,
    },
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source => f.write_str("it is the database itself"),
            Self::Unlike => {
                write!(f, "its name is not `{PREFIX}` with lower-case letters, digits and single hyphens after it")
            }
            Self::Tag { key, wanted, found: Some(found) } => {
                write!(f, "its tag `{key}` says `{found}`, not `{wanted}`")
            }
            Self::Tag { key, wanted, found: None } => write!(f, "it has no tag `{key}` that says `{wanted}`"),
        }
    }
}

impl Name {
    /// `source` is the identifier of the database itself.
    pub(super) fn of(id: &str, source: &str) -> Result<Self, Foreign> {
        if id.eq_ignore_ascii_case(source) {
            return Err(Foreign::Source);
        }
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let rest = id.strip_prefix(PREFIX).ok_or(Foreign::Unlike)?;
        if rest.is_empty() || rest.starts_with('-') || rest.ends_with('-') || rest.contains("--") {
            return Err(Foreign::Unlike);
        }
        if rest.chars().all(is_allowed) { Ok(Self(id.to_owned())) } else { Err(Foreign::Unlike) }
    }

    /// The instance that serves the data of a cluster of ours.
    pub(super) fn of_member(cluster: &str, source: &str) -> Result<Self, Foreign> {
        Self::of(&format!("{cluster}-1"), source)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What something must bear to be ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark<'a> {
    /// The identifier of the database itself.
    pub source: &'a str,
    /// What the tag of the database says.
    pub database: &'a str,
    /// What the tag of the run says; any run's where none is named.
    pub run_id: Option<&'a str>,
}

impl Own {
    /// `tags` are those that the provider told of it just now.
    pub(super) fn proven(id: &str, tags: &BTreeMap<String, String>, mark: Mark<'_>) -> Result<Self, Foreign> {
        let name = Name::of(id, mark.source)?;
        let wanted = [Some((tag::DATABASE, mark.database)), mark.run_id.map(|run| (tag::RUN, run))];
        for (key, wanted) in wanted.into_iter().flatten() {
            let found = tags.get(key);
            if found.is_none_or(|found| found != wanted) {
                return Err(Foreign::Tag { key, wanted: wanted.to_owned(), found: found.cloned() });
            }
        }
        Ok(Self(name.0))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_name_is_never_the_source_nor_anybody_elses() {
        for (id, source, why) in [
            ("lifeboat-wallet-1", "wallet", None),
            ("lifeboat-1", "lifeboat-2", None),
            ("wallet", "wallet", Some(Foreign::Source)),
            ("WALLET", "wallet", Some(Foreign::Source)),
            ("lifeboat-prod", "lifeboat-prod", Some(Foreign::Source)),
            ("lifeboat-prod", "Lifeboat-PROD", Some(Foreign::Source)),
            ("wallet-2", "wallet", Some(Foreign::Unlike)),
            ("x-lifeboat-1", "wallet", Some(Foreign::Unlike)),
            ("lifeboat-", "wallet", Some(Foreign::Unlike)),
            ("lifeboat-a--b", "wallet", Some(Foreign::Unlike)),
            ("lifeboat--a", "wallet", Some(Foreign::Unlike)),
            ("lifeboat-a-", "wallet", Some(Foreign::Unlike)),
            ("lifeboat-A", "wallet", Some(Foreign::Unlike)),
            ("lifeboat-a:b", "wallet", Some(Foreign::Unlike)),
            ("", "wallet", Some(Foreign::Unlike)),
        ] {
            assert_eq!(Name::of(id, source).err(), why, "{id} beside {source}");
        }
        assert_eq!(Name::of_member("lifeboat-a", "lifeboat-a-1"), Err(Foreign::Source));
        assert_eq!(Name::of_member("lifeboat-a", "wallet").unwrap().as_str(), "lifeboat-a-1");
    }

    #[test]
    fn what_is_ours_bears_name_database_and_run() {
        let mark = Mark { source: "wallet", database: "prod/wallet", run_id: Some("r1") };
        let any_run = Mark { run_id: None, ..mark };
        let ours = tags(&[(tag::DATABASE, "prod/wallet"), (tag::RUN, "r1"), ("owner", "dba")]);
        let other_run = tags(&[(tag::DATABASE, "prod/wallet"), (tag::RUN, "r2")]);
        let other_database = tags(&[(tag::DATABASE, "prod/ledger"), (tag::RUN, "r1")]);
        for (id, tags, mark, refused) in [
            ("lifeboat-a", &ours, mark, None),
            ("lifeboat-a", &ours, any_run, None),
            ("lifeboat-a", &other_run, any_run, None),
            ("lifeboat-a", &other_run, mark, Some("its tag `lifeboat:run_id` says `r2`, not `r1`")),
            ("lifeboat-a", &other_database, mark, Some("its tag `lifeboat:database` says `prod/ledger`")),
            ("lifeboat-a", &other_database, any_run, Some("its tag `lifeboat:database` says `prod/ledger`")),
            ("lifeboat-a", &tags(&[]), any_run, Some("it has no tag `lifeboat:database` that says `prod/wallet`")),
            ("a", &ours, mark, Some("its name is not `lifeboat-`")),
            ("wallet", &ours, mark, Some("it is the database itself")),
        ] {
            let told = Own::proven(id, tags, mark).map_err(|why| why.to_string());
            match refused {
                None => assert_eq!(told.unwrap().as_str(), id),
                Some(why) => assert!(told.unwrap_err().contains(why), "{id} {tags:?}"),
            }
        }
    }
}
