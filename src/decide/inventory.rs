//! Whether a copy is made of what its source was made of beside the data: settings,
//! extensions, roles, collations, version. What of it may be shown is decided here
//! too: a setting may hold a password.
//!
//! It must never show the text of a setting that is not known to be harmless, and
//! never takes what was not seen for equal.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use super::{collation::Collation, indexes::first};
use crate::domain::{Check, ClusterParts, Moment, Verdict};

/// How many differences a check names; the rest is counted.
const NAMED: usize = 10;

/// The check's name and what it expects.
pub const CHECK: (&str, &str) = ("restored_config", "settings, extensions, roles and collations as at the source");

/// Settings whose value is a text, and holds no secret. Numbers, switches and choices
/// never do; any other text may: `primary_conninfo`, `archive_command`, what extensions bring.
const HARMLESS: [&str; 20] = [
    "client_encoding",
    "datestyle",
    "default_text_search_config",
    "default_tablespace",
    "intervalstyle",
    "jit_provider",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "listen_addresses",
    "log_timezone",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "synchronous_standby_names",
    "temp_tablespaces",
    "timezone",
    "unix_socket_directories",
    "wal_consistency_checking",
];

/// What a setting is called among the parts of a cluster, whatever case it is written in.
pub fn setting(name: &str) -> String {
    format!("setting {}", name.to_ascii_lowercase())
}

/// The names of the settings among these parts, but for those of roles and databases.
pub fn settings_of(parts: &ClusterParts) -> BTreeSet<String> {
    let names = parts.parts.keys().filter_map(|part| part.strip_prefix("setting "));
    names.filter(|name| !name.contains(' ')).map(str::to_owned).collect()
}

/// The value of a setting as it is kept and shown. `kind` is what the server calls its
/// type; none where it knows no such setting.
pub fn shown(name: &str, kind: Option<&str>, value: &str) -> String {
    // A library brings its own settings; where it is not loaded nobody knows their types.
    let is_text = kind.is_none_or(|kind| kind == "string") || name.contains('.');
    if !is_text || HARMLESS.contains(&name.to_ascii_lowercase().as_str()) {
        return value.to_owned();
    }
    if value.is_empty() {
        return "empty".to_owned();
    }
    digest(value)
}

fn digest(text: &str) -> String {
    let digest = hex::encode(Sha256::digest(text));
    format!("sha256:{}", digest.get(..16).unwrap_or_default())
}

/// Whether the name of a part has that of a role in it.
fn names_role(part: &str) -> bool {
    part.starts_with("role ") || part.starts_with("membership ") || part.contains(" of role ")
}

/// A part as evidence names it: roles may be called after people, so that of theirs only
/// the kind is told, and a digest of the name, by which whoever knows it finds it.
fn in_evidence(part: &str) -> String {
    match part.split_once(' ') {
        Some((kind, _)) if names_role(part) => format!("{kind} {}", digest(part)),
        _ => part.to_owned(),
    }
}

/// The parts that differ and that evidence tells by digest, for the person who asked.
pub fn roles_told(source: &ClusterParts, copy: &ClusterParts) -> Option<String> {
    let all = source.parts.keys().chain(copy.parts.keys()).collect::<BTreeSet<_>>().into_iter();
    let differ = all.filter(|part| source.parts.get(*part) != copy.parts.get(*part) && !source.hidden.contains(*part));
    let told: Vec<String> =
        differ.filter(|part| names_role(part)).map(|part| format!("{} is {part}", in_evidence(part))).collect();
    (!told.is_empty()).then(|| first(&told, NAMED))
}

/// What sorts text in a cluster, as parts of it.
pub fn collations(found: &[Collation]) -> BTreeMap<String, String> {
    let part = |collation: &Collation| {
        let name = match &collation.name {
            Some(name) => format!("collation {name} of `{}`", collation.dbname),
            None => format!("collation of `{}`", collation.dbname),
        };
        let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "none".to_owned());
        let (recorded, actual) = (version(&collation.recorded), version(&collation.actual));
        (name, format!("version {recorded}, sorted by {actual}"))
    };
    found.iter().map(part).collect()
}

