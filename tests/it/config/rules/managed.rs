//! Databases that a provider runs: what belongs to them, and what does not.

use super::{D, MARK, S, Written, assert_each};

const B: &str = "schedules/bets.yaml";
const OUTSIDE: &str = "outside the residency of MT";

/// The example, beside those of all other tests.
fn examples() -> Written {
    let written = Written::examples();
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(B);
    written.write(B, std::fs::read(example).unwrap());
    written
}

/// Edits of the example, then what its one problem and the remedy must say.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);

fn assert_each_of_bets(cases: &[Case<'_>]) {
    for (edits, what, remedy) in cases {
        let written = examples();
        for (old, new) in *edits {
            written.change(B, old, new);
        }
        let text = std::fs::read_to_string(written.path(B)).unwrap();
        let at = text.find(MARK).unwrap_or_else(|| panic!("{edits:?} marks no place"));
        let (line, before) = (text[..at].matches('\n').count() + 1, text[..at].rsplit('\n').next().unwrap());
        let wanted = format!("{B}:{line}:{}", before.chars().count() + 1);
        written.write(B, text.replacen(MARK, "", 1));
        let Err(problems) = written.load() else { panic!("{edits:?} was accepted") };
        let [problem] = problems.iter().collect::<Vec<_>>()[..] else { panic!("{edits:?} gave\n{problems}") };
        assert_eq!(written.place(problem), wanted, "{edits:?} gave {problem}");
        assert!(problem.what.contains(what), "{edits:?}: `{what}` is not in: {problem}");
        assert!(problem.remedy.contains(remedy), "{edits:?}: `{remedy}` is not in: {problem}");
    }
}

#[test]
fn the_example_passes_as_an_instance_and_as_a_cluster() {
    let written = examples();
    let estate = written.load().unwrap();
    let bets = &estate.schedules.iter().find(|one| one.config.database.as_str() == "bets").unwrap().config;
    let source = bets.managed().unwrap();
    assert_eq!((source.id, source.is_cluster, source.region.as_str()), ("bets-prod", false, "eu-south-1"));
    written.change(B, "engine: rds ", "engine: aurora ");
    written.change(B, "instance: bets-prod", "cluster: bets-prod");
    let estate = written.load().unwrap();
    assert!(estate.schedules.iter().any(|one| one.config.managed().is_some_and(|source| source.is_cluster)));
    // It restores at the provider, and no age identity takes part.
    written.change(D, "  identity: {file: /run/secrets/age.key}        # only on nodes that restore\n", "");
    let problems = written.load().unwrap_err();
    assert_eq!(problems.len(), 1, "{problems}");
    assert!(problems.to_string().contains("wallet.yaml"), "{problems}");
}

#[test]
fn the_example_of_the_documentation_passes() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rds.md")).unwrap();
    let example = text.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let written = examples();
    written.write(B, example);
    let estate = written.load().unwrap();
    let bets = &estate.schedules.iter().find(|one| one.config.database.as_str() == "bets").unwrap().config;
    assert_eq!((bets.snapshot_copies.len(), bets.backups.len()), (1, 1));
}

#[test]
fn what_it_is_found_by() {
    assert_each_of_bets(&[
        (
            &[("database: bets", "‸database: bets"), ("instance: bets-prod\n", "")],
            "`instance` is missing",
            "add `instance: …`",
        ),
        (
            &[("region: eu-south-1\nroles", "roles"), ("database: bets", "‸database: bets")],
            "`region` is missing",
            "add `region: …`",
        ),
        (
            &[("engine: rds ", "engine: aurora "), ("instance: bets-prod", "cluster: b\n‸instance: i")],
            "other engine",
            "`cluster`",
        ),
        (&[("instance: bets-prod", "instance: i\n‸cluster: b")], "other engine", "write `instance`"),
        (&[("instance: bets-prod", "instance: ‸\"\"")], "empty text", "write it"),
        (&[("engine: rds ", "engine: ‸rdss ")], "`rdss` is not allowed", "did you mean `rds`?"),
    ]);
}

