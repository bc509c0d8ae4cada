//! Names and identifiers. A name that exists is valid: it can stand in a path,
//! an object key and a URL without quoting.

use std::{fmt, str::FromStr};

use jiff::{Timestamp, civil, tz::TimeZone};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::BackupKind;

/// Why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {what}: {remedy}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    remedy: &'static str,
}

const SHAPE: &str = "use 1 to 63 of a-z, 0-9, `-`, `_`, `.`, starting with a letter or digit";

/// What else stands in a vault beside the folders of databases.
fn is_taken_in_a_vault(text: &str) -> bool {
    ["vault.json", "vault.json.sig", "evidence"].contains(&text) || text.starts_with("lifeboat-probe-")
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    (1..=63).contains(&text.len())
        && chars.next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        name!($(#[$doc])* $type, $what, |_| false);
    };
    ($(#[$doc:meta])* $type:ident, $what:literal, $is_taken:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String")]
        pub struct $type(String);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let is_taken: fn(&str) -> bool = $is_taken;
                let invalid = |remedy| InvalidName { what: $what, text: text.to_owned(), remedy };
                if !is_name(text) {
                    Err(invalid(SHAPE))
                } else if is_taken(text) {
                    Err(invalid("every vault uses it for something else, so choose another one"))
                } else {
                    Ok(Self(text.to_owned()))
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A protected database cluster. Its folder in a vault is named so, which is why
    /// no name of anything else there is valid.
    DatabaseName, "database name", is_taken_in_a_vault);
name!(
    /// One server of a database.
    MemberName, "member name");
name!(
    /// Where a member stands.
    SiteName, "site name");
name!(
    /// A place that holds backups.
    VaultName, "vault name");
name!(
    /// A cloud region or any other label of a place with one law.
    Region, "region");
name!(
    /// A drill's plan.
    RunbookName, "runbook name");
name!(
    /// A way to tell people, such as a channel or a mailbox.
    NotifierName, "notifier name");
name!(
    /// One backup: `20261121t043728z-full-3f9a`. Sorts by start time, to the second.
    BackupId, "backup id");

/// How the instant at which a backup began stands in its id.
const STAMP: &str = "%Y%m%dt%H%M%Sz";
const STAMP_LEN: usize = "20261121t043728z".len();

impl BackupId {
    /// `distinct` keeps two apart that begin within one second. Refused where the
    /// year has not four digits.
    pub fn new(started_at: Timestamp, kind: BackupKind, distinct: u16) -> Result<Self, InvalidName> {
        format!("{}-{}-{distinct:04x}", started_at.strftime(STAMP), kind.as_str()).parse()
    }

    /// The instant in it, to the second; none where it was named by other rules.
    pub fn started_at(&self) -> Option<Timestamp> {
        let at = civil::DateTime::strptime(STAMP, self.0.get(..STAMP_LEN)?).ok()?;
        Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp())
    }
}

/// One execution of a flow: `flow/subject/kind/due-time` when scheduled,
/// `flow/subject/manual/time-random` when asked for. Starting an id twice runs
/// it once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// The parts must be names or timestamps; they are joined with `/`.
    pub fn new(flow: &str, subject: &str, kind: &str, due: &str) -> Self {
        Self(format!("{flow}/{subject}/{kind}/{due}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The flow's name, the part before the first `/`.
    pub fn flow(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

impl From<String> for RunId {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_in_a_path_or_is_refused() {
        for good in ["wallet", "a", "mt-1", "eu-south-1", "20261121t043728z-full-3f9a", "a.b_c"] {
            assert!(good.parse::<DatabaseName>().is_ok(), "{good}");
        }
        for bad in ["", "Wallet", "a/b", "..", "-a", "a b", &"x".repeat(64)] {
            assert!(bad.parse::<DatabaseName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_database_takes_the_place_of_what_else_a_vault_holds() {
        for taken in ["vault.json", "evidence", "lifeboat-probe-00000000000000aa"] {
            let error = taken.parse::<DatabaseName>().unwrap_err().to_string();
            assert!(error.contains(taken) && error.contains("choose another"), "{error}");
            assert!(taken.parse::<VaultName>().is_ok(), "{taken}");
        }
        assert!("evidence-store".parse::<DatabaseName>().is_ok());
    }

    #[test]
    fn the_id_of_a_backup_tells_when_it_began() {
        let at: Timestamp = "2026-11-21T04:37:28Z".parse().unwrap();
        let id = BackupId::new(at, BackupKind::Full, 0x3f9a).unwrap();
        assert_eq!((id.as_str(), id.started_at()), ("20261121t043728z-full-3f9a", Some(at)));
        for other in ["b1", "20261321t043728z-full-3f9a", "yesterday-evening-full"] {
            assert_eq!(other.parse::<BackupId>().unwrap().started_at(), None, "{other}");
        }
    }
}