/// INCONCLUSIVE where anything is otherwise in the copy, or was not seen: what was
/// measured there is then not what the source would do.
pub fn judge(moment: &Moment, source: &ClusterParts, copy: &ClusterParts) -> Check {
    let (name, expected) = CHECK;
    let expected = format!("{expected} between LSN {} and {} of timeline {}", moment.from, moment.to, moment.timeline);
    let unseen = |of: &str, parts: &ClusterParts| -> Vec<String> {
        parts.unseen.iter().map(|what| format!("not seen {of}: {what}")).collect()
    };
    let mut troubles = differences(source, copy);
    troubles.extend(unseen("at the source", source).into_iter().chain(unseen("in the copy", copy)));
    if source.parts.is_empty() {
        troubles.push("the source told nothing".to_owned());
    }
    if troubles.is_empty() {
        return Check::new(name, Verdict::Pass, expected, same(source));
    }
    let remedy = "where the source was changed on purpose, a full backup and a later recovery point have it";
    Check::new(name, Verdict::Inconclusive, expected, format!("{}; {remedy}", first(&troubles, NAMED)))
}

/// With what was not compared: what a session of ours, or a role, sets otherwise than the
/// files do, and what no copy has.
fn same(source: &ClusterParts) -> String {
    let outside = (source.outside > 0).then(|| {
        format!(
            "not compared: {} settings from files outside of the data folder, which the backup holds beside it",
            source.outside
        )
    });
    let hidden: Vec<String> = source.hidden.iter().map(|part| in_evidence(part)).collect();
    let hidden = (!hidden.is_empty()).then(|| format!("cannot be told from here: {}", hidden.join(", ")));
    let same = format!("{} parts are the same", source.parts.len());
    [Some(same), outside, hidden].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn differences(source: &ClusterParts, copy: &ClusterParts) -> Vec<String> {
    let of_source = source.parts.iter().filter_map(|(name, value)| match (copy.parts.get(name), in_evidence(name)) {
        (Some(same), _) if same == value => None,
        (Some(other), name) => Some(format!("{name} was `{value}` at the source and is `{other}` in the copy")),
        (None, name) => Some(format!("{name} was `{value}` at the source and is not in the copy")),
    });
    let is_new = |name: &String| !source.parts.contains_key(name) && !source.hidden.contains(name);
    let of_copy = copy.parts.iter().filter(|(name, _)| is_new(name));
    of_source
        .chain(
            of_copy.map(|(name, value)| {
                format!("{} was not at the source and is `{value}` in the copy", in_evidence(name))
            }),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::{Lsn, Timeline};

    fn parts(named: &[(&str, &str)]) -> ClusterParts {
        let parts = named.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        ClusterParts { parts, ..ClusterParts::default() }
    }

    #[test]
    fn every_difference_is_named_with_both_values_and_nothing_unseen_passes() {
        let moment = Moment {
            as_of: Timestamp::UNIX_EPOCH,
            system_id: "7".to_owned(),
            timeline: Timeline(1),
            from: Lsn(16),
            to: Lsn(32),
        };
        let same = parts(&[("setting work_mem", "4096"), ("role ann", "{}")]);
        let unseen = ClusterParts { unseen: vec!["extensions of `x`".to_owned()], ..same.clone() };
        let outside = ClusterParts { outside: 3, ..same.clone() };
        let hidden = ClusterParts { hidden: ["setting x".to_owned()].into(), ..same.clone() };
        let with_hidden = parts(&[("setting work_mem", "4096"), ("role ann", "{}"), ("setting x", "1")]);
        for (source, copy, verdict, told) in [
            (&same, &same, Verdict::Pass, "2 parts are the same"),
            (&outside, &same, Verdict::Pass, "2 parts are the same; not compared: 3 settings"),
            (&hidden, &with_hidden, Verdict::Pass, "2 parts are the same; cannot be told from here: setting x"),
            (&same, &with_hidden, Verdict::Inconclusive, "setting x was not at the source"),
            (
                &same,
                &parts(&[("setting work_mem", "64"), ("role ann", "{}")]),
                Verdict::Inconclusive,
                "setting work_mem was `4096` at the source and is `64` in the copy",
            ),
            (
                &same,
                &parts(&[("setting work_mem", "4096")]),
                Verdict::Inconclusive,
                "role sha256:8e7d776780a42459 was `{}` at the source and is not in the copy",
            ),
            (
                &parts(&[("role ann", "{}")]),
                &same,
                Verdict::Inconclusive,
                "setting work_mem was not at the source and is `4096` in the copy",
            ),
            (&unseen, &same, Verdict::Inconclusive, "not seen at the source: extensions of `x`"),
            (&same, &unseen, Verdict::Inconclusive, "not seen in the copy: extensions of `x`"),
            (&parts(&[]), &parts(&[]), Verdict::Inconclusive, "the source told nothing"),
        ] {
            let check = judge(&moment, source, copy);
            assert_eq!(check.verdict, verdict, "{check:?}");
            assert!(check.actual.starts_with(told), "{check:?}");
            assert!(check.expected.ends_with("between LSN 0/10 and 0/20 of timeline 1"), "{check:?}");
        }
    }

    #[test]
    fn evidence_names_no_role_and_who_asked_is_told() {
        let source =
            parts(&[("role ann", "{}"), ("membership of ann in bob", "{}"), ("setting c of role ann in `x`", "2")]);
        let copy = parts(&[("setting a", "1")]);
        let told = differences(&source, &copy).join("; ");
        assert!(!told.contains("ann") && !told.contains("bob") && told.contains("setting a was not"), "{told}");
        let roles = roles_told(&source, &copy).unwrap();
        for part in source.parts.keys() {
            assert!(told.contains(&in_evidence(part)) && roles.contains(&format!("{} is {part}", in_evidence(part))));
        }
        assert_eq!(roles_told(&source, &source), None);
    }

    #[test]
    fn settings_are_found_among_the_parts() {
        let found = parts(&[("setting a.b", "1"), ("setting c of role ann in `x`", "2"), ("role d", "3")]);
        assert_eq!(settings_of(&found).into_iter().collect::<Vec<_>>(), ["a.b"]);
        assert_eq!(setting("TimeZone"), "setting timezone");
    }

    #[test]
    fn a_text_that_may_hold_a_secret_is_a_digest() {
        for (name, kind, value, is_shown) in [
            ("work_mem", Some("integer"), "4096", true),
            ("ssl", Some("bool"), "on", true),
            ("wal_level", Some("enum"), "replica", true),
            ("TimeZone", Some("string"), "UTC", true),
            ("primary_conninfo", Some("string"), "host=a password=hunter2", false),
            ("archive_command", Some("string"), "cp %p /a", false),
            ("ssl_passphrase_command", Some("string"), "echo hunter2", false),
            ("app.api_key", Some("string"), "hunter2", false),
            ("app.other", None, "hunter2", false),
            ("app.number", Some("integer"), "5", false),
        ] {
            let told = shown(name, kind, value);
            assert_eq!(told == value, is_shown, "{name}: {told}");
            assert!(is_shown || told.starts_with("sha256:") && !told.contains("hunter2"), "{told}");
        }
        let digest = |value| shown("archive_command", Some("string"), value);
        assert_ne!(digest("a"), digest("b"));
        assert_eq!(digest(""), "empty");
    }

    #[test]
    fn collations_are_parts_with_both_versions() {
        let collation = |name: Option<&str>, recorded: Option<&str>| Collation {
            dbname: "wallet".to_owned(),
            name: name.map(str::to_owned),
            is_fixed: false,
            recorded: recorded.map(str::to_owned),
            actual: Some("2.36".to_owned()),
        };
        let found = collations(&[collation(None, Some("2.31")), collation(Some("public.german"), None)]);
        let told: Vec<String> = found.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(
            told,
            [
                "collation of `wallet`: version 2.31, sorted by 2.36",
                "collation public.german of `wallet`: version none, sorted by 2.36"
            ]
        );
    }
}
