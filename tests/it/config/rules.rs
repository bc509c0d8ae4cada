//! One spoilt example per rule. `‸` marks where the problem must be reported:
//! at exactly this line and column, and nothing else anywhere.

pub(super) use super::Written;

mod buckets;
mod checks;
mod managed;
mod points;
mod stores;

pub(super) const MARK: char = '‸';
pub(super) const D: &str = "lifeboat.yaml";
pub(super) const S: &str = "schedules/wallet.yaml";
const R: &str = "runbooks/wallet-switchover.yaml";
const KEY: &str = "age1s4wzpw6p642n85kcj5l4zw63ewac7zrr5la95yp39lg5ww77e58s5mu0c6";
const OTHER_KEY: &str = "\n    - age1nu8yqf523za2knlppy96jugkyz9z4jdqvzsghu4nrer39vm74vlqmgy89g";

/// Edits (file, old, new), then what the problem and its remedy must say.
type Case<'a> = (&'a [(&'a str, &'a str, &'a str)], &'a str, &'a str);

pub(super) fn assert_each(cases: &[Case<'_>]) {
    for (edits, what, remedy) in cases {
        let written = Written::examples();
        let mut wanted = None;
        for (file, old, new) in *edits {
            written.change(file, old, new);
            let text = std::fs::read_to_string(written.path(file)).unwrap();
            let Some(at) = text.find(MARK) else { continue };
            let (line, before) = (text[..at].matches('\n').count() + 1, text[..at].rsplit('\n').next().unwrap());
            wanted = Some(format!("{file}:{line}:{}", before.chars().count() + 1));
            written.write(file, text.replacen(MARK, "", 1));
        }
        let wanted = wanted.unwrap();
        let Err(problems) = written.load() else { panic!("{edits:?} was accepted") };
        let [problem] = problems.iter().collect::<Vec<_>>()[..] else { panic!("{edits:?} gave\n{problems}") };
        assert_eq!(written.place(problem), wanted, "{edits:?} gave {problem}");
        assert!(problem.what.contains(what), "{edits:?}: `{what}` is not in: {problem}");
        assert!(problem.remedy.contains(remedy), "{edits:?}: `{remedy}` is not in: {problem}");
    }
}

#[test]
fn shapes() {
    assert_each(&[
        (&[(D, "api:", "‸apis:")], "unknown key `apis`", "did you mean `api`?"),
        (&[(S, "timezone:", "‸timezome:")], "unknown key `timezome`", "did you mean `timezone`?"),
        (&[(S, "database: wallet\nengine", "‸engine")], "`database` is missing", "add `database: …`"),
        (&[(S, "engine: postgres", "engine: ‸postgre")], "`postgre` is not allowed", "did you mean `postgres`?"),
        (&[(S, "port: 5432, site: mt-a", "port: ‸\"5432\", site: mt-a")], "belongs", "without quotes"),
        (&[(S, "port: 5432, site: mt-a", "port: ‸70000, site: mt-a")], "out of range", "from 1 to 65535"),
        (&[(S, "port: 5432, site: mt-a", "port: ‸0, site: mt-a")], "out of range", "from 1"),
        (&[(S, "stream: true", "stream: ‸yes")], "true or false", "write `true`"),
        (&[(S, "vaults: [primary, dr]", "vaults: ‸primary")], "a list belongs", "`[…]`"),
        (&[(S, "wal: {stream: true, window: 31d, flush_every: 1s}", "wal: ‸[31d]")], "a list stands", "key: value"),
        (&[(S, "timezone: Europe/Malta", "‸timezone:")], "no value", "remove the key"),
        (&[(S, "{file: /run/secrets/wallet}", "‸hunter2")], "reference to a secret", "{env: NAME}"),
        (&[(S, "{file: /run/secrets/wallet}", "{‸path: /run/secrets/wallet}")], "unknown key `path`", "`file`"),
        (&[(R, "{command: [/etc/lifeboat/fence, mt-a]}", "‸/etc/lifeboat/fence")], "a mapping belongs", "key: value"),
        (&[(D, "dr: {kind: directory, ", "dr: ‸{")], "`kind` is missing", "kind: directory"),
        (&[(D, "dr: {kind: directory", "dr: {kind: ‸directry")], "`directry`", "did you mean `directory`?"),
        (&[(R, "{promote: to}", "{‸promot: to}")], "unknown key `promot`", "did you mean `promote`?"),
        (&[(S, "- heartbeat", "- ‸hartbeat")], "`hartbeat`", "did you mean `heartbeat`?"),
        (&[(S, "{sql:", "{‸sq:")], "unknown key `sq`", "sql"),
    ]);
}

#[test]
fn where_backups_come_from() {
    let zone = "timezone: Europe/Malta";
    let with = |more: &str| format!("{zone}\n{more}");
    assert_each(&[
        (&[(S, zone, &with("backup_from: ‸secondary"))], "`secondary` is not allowed", "primary"),
        (&[(S, zone, &with("backup_rate_max: ‸50MB"))], "`50MB` is not a size", "64MiB"),
        (&[(S, zone, &with("backup_rate_max: ‸31KiB"))], "at 32KiB to 1GiB a second, not at 31KiB", "or remove it"),
        (&[(S, zone, &with("backup_rate_max: ‸1025MiB"))], "32KiB to 1GiB a second", "or remove it"),
        (&[(S, "{kind: full, ", "{kind: full, backup_rate_max: ‸0B, ")], "not at 0B", "or remove it"),
        (&[(S, "{kind: full, ", "{backup_from: ‸b, kind: full, ")], "`b` is not allowed", "primary"),
    ]);
}

#[test]
fn yaml_traps() {
    assert_each(&[
        (&[(S, "timezone: Europe/Malta", "timezone: ‸&zone Europe/Malta")], "anchors", "write the value out"),
        (&[(S, "timezone: Europe/Malta", "timezone: ‸!!str Europe/Malta")], "tags", "remove"),
        (&[(S, "timezone: Europe/Malta", "timezone: UTC\n‸timezone: UTC")], "stands here again", "keep one"),
        (&[(S, "expect: \"0.00\"}", "expect: \"0.00\"}\n‸---\nmore: 1")], "second document", "one document per file"),
    ]);
    let written = Written::examples();
    written.change(S, "  - {kind: full", "\t- {kind: full");
    let problems = written.load().unwrap_err();
    assert!(problems.to_string().contains("a tab indents this line"), "{problems}");
    for text in ["", "# nothing\n", "---\n", "~\n"] {
        written.write(S, text);
        let problems = written.load().unwrap_err();
        assert!(problems.to_string().contains("wallet.yaml:1:1: the file is empty"), "{text:?} gave\n{problems}");
    }
    written.write(S, [b'a', b':', b'\n', b'b', b':', 0xFF]);
    let problems = written.load().unwrap_err();
    assert!(problems.to_string().contains("wallet.yaml:2:3: this is not UTF-8 text"), "{problems}");
    let written = Written::examples();
    written.write("schedules/second.yml", "");
    assert!(written.load().unwrap_err().to_string().contains("rename it to end in `.yaml`"));
}

#[test]
fn names_and_amounts() {
    assert_each(&[
        (&[(S, "rto: 1h", "rto: ‸1 hour")], "`1 hour` is not a duration", "such as `15m`"),
        (&[(S, "flush_every: 1s", "flush_every: ‸1")], "`1` is not a duration", "a number and a unit"),
        (&[(S, "  a: {host", "  ‸A: {host")], "`A` is not a valid member name", "a-z"),
        (
            &[(D, "  dr: {", "  dr: {kind: directory, path: /x, region: eu-south-1}\n  ‸DR: {")],
            "not a valid vault name",
            "a-z",
        ),
        (
            &[(D, "{wallet.example.: 192.0.2.10}", "{wallet.example.: 192.0.2.10, ‸b.example: 192.0.2.10}")],
            "not a full name",
            "`b.example.`",
        ),
        (&[(D, "name: mt-1, region: eu-south-1", "name: mt-1, region: ‸EU")], "not a valid region", "a-z"),
        (&[(D, "name: mt-1", "name: mt-1, roles: ‸[]")], "this node would do nothing", "name `scheduler`"),
        (&[(D, "name: mt-1", "name: mt-1, roles: [worker, ‸worker]")], "listed twice", "keep one"),
        (&[(D, "name: mt-1", "name: mt-1, roles: [‸works]")], "`works`", "worker"),
        (&[(D, "name: mt-1", "name: mt-1, runs_max: ‸0")], "0", "1"),
        (&[(S, "timezone:", "runs_max: ‸0\ntimezone:")], "0", "1"),
        (&[(S, "cron: \"0 5 1 * *\"", "cron: ‸\"0 5 1 *\"")], "not a cron expression", "0 2 * * *"),
        (&[(S, "cron: \"0 5 1 * *\"", "cron: ‸\"0 61 1 * *\"")], "not a cron expression", "0 2 * * *"),
        (&[(S, "cron: \"0 5 1 * *\"", "cron: ‸\"0 0 30 2 *\"")], "never falls due", "day or the month"),
        (&[(S, "Europe/Malta", "‸Europe/Valletta")], "not a time zone", "Europe/Malta"),
        (&[(D, KEY, "‸ssh-ed25519 AAAA")], "not an age public key", "age1"),
        (&[(D, KEY, "‸AGE-SECRET-KEY-1")], "secret", "age1"),
        (&[(D, "\"127.0.0.1:8080\"", "‸localhost:8080")], "not an address with a port", "127.0.0.1:8080"),
        (&[(D, "zone: example.", "zone: ‸example")], "not a full name", "end it with a dot"),
        (
            &[(R, "wallet.example., to: 192.0.2.20", "wallet.example., to: ‸192.0.2.256")],
            "not an IP address",
            "192.0.2.20",
        ),
        (&[(D, "\"sqlite:/var/lib/lifeboat/lifeboat.db\"", "‸mysql://db")], "not a place for the state", "sqlite:PATH"),
        (
            &[(D, "\"sqlite:/var/lib/lifeboat/lifeboat.db\"", "‸\"sqlite::memory:\"")],
            "gone with the process",
            "sqlite:",
        ),
        (
            &[(D, "lifeboat/lifeboat.db\"", "lifeboat/lifeboat.db\", keep: ‸30d")],
            "before anybody has looked at the month",
            "write at least `35d`",
        ),
        (&[(D, "name: mt-1,", "name: ‸\"\",")], "empty text", "write it"),
    ]);
}

#[test]
fn rules_of_the_daemon() {
    assert_each(&[
        (&[(D, OTHER_KEY, ""), (D, "    - age1", "    ‸- age1")], "one recipient", "single_recipient_reason"),
        (&[(D, OTHER_KEY, &format!("\n    - ‸{KEY}"))], "listed twice", "keep one"),
        (&[(D, "path: /mnt/dr/vault", "path: ‸\"\"")], "empty", "write it"),
        (&[(D, "path: /mnt/dr/vault", "path: ‸.")], "configuration and its keys", "a folder of its own"),
        (&[(D, "path: /mnt/dr/vault", "path: ‸./schedules/..")], "configuration and its keys", "a folder of its own"),
        (&[(D, "path: /mnt/dr/vault", "path: ‸/")], "configuration and its keys", "a folder of its own"),
        (&[(D, "  identity", "  ‸single_recipient_reason: lab\n  identity")], "2 recipients", "remove"),
        (&[(D, "{file: /run/secrets/age.key}", "{command: [‸age-key]}")], "not an absolute path", "full path"),
        (&[(D, "/mnt/dr/vault", "‸/var/lib/lifeboat/vault")], "vault `primary` too", "its own folder"),
        (&[(D, "{wallet.example.: 192", "{‸wallet.elsewhere.: 192")], "outside the zone", ".example."),
        (&[(D, "127.0.0.1:8080", "0.0.0.0:8080"), (D, "listen: \"0", "listen: ‸\"0")], "TLS", "loopback"),
    ]);
}

#[test]
fn rules_of_a_login() {
    assert_each(&[
        (&[(S, "sslmode: verify-full", "‸sslcert: c.crt")], "`sslcert` is of no use without `sslkey`", "add `sslkey`"),
        (&[(S, "sslmode: verify-full", "‸sslkey: c.key")], "`sslkey` is of no use without `sslcert`", "add `sslcert`"),
        (
            &[(S, "sslmode: verify-full", "sslmode: disable, ‸sslcert: c.crt, sslkey: c.key")],
            "without TLS no certificate is shown",
            "sslmode: verify-full",
        ),
    ]);
}

#[test]
fn rules_of_a_schedule() {
    let region = "residency: {jurisdiction: MT, regions: [eu-south-1, eu-central-1]}";
    assert_each(&[
        (
            &[(S, "[primary, dr]", "[primary]"), (S, "timezone:", "‸copy: {lag_max: 1h}\ntimezone:")],
            "nothing is ever copied",
            "name a further vault",
        ),
        (&[(S, "timezone:", "copy: {lag_max: ‸0s}\ntimezone:")], "`lag_max` is zero", "such as `6h`"),
        (&[(S, "vaults: [primary, dr]", "vaults: [primary, ‸rd]")], "vault `rd` does not exist", "dr"),
        (&[(S, "vaults: [primary, dr]", "vaults: ‸[]")], "no vault is named", "at least one"),
        (&[(S, "vaults: [primary, dr]", "vaults: [dr, ‸dr]")], "listed twice", "keep one"),
        (
            &[
                (S, region, "residency: {jurisdiction: MT, regions: [eu-south-1]}"),
                (S, "[primary, dr]", "[primary, ‸dr]"),
            ],
            "`dr` is in eu-central-1, outside the residency of MT",
            "eu-south-1",
        ),
        (&[(S, region, "residency: {jurisdiction: MT, regions: ‸[]}")], "allows no region", "list"),
        (
            &[
                (S, region, "residency: {jurisdiction: MT, regions: [eu-central-1]}"),
                (S, "[primary, dr]", "[dr]"),
                (S, "restore_test:", "‸restore_test:"),
            ],
            "restore on this node in eu-south-1, outside",
            "eu-central-1",
        ),
        (&[(S, "login:", "‸connection: {host: db1}\nlogin:")], "both say where", "keep `members`"),
        (&[(S, "host: db2", "host: db1"), (S, "  b: {", "  ‸b: {")], "same server as `a`", "remove"),
        (&[(S, "rto: 1h", "rto: ‸0s")], "`rto` is zero", "1h"),
        (&[(S, "stream: true", "stream: ‸false")], "cannot be restored without the WAL", "stream: true"),
        (&[(S, "flush_every: 1s", "flush_every: ‸1h")], "lose at most 15m", "objectives.rpo"),
        (&[(S, "flush_every: 1s", "flush_every: ‸0s")], "`flush_every` is zero", "1s"),
        (
            &[(S, "backups:\n  - {kind: full, cron: \"0 2 * * *\", keep: {daily: 31}}", "backups: ‸[]")],
            "no backup is ever taken",
            "kind: full",
        ),
        (
            &[(D, "  identity: {file: /run/secrets/age.key}", ""), (S, "restore_test:", "‸restore_test:")],
            "needs an age identity",
            "identity: {file: PATH}",
        ),
        (&[(S, "random_within_window, window: 30d", "random_within_window, window: ‸32d")], "kept for 31d", "at most"),
        (
            &[(S, "{algorithm: random_within_window, window: 30d}", "‸{algorithm: random_within_window}")],
            "needs a window",
            "window: 30d",
        ),
        (&[(S, "random_within_window, window", "latest_at_disaster, ‸window")], "has no window", "remove"),
        (
            &[(
                S,
                "checks:\n    - heartbeat\n    - {sql: \"select coalesce(sum(amount), 0)::numeric(20, 2) from ledger\", dbname: wallet, expect: \"0.00\"}",
                "checks: ‸[]",
            )],
            "checks nothing",
            "heartbeat",
        ),
        (&[(S, "- heartbeat", "- heartbeat\n    - ‸heartbeat")], "listed twice", "keep one"),
        (&[(S, "{file: /run/secrets/wallet}", "{command: ‸[]}")], "command is empty", "/path/to/program"),
    ]);
}

#[test]
fn something_is_promised() {
    let objectives = "objectives: {rto: 1h, rpo: 15m}\n";
    assert_each(&[
        (
            &[(S, objectives, ""), (S, "database: wallet\nengine", "‸database: wallet\nengine")],
            "neither `objectives` nor `tier`",
            "`objectives: {rto: 1h, rpo: 15m}`",
        ),
        (&[(S, "{rto: 1h, rpo: 15m}", "‸{rto: 1h}")], "`rpo` is missing, and no tier promises one", "add `rpo: …`"),
        (&[(S, "{rto: 1h, rpo: 15m}", "‸{rpo: 15m}")], "`rto` is missing", "a `tier`"),
        (&[(S, "rpo: 15m", "‸rpoo: 15m")], "unknown key `rpoo`", "did you mean `rpo`?"),
        (&[(S, "objectives:", "‸objectivs:")], "unknown key `objectivs`", "did you mean `objectives`?"),
        (&[(S, objectives, "‸teir: backup_only\n")], "unknown key `teir`", "did you mean `tier`?"),
        (&[(S, objectives, "tier: ‸hot_standby\n")], "`hot_standby` is not allowed", "`warm_standby`"),
        (
            &[(S, objectives, "tier: active_active\n"), (S, "flush_every: 1s", "flush_every: ‸5s")],
            "lose at most 1s",
            "flush more often",
        ),
    ]);
}

#[test]
fn what_is_written_goes_before_what_the_tier_promises() {
    let objectives = "objectives: {rto: 1h, rpo: 15m}\n";
    for (instead, rto, rpo) in [
        (objectives, "1h", "15m"),
        ("tier: active_active\n", "30s", "1s"),
        ("tier: warm_standby\n", "5m", "1m"),
        ("tier: pilot_light\n", "30m", "15m"),
        ("tier: backup_only\n", "1h", "15m"),
        ("tier: pilot_light\nobjectives: {rpo: 0s}\n", "30m", "0s"),
        ("tier: warm_standby\nobjectives: {rto: 2h}\n", "2h", "1m"),
        ("tier: warm_standby\nobjectives: {rto: 1m, rpo: 1h}\n", "1m", "1h"),
        ("tier: backup_only\nobjectives: {}\n", "1h", "15m"),
    ] {
        let written = Written::examples();
        written.change(S, objectives, instead);
        let promised = written.load().unwrap().schedules[0].config.objectives();
        assert_eq!((promised.rto.to_string(), promised.rpo.to_string()), (rto.to_owned(), rpo.to_owned()), "{instead}");
    }
}

/// After `api`, in `lifeboat.yaml`.
const API: &str = "api:";

#[test]
fn no_schedule_promises_less_than_its_jurisdiction_and_the_estate() {
    let promised = "objectives: {rto: 1h, rpo: 15m}\n";
    let with = |objectives: &str| format!("objectives: {objectives}\napi:");
    let estate = with("{rto: 30m, rpo: 1h}");
    let malta = with("{rto: 2h, jurisdictions: {MT: {rpo: 5m}}}");
    assert_each(&[
        (
            &[(D, API, &estate), (S, "rto: 1h", "rto: ‸1h")],
            "`rto: 1h` is laxer than the `rto: 30m` of the estate",
            "30m",
        ),
        (
            &[(D, API, &malta), (S, "rpo: 15m", "rpo: ‸15m")],
            "`rpo: 15m` is laxer than the `rpo: 5m` of the jurisdiction MT",
            "at most `5m`",
        ),
        (
            &[(D, API, &estate), (S, promised, "tier: ‸backup_only\n")],
            "this tier promises `rto: 1h`, laxer than the `rto: 30m` of the estate",
            "a stricter tier",
        ),
        (
            &[(D, API, &with("{rto: 2h, jurisdictions: {MT: {rto: ‸3h}}}"))],
            "`rto: 3h` is laxer than the estate's `rto: 2h`",
            "at most `2h`",
        ),
        (
            &[(D, API, &with("{jurisdictions: {‸MZ: {rto: 3h}}}"))],
            "no schedule's `residency` names the jurisdiction `MZ`",
            "did you mean `MT`?",
        ),
        (&[(D, API, &with("{rto: ‸0s}"))], "`rto` is zero", "such as `1h`"),
        (&[(D, API, &with("{jurisdictions: {MT: {rto: ‸0s}}}"))], "`rto` is zero", "such as `1h`"),
        (&[(D, API, &with("{‸rtoo: 1h}"))], "unknown key `rtoo`", "did you mean `rto`?"),
        // What the estate promises is what WAL must be flushed for.
        (
            &[(D, API, &with("{rto: 1h, rpo: 2s}")), (S, promised, ""), (S, "flush_every: 1s", "flush_every: ‸5s")],
            "lose at most 2s",
            "flush more often",
        ),
        (&[(D, API, &with("{rto: 1h}")), (S, "{rto: 1h, rpo: 15m}", "‸{rto: 1h}")], "`rpo` is missing", "add `rpo: …`"),
    ]);
}

#[test]
fn what_a_schedule_does_not_promise_its_jurisdiction_does_and_then_the_estate() {
    let promised = "objectives: {rto: 1h, rpo: 15m}\n";
    for (estate, schedule, rto, rpo) in [
        ("{rto: 2h, rpo: 30m}", "", "2h", "30m"),
        ("{rto: 2h, rpo: 30m, jurisdictions: {MT: {rpo: 10m}}}", "", "2h", "10m"),
        ("{rto: 2h, jurisdictions: {MT: {rpo: 10m}}}", "objectives: {rto: 5m}\n", "5m", "10m"),
        ("{rto: 2h, rpo: 30m}", promised, "1h", "15m"),
        ("{rto: 2h, rpo: 30m}", "tier: warm_standby\n", "5m", "1m"),
    ] {
        let written = Written::examples();
        written.change(D, API, &format!("objectives: {estate}\napi:"));
        written.change(S, promised, schedule);
        let promised = written.load().unwrap().schedules[0].config.objectives();
        assert_eq!((promised.rto.to_string(), promised.rpo.to_string()), (rto.to_owned(), rpo.to_owned()), "{estate}");
    }
}

#[test]
fn rules_of_when_runs_begin() {
    let line = "cron: \"0 5 1 * *\"";
    assert_each(&[
        (&[(S, line, "cron: \"0 5 1 * *\"\n  start_window: ‸0s")], "`start_window` is zero", "6h"),
        (&[(S, line, "cron: \"0 5 1 * *\"\n  start_window: 1h\n  jitter: ‸1h")], "after its start window", "shorter"),
        (&[(S, line, "cron: \"0 5 1 * *\"\n  catch_up: ‸later")], "`later`", "run_once"),
        (
            &[(S, "timezone:", "blackouts: [{start: ‸Saturday, end: \"Sun 23:59\"}]\ntimezone:")],
            "no weekday with a time",
            "Sat 12:00",
        ),
        (
            &[(S, "timezone:", "blackouts: [{start: \"Sat 12:00\", end: ‸\"2026-12-27 12:00\"}]\ntimezone:")],
            "does not",
            "both with a weekday",
        ),
        (
            &[(S, "timezone:", "blackouts: [{start: \"2026-12-27 12:00\", end: ‸\"2026-12-27 11:00\"}]\ntimezone:")],
            "ends before it begins",
            "correct one",
        ),
        (
            &[(S, "timezone:", "blackouts: [{start: \"Sat 12:00\", end: \"Sun 12:00\", holds: ‸[]}]\ntimezone:")],
            "holds nothing",
            "remove `holds`",
        ),
        (
            &[
                (S, "timezone:", "blackouts: [{start: \"Sat 12:00\", end: \"Sun 12:00\"}]\ntimezone:"),
                (S, line, "cron: ‸\"0 13 * * 6\"\n  start_window: 2h"),
            ],
            "holds every run of this line",
            "another time",
        ),
        (
            &[(
                S,
                "  - {kind: full, cron: \"0 2 * * *\"",
                "  - {kind: incremental, cron: ‸\"0 2 * * 1\"}\n  - {kind: full, cron: \"0 2 * * *\"",
            )],
            "no run of this line ever begins",
            "remove the line",
        ),
        (
            &[(D, "api:", "maintenance: [{reason: new disks, start: \"Sun 02:00\", end: ‸\"Sun 02:00\"}]\napi:")],
            "lasts no time",
            "correct one",
        ),
    ]);
}

#[test]
fn rules_of_what_is_kept() {
    assert_each(&[
        (&[(S, "{daily: 31}", "{‸dayly: 31}")], "unknown key `dayly`", "did you mean `daily`?"),
        (&[(S, "{daily: 31}", "{daily: 31, ‸fortnightly: 2}")], "`fortnightly`", "`weekly`"),
        (&[(S, ", keep: {daily: 31}", ", ‸keep: {}")], "keeps none of them", "daily: 31"),
        (&[(S, "{kind: full, cron", "{kind: ‸incremental, cron")], "no line takes the full backups", "kind: full"),
        (
            &[(S, "{kind: full, cron", "{kind: ‸differential, cron")],
            "backups that differentials are built",
            "kind: full",
        ),
        (&[(S, "{daily: 31}", "{daily: 31, weekly: ‸0}")], "`weekly: 0` keeps nothing", "at least 1"),
        (
            &[(S, "{daily: 31}", "{daily: 30}"), (S, "window: 31d, flush", "window: ‸31d, flush")],
            "longer than 30d",
            "keep more",
        ),
        (
            &[
                (S, "{daily: 31}", "{hourly: 48, weekly: 2}, standalone: true"),
                (S, "window: 31d, flush", "window: ‸31d, flush"),
            ],
            "longer than 14d",
            "at most as long",
        ),
    ]);
}

#[test]
fn rules_of_a_runbook() {
    assert_each(&[
        (&[(R, "database: wallet\n", "database: ‸walet\n")], "has no schedule", "did you mean `wallet`?"),
        (&[(R, "{rto: 5m, rpo: 0s}", "‸{rto: 5m}")], "`rpo` is missing", "add `rpo: …`"),
        (&[(R, "\nto: mt-b", "\nto: ‸mt-c")], "no member of `wallet` is in the site `mt-c`", "mt-a"),
        (&[(R, "\nto: mt-b", "\nto: ‸mt-a")], "the same site", "takes over"),
        (&[(R, "steady_state: [bets]", "steady_state: ‸[]")], "when the service is healthy", "probe"),
        (&[(R, "steady_state: [bets]", "steady_state: [‸best]")], "probe `best` does not exist", "did you mean"),
        (&[(R, "{required: 2, distinct_from: requester}", "‸{required: 0}")], "nobody has to approve", "reason"),
        (&[(R, "distinct_from: requester", "distinct_from: ‸anybody")], "anybody", "requester"),
        (
            &[
                (R, "records: [wallet.example.]", "records: [other.example.]"),
                (R, "record: wallet.example., to", "record: ‸wallet.example., to"),
            ],
            "outside the blast radius",
            "blast_radius.records",
        ),
        (
            &[(R, "{dns: switch,", "{dns: switch, provider: ‸lob,")],
            "provider `lob` does not exist",
            "did you mean `lab`?",
        ),
        (
            &[
                (D, "zone: example.", "zone: test."),
                (D, "wallet.example.:", "wallet.test.:"),
                (R, "record: wallet.example., to", "record: ‸wallet.example., to"),
            ],
            "outside the zone `test.`",
            "that zone",
        ),
        (&[(R, "{promote: to}", "{promote: ‸from}")], "the other side", "promote: to"),
        (&[(R, "[/etc/lifeboat/fence, mt-a]", "[‸fence, mt-a]")], "not an absolute path", "no shell"),
        (&[(R, "[/etc/lifeboat/unfence, mt-a]", "‸[]")], "command is empty", "/path/to/program"),
        (&[(R, "prove: [login, write]", "prove: ‸[]")], "fence holds", "login, write"),
        (&[(R, "max_duration: 30m", "max_duration: ‸30s")], "observing alone takes 1m", "more time"),
    ]);
}

#[test]
fn what_is_missing_altogether() {
    let servers =
        "members:                                         # or `connection: {host, port}` when there is one server
  a: {host: db1, port: 5432, site: mt-a}
  b: {host: db2, port: 5432, site: mt-b}
";
    let dns = "dns:
  lab:
    kind: embedded
    listen: \"127.0.0.1:5353\"
    zone: example.
    records: {wallet.example.: 192.0.2.10}
    ttl_seconds: 5
    file: /var/lib/lifeboat/dns.json              # keeps what drills changed
";
    let second = "dns:
  second: {kind: embedded, listen: \"127.0.0.1:5354\", zone: example., records: {}, ttl_seconds: 5}
";
    let vaults = "vaults:
  primary: {kind: directory, path: /var/lib/lifeboat/vault, region: eu-south-1, durable: required}
  dr: {kind: directory, path: /mnt/dr/vault, region: eu-central-1, durable: best_effort}
";
    let switch = "{dns: switch, record: wallet.example., to: 192.0.2.20}";
    assert_each(&[
        (&[(D, dns, ""), (R, switch, &format!("‸{switch}"))], "no DNS provider", "under `dns`"),
        (&[(D, "dns:\n", second), (R, switch, &format!("‸{switch}"))], "several DNS providers", "second, lab"),
        (
            &[(S, servers, "connection: {host: db1}\n"), (R, "database: wallet\n", "database: ‸wallet\n")],
            "one server",
            "`members`",
        ),
        (
            &[(S, servers, ""), (S, "database: wallet\nengine", "‸database: wallet\nengine")],
            "nothing says where",
            "`members`",
        ),
        (
            &[(R, "max_duration: 30m", "max_duration: ‸0s"), (R, "hold: 60s", "hold: 0s")],
            "`max_duration` is zero",
            "30m",
        ),
        (&[(R, "rto: 5m", "rto: ‸0s")], "`rto` is zero", "5m"),
        (
            &[(S, "window: 31d", "window: ‸0s"), (S, "random_within_window, window: 30d", "latest_at_disaster")],
            "`window` is zero",
            "31d",
        ),
        (&[(D, "api:", "‸single_recipient_reason: x\napi:")], "unknown key `single_recipient_reason`", "known here"),
    ]);
    let written = Written::examples();
    written.change(D, vaults, "vaults: {}\n");
    let problems = written.load().unwrap_err();
    let seen: Vec<_> = problems.iter().map(|problem| (written.place(problem), problem.what.as_str())).collect();
    assert_eq!(seen[0], ("lifeboat.yaml:16:9".to_owned(), "there is no vault"), "{problems}");
    assert_eq!(seen.len(), 3, "{problems}");
    let written = Written::examples();
    let recipients = format!("\n    - {KEY}{OTHER_KEY}");
    written.change(D, &recipients, " []");
    let problems = written.load().unwrap_err();
    assert!(problems.to_string().contains("lifeboat.yaml:10:15: nobody could open the backups"), "{problems}");
}

const STEPS: &str = "  - fence: from                                  # reversible
    by: {command: [/etc/lifeboat/fence, mt-a]}
    release: {command: [/etc/lifeboat/unfence, mt-a]}
    prove: [login, write]
  - {promote: to}                                # point of no return
  - {dns: switch, record: wallet.example., to: 192.0.2.20}
  - {observe: dns, hold: 60s}
  - {rejoin: from, by: {command: [/etc/lifeboat/rejoin, mt-a]}}
";

#[test]
fn order_of_steps() {
    let fence = "{fence: from, by: {command: [/f]}, release: {command: [/u]}, prove: [login]}";
    let (promote, observe) = ("{promote: to}", "{observe: dns, hold: 60s}");
    let dns = "{dns: switch, record: wallet.example., to: 192.0.2.20}";
    let rejoin = "{rejoin: from, by: {command: [/r]}}";
    let cases: [(&[&str], usize, &str, &str); 10] = [
        (&[promote, fence], 0, "`promote` comes before `fence`", "two primaries"),
        (&[fence, dns, promote], 1, "`dns` comes before `promote`", "promote first"),
        (&[fence, promote, promote], 2, "`promote` stands here again", "keep one"),
        (&[fence, fence, promote], 1, "`fence` stands here again", "keep one"),
        (&[fence, promote, observe, dns], 2, "`observe` comes before `dns`", "move it"),
        (&[fence, rejoin, promote], 1, "`rejoin` comes before `promote`", "after `promote`"),
        (&[fence, promote, rejoin, rejoin], 3, "`rejoin` stands here again", "keep one"),
        (&[fence], 0, "", "add `promote: to`"),
        (&[promote], 0, "`promote` comes before `fence`", "fence first"),
        (&[], 0, "", "add `fence: from`"),
    ];
    for (steps, at, what, remedy) in cases {
        let written = Written::examples();
        let lines = format!("  - {}\n", steps.join("\n  - "));
        written.change(super::FILES[2].0, STEPS, if steps.is_empty() { "  []\n" } else { &lines });
        let problems = written.load().unwrap_err();
        let found = problems.iter().find(|problem| problem.what.contains(what) && problem.remedy.contains(remedy));
        let found = found.unwrap_or_else(|| panic!("{steps:?}: no `{what}` in\n{problems}"));
        let column = if steps.is_empty() || what.is_empty() { 3 } else { 5 };
        assert_eq!(written.place(found), format!("{R}:{}:{column}", 17 + at), "{steps:?} gave\n{problems}");
    }
    for rules_that_hold in [vec![fence, promote], vec![fence, promote, dns, observe, rejoin]] {
        let written = Written::examples();
        let lines = format!("  - {}\n", rules_that_hold.join("\n  - "));
        written.change(R, STEPS, &lines);
        written.load().unwrap();
    }
}

#[test]
fn rules_over_files() {
    let written = Written::examples();
    for file in [S, R] {
        let twin = file.replace("wallet", "zwallet");
        written.write(&twin, std::fs::read(written.path(file)).unwrap());
    }
    let problems = written.load().unwrap_err();
    let places: Vec<_> = problems.iter().map(|problem| written.place(problem)).collect();
    assert_eq!(places, ["runbooks/zwallet-switchover.yaml:2:10", "schedules/zwallet.yaml:2:11"], "{problems}");
    assert!(problems.iter().all(|problem| problem.what.contains("already")), "{problems}");
}

#[test]
fn vocabulary_that_is_not_built_is_refused_by_name() {
    assert_each(&[
        (&[(D, "\"127.0.0.1:8080\"", "\"127.0.0.1:8080\", ‸tls: {}")], "`tls` is not built", "proxy"),
        (&[(D, "\"127.0.0.1:8080\"", "\"127.0.0.1:8080\", ‸tokens: {file: t}")], "`tokens` is not built", "loopback"),
        (&[(R, "approvals:", "‸notify: [dba]\napprovals:")], "`notify` is not built", "findings"),
        (&[(R, "mode: switchover", "mode: ‸failover")], "`failover` is not built", "switchover"),
        (&[(R, "path: control_plane", "path: ‸data_plane")], "`data_plane` is not built", "control_plane"),
        (
            &[(R, "max_duration: 30m", "max_duration: 30m, ‸expires_in: 45m")],
            "`expires_in` is not built",
            "max_duration",
        ),
        (&[(R, "{max_replica_lag: 30s}", "{max_replica_lag: 30s, ‸min_sites_serving: 1}")], "not built", "remove"),
        (&[(R, "{max_replica_lag: 30s}", "{max_replica_lag: 30s, ‸on_unknown: refuse}")], "not built", "refuses"),
        (&[(R, "approvals:", "‸stop_when: []\napprovals:")], "`stop_when` is not built", "lifeboat abort"),
        (&[(R, "  - {observe", "  - {‸handover: back}\n  - {observe")], "`handover` is not built", "rejoin"),
    ]);
    for engine in ["mysql", "oracle"] {
        assert_each(&[(&[(S, "engine: postgres", &format!("engine: ‸{engine}"))], "is not built", "engine: postgres")]);
    }
    for kind in ["route53", "rfc2136"] {
        assert_each(&[(&[(D, "kind: embedded", &format!("kind: ‸{kind}"))], "is not built", "kind: embedded")]);
    }
}

#[test]
fn verification() {
    let with = |verify: &str| format!("{verify}\nrestore_test:");
    let cases = [
        ("verify: ‸{every: 1d, sample: 5%, period: 7d}", "reads everything in 20d", "within a longer period"),
        ("verify: ‸{every: 2d}", "5% every 2d reads everything in 40d", "more often"),
        ("verify: {every: ‸0s}", "`every` is zero", "1d"),
        ("verify: {sample: ‸0%}", "`0%` is not a share", "such as `5%`"),
        ("verify: {‸full: 7d}", "unknown key `full`", "every"),
    ];
    for (verify, what, remedy) in cases {
        assert_each(&[(&[(S, "restore_test:", &with(verify))], what, remedy)]);
    }
}

#[test]
fn what_a_copy_may_use() {
    let target = "target: {kind: local}";
    for (written, what, remedy) in [
        ("target: {kind: local, memory: ‸0B}", "`memory` is zero", "such as `2GiB`, or leave it out"),
        ("target: {kind: local, disk: ‸0GiB}", "`disk` is zero", "such as `40GiB`, or leave it out"),
        ("target: {kind: local, disk: ‸40}", "`40` is not a size", "64MiB"),
        ("target: {kind: local, ‸ttl: 8h}", "unknown key `ttl`", "memory"),
    ] {
        assert_each(&[(&[(S, target, written)], what, remedy)]);
    }
}

const DR: &str = "dr: {kind: directory, path: /mnt/dr/vault, region: eu-central-1, durable: best_effort}";
