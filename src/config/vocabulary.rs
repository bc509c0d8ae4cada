//! Words that the product defines and this version does not build. They are
//! refused where they stand, with what to do instead, so that nobody believes
//! a line of YAML that nothing carries out.

/// Which kind of file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Document {
    Daemon,
    Schedule,
    Runbook,
}

/// One such word. `path` is where it may stand (`*` for any name or index);
/// `value` is empty when the key itself is the word.
#[derive(Debug)]
pub(super) struct Unbuilt {
    document: Document,
    path: &'static str,
    word: &'static str,
    is_value: bool,
    pub(super) remedy: &'static str,
}

impl Unbuilt {
    pub(super) fn what(&self) -> String {
        format!("`{}` is not built in this version", self.word)
    }
}

/// The word when this key is one.
pub(super) fn unbuilt_key(document: Document, parent: &str, key: &str) -> Option<&'static Unbuilt> {
    find(document, parent, key, false)
}

/// The word when this value is one.
pub(super) fn unbuilt_value(document: Document, path: &str, value: &str) -> Option<&'static Unbuilt> {
    find(document, path, value, true)
}

fn find(document: Document, path: &str, word: &str, is_value: bool) -> Option<&'static Unbuilt> {
    UNBUILT.iter().find(|unbuilt| {
        unbuilt.document == document && unbuilt.path == path && unbuilt.word == word && unbuilt.is_value == is_value
    })
}

const fn key(document: Document, path: &'static str, word: &'static str, remedy: &'static str) -> Unbuilt {
    Unbuilt { document, path, word, is_value: false, remedy }
}

const fn value(document: Document, path: &'static str, word: &'static str, remedy: &'static str) -> Unbuilt {
    Unbuilt { document, path, word, is_value: true, remedy }
}

use Document::{Daemon, Runbook, Schedule};

const POSTGRES: &str = "use `engine: postgres`";
const FULL: &str = "use `kind: full`";
const STEPS: &str = "use the steps `fence`, `promote`, `dns`, `observe` and `rejoin`";

static UNBUILT: &[Unbuilt] = &[
    value(Daemon, "/dns/*/kind", "route53", "use `kind: embedded`"),
    value(Daemon, "/dns/*/kind", "rfc2136", "use `kind: embedded`"),
    key(Daemon, "/api", "tls", "remove it, listen on a loopback address, and let a proxy end TLS"),
    key(Daemon, "/api", "tokens", "remove it, and listen on a loopback address"),
    value(Schedule, "/engine", "mysql", POSTGRES),
    value(Schedule, "/engine", "oracle", POSTGRES),
    value(Schedule, "/backups/*/kind", "logical", FULL),
    value(Runbook, "/mode", "failover", "use `mode: switchover`"),
    value(Runbook, "/path", "data_plane", "use `path: control_plane`"),
    key(Runbook, "", "stop_when", "remove it: abort with `lifeboat abort`, and bound the drill by `max_duration`"),
    key(Runbook, "", "notify", "remove it, and watch `lifeboat findings` or /metrics"),
    key(Runbook, "", "rollback", "remove it: a drill unwinds what its steps did"),
    key(Runbook, "/blast_radius", "expires_in", "remove it: `max_duration` bounds the drill"),
    key(Runbook, "/blast_radius", "lab", "remove it, and list the records"),
    key(Runbook, "/guards", "min_sites_serving", "remove it"),
    key(Runbook, "/guards", "on_unknown", "remove it: what is unknown always refuses"),
    key(Runbook, "/guards", "blackouts", "remove it: start the drill by hand when it suits"),
    key(Runbook, "/guards", "none", "write `max_replica_lag`"),
    key(Runbook, "/steady_state", "none", "list at least one probe"),
    key(Runbook, "/probes/*", "http", "use `record`, `port` and `dbname`"),
    key(Runbook, "/probes/*", "status", "use `record`, `port` and `dbname`"),
    key(Runbook, "/probes/*", "p95", "use `record`, `port` and `dbname`"),
    key(Runbook, "/steps/*", "handover", STEPS),
];