#[test]
fn what_no_provider_has() {
    let zone = "timezone: Europe/Malta\n";
    for (more, remedy) in [
        ("‸members: {a: {host: h, site: s}}", "the provider tells where"),
        ("‸connection: {host: h}", "the provider tells where"),
        ("‸vaults: [primary]", "`snapshot_copies`"),
        ("‸wal: {stream: true, window: 31d}", "`automated_backups: {retention: 14d}`"),
        ("‸copy: {lag_max: 6h}", "`snapshot_copies`"),
        ("‸verify: {every: 1d}", "a restore test proves it"),
        ("‸backup_from: primary", "of the storage"),
        ("‸backup_rate_max: 64MiB", "of the storage"),
        ("‸tier: backup_only", "write `objectives`"),
    ] {
        let edit = format!("{zone}{more}\n");
        assert_each_of_bets(&[(&[(zone, &edit)], "for databases that no provider runs", remedy)]);
    }
    assert_each_of_bets(&[
        (&[("kind: snapshot", "kind: ‸full")], "`full` reads files", "use `kind: snapshot`"),
        (&[("kind: snapshot", "kind: ‸incremental")], "`incremental` reads files", "use `kind: snapshot`"),
        (&[("kind: snapshot,", "kind: snapshot, ‸backup_from: primary,")], "no provider runs", "of the storage"),
        (&[("kind: snapshot,", "kind: snapshot, ‸standalone: true,")], "only a full backup", "remove it"),
        (&[("    - heartbeat", "    - ‸page_checksums")], "reads files", "`full_read`"),
        (
            &[("cron: \"0 6 2 * *\"", "‸self_test: {cron: \"0 6 * * *\"}\n  cron: \"0 6 2 * *\"")],
            "plants faults",
            "remove it",
        ),
        (&[("random_within_window, window: 14d", "‸other_vault")], "what vaults hold", "use `latest_at_disaster`"),
        (&[("random_within_window, window: 14d", "‸increment_chain")], "what vaults hold", "use `latest_at_disaster`"),
    ]);
}

#[test]
fn where_its_data_may_be() {
    assert_each_of_bets(&[
        (&[("region: eu-south-1\nroles", "region: ‸eu-west-1\nroles")], OUTSIDE, "use a region of"),
        (&[("replicated_to: [eu-central-1]", "replicated_to: [‸eu-west-1]")], OUTSIDE, "use a region of"),
        (
            &[("replicated_to: [eu-central-1]", "replicated_to: [‸eu-south-1]")],
            "itself is in this region",
            "another one",
        ),
        (
            &[("replicated_to: [eu-central-1]", "replicated_to: [eu-central-1, ‸eu-central-1]")],
            "listed twice",
            "keep one",
        ),
        (&[("  - region: eu-central-1", "  - region: ‸eu-west-1")], OUTSIDE, "under `residency`"),
        (
            &[
                ("snapshot_copies:\n", "snapshot_copies:\n  - {region: eu-central-1}\n"),
                ("  - region: eu-central-1", "  - region: ‸eu-central-1"),
            ],
            "copied to eu-central-1 already",
            "keep one",
        ),
        (
            &[("snapshot_copies:\n", "snapshot_copies:\n  - {region: ‸eu-south-1}\n")],
            "protects nothing more",
            "another `kms_key`",
        ),
        (&[("    kind: rds", "    kind: rds\n    region: ‸eu-west-1")], OUTSIDE, "use a region of"),
    ]);
}

#[test]
fn amounts_and_forms() {
    assert_each_of_bets(&[
        (&[("retention: 14d", "retention: ‸36d")], "up to 35d", "write `1d`"),
        (
            &[("retention: 14d", "retention: ‸36h"), ("random_within_window, window: 14d", "oldest")],
            "whole days",
            "write `1d`",
        ),
        (
            &[("retention: 14d", "retention: ‸0s"), ("random_within_window, window: 14d", "oldest")],
            "whole days",
            "write `1d`",
        ),
        (&[("window, window: 14d", "window, window: ‸15d")], "WAL is kept for 14d", "`automated_backups.retention`"),
        (&[("\"01:00-02:00\"", "‸\"1:00-2:00\"")], "not a window", "02:00-03:00"),
        (&[("\"01:00-02:00\"", "‸\"24:00-01:00\"")], "not a window", "02:00-03:00"),
        (&[("\"01:00-02:00\"", "‸\"01:00-01:29\"")], "at least 30 minutes", "longer"),
        (&[("arn:aws:iam::123456789012:role/lifeboat-backup", "‸lifeboat-backup")], "not the ARN of a role", "in full"),
        (&[("[\"210987654321\"]", "[‸\"21098765432\"]")], "not an account", "12 digits"),
        (&[("[\"210987654321\"]", "[\"210987654321\", ‸\"210987654321\"]")], "listed twice", "keep one"),
        (
            &[("security_groups: [sg-0123456789abcdef0]", "security_groups: ‸[]")],
            "security group",
            "nobody but this node",
        ),
        (&[("ttl: 8h", "ttl: ‸0s")], "`ttl` is zero", "such as `8h`"),
        (
            &[("    hourly_cost: 1.5\n", ""), ("cost_max: 20", "‸cost_max: 20")],
            "an hour of the copy costs",
            "add `hourly_cost`",
        ),
        (&[("cost_max: 20", "cost_max: ‸\"20\"")], "a number belongs", "without quotes"),
        (&[("cost_max: 20", "cost_max: ‸1e3")], "a number belongs", "without quotes"),
        (&[("cost_max: 20", "cost_max: ‸0")], "is no price", "more than 0"),
        (
            &[
                ("target:\n    kind: rds", "target:\n    kind: ‸local"),
                (
                    "    subnet_group: lifeboat-isolated\n    security_groups: [sg-0123456789abcdef0]\n    ttl: 8h\n    cost_max: 20\n    hourly_cost: 1.5\n",
                    "",
                ),
            ],
            "on this machine",
            "kind: rds",
        ),
    ]);
    let written = examples();
    written.change(B, "\"01:00-02:00\"", "\"23:45-00:15\"");
    written.change(B, "role/lifeboat-backup", "role/service/lifeboat.backup");
    written.load().unwrap();
}

#[test]
fn what_is_for_providers_alone() {
    let zone = "timezone: Europe/Malta\n";
    for (more, remedy) in [
        ("‸instance: i", "`engine: rds`"),
        ("‸cluster: i", "`engine: aurora`"),
        ("‸region: eu-south-1", "`members`"),
        ("‸roles: {delete: \"arn:aws:iam::123456789012:role/x\"}", "`login`"),
        ("‸automated_backups: {multi_az: true}", "`wal:"),
        ("‸snapshot_copies: [{region: eu-south-1}]", "`vaults`"),
    ] {
        let edit = format!("{zone}{more}\n");
        assert_each(&[(&[(S, zone, &edit)], "for databases that a provider runs", remedy)]);
    }
    let target = "{kind: ‸rds, subnet_group: g, security_groups: [s]}";
    assert_each(&[
        (&[(S, "kind: full", "kind: ‸snapshot")], "taken by the provider", "use `kind: full`"),
        (&[(S, "{kind: local}", target)], "no provider runs this database", "use `kind: local`"),
        // What the schema cannot require, as not every engine has it.
        (
            &[
                (S, "database: wallet", "‸database: wallet"),
                (S, "wal: {stream: true, window: 31d, flush_every: 1s}\n", ""),
            ],
            "the key `wal` is missing",
            "add `wal: …` (How WAL is kept)",
        ),
        (&[(S, "wal: {stream", "‸wall: {stream")], "unknown key `wall`", "did you mean `wal`?"),
    ]);
}

#[test]
fn no_drill_moves_it() {
    let written = examples();
    written.change("runbooks/wallet-switchover.yaml", "database: wallet\n", "database: bets\n");
    let problems = written.load().unwrap_err();
    assert_eq!(problems.len(), 1, "{problems}");
    assert!(problems.to_string().contains("no drill moves its primary"), "{problems}");
}

#[test]
fn how_the_provider_is_reached() {
    let with = |aws: &str| format!("{aws}\napi:");
    for (aws, what, remedy) in [
        ("aws: {‸region: eu-south-1}", "unknown key `region`", "endpoint"),
        ("aws: {endpoint: ‸rds.example}", "not the address of a store", "https://HOST"),
        ("aws: {credentials: ‸{access_key_id: A}}", "`secret_access_key` is missing", "secret_access_key"),
        ("aws: {credentials: {access_key_id: A, secret_access_key: ‸hunter2}}", "reference to a secret", "{env: NAME}"),
        (
            "aws: {credentials: {access_key_id: A, secret_access_key: {command: [‸key]}}}",
            "not an absolute path",
            "full path",
        ),
    ] {
        assert_each(&[(&[(D, "api:", &with(aws))], what, remedy)]);
    }
}
