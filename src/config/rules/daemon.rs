//! Rules of `lifeboat.yaml`.

use std::{net::SocketAddr, path::Path};

use super::{Report, Spot};
use crate::{
    decide::retention::locks,
    domain::{ByteSize, Span},
};

const LEASE_MIN: Span = Span::from_secs(1);
const KEEP_MIN: Span = Span::from_secs(35 * 86_400);
const ROTATE_MIN: Span = Span::from_secs(86_400);
/// A segment of WAL would take longer than four minutes.
const RATE_MIN: u64 = 64 << 10;
const DAY_MS: u128 = 86_400_000;

pub(super) fn check(root: Spot<'_>, report: &mut Report<'_>) {
    super::schedule::maintenance(root, report);
    super::notify::daemon(root, report);
    let lease = root.get("node").get("lease");
    if lease.parsed::<Span>().is_some_and(|lease| lease < LEASE_MIN) {
        report.add(
            lease.place,
            "a busy node could not keep its runs for so short",
            format!("write at least `{LEASE_MIN}`"),
        );
    }
    let keep = root.get("state").get("keep");
    if keep.parsed::<Span>().is_some_and(|keep| keep < KEEP_MIN) {
        report.add(
            keep.place,
            "runs would be gone before anybody has looked at the month",
            format!("write at least `{KEEP_MIN}`"),
        );
    }
    let roles = root.get("node").get("roles");
    if roles.is_empty() {
        report.add(roles.place, "this node would do nothing", "name `scheduler`, `worker` or `api`, or remove `roles`");
    }
    report.refuse_twins(roles);
    super::secret_stores::check(root, report);
    keys(root, report);
    aws_credentials(root, report);
    vaults(root, report);
    for (_, _, provider) in root.get("dns").pairs() {
        zone(provider, report);
    }
    let listen = root.get("api").get("listen");
    if listen.parsed::<SocketAddr>().is_some_and(|address| !address.ip().is_loopback()) {
        report.add(
            listen.place,
            "the API has neither TLS nor tokens in this version and may not leave this machine",
            "listen on a loopback address such as `127.0.0.1:8080`, and put a proxy in front of it",
        );
    }
}

fn keys(root: Spot<'_>, report: &mut Report<'_>) {
    let keys = root.get("keys");
    let recipients = keys.get("recipients");
    let count = recipients.items().count();
    let reason = keys.get("single_recipient_reason");
    match count {
        0 if recipients.is_empty() => {
            report.add(recipients.place, "nobody could open the backups", "list at least two age public keys");
        }
        1 if !reason.exists() => report.add(
            recipients.place,
            "there is one recipient: whoever loses that key loses every backup",
            "add a second one that is kept elsewhere, or say why one is enough in `single_recipient_reason`",
        ),
        2.. if reason.exists() => report.add(
            keys.key("single_recipient_reason"),
            format!("there are {count} recipients"),
            "remove `single_recipient_reason`",
        ),
        _ => {}
    }
    report.refuse_twins(recipients);
    report.secret(root, keys.get("identity"));
    report.secret(root, keys.get("escrow"));
    for needs_identity in ["escrow", "rotate"] {
        if keys.get(needs_identity).exists() && !keys.get("identity").exists() {
            report.add(
                keys.key(needs_identity),
                "this node has no `identity` and restores nothing",
                format!("add `identity`, or remove `{needs_identity}` here and keep it on a node that restores"),
            );
        }
    }
    let rotate = keys.get("rotate");
    if rotate.parsed::<Span>().is_some_and(|period| period < ROTATE_MIN) {
        report.add(
            rotate.place,
            "rotating so often protects nothing more",
            format!("write at least `{ROTATE_MIN}`, such as `90d`"),
        );
    }
}

fn vaults(root: Spot<'_>, report: &mut Report<'_>) {
    let vaults = root.get("vaults");
    if vaults.is_empty() {
        report.add(vaults.place, "there is no vault", "add one: `primary: {kind: directory, path: …, region: …}`");
    }
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (name, _, vault) in vaults.pairs() {
        let path = vault.get("path");
        let Some(text) = path.text() else { continue };
        if holds_configuration(text, report.file) {
            report.add(
                path.place,
                "the configuration and its keys lie in this folder, and whoever reads the vault would read them",
                "give the vault a folder of its own, such as `path: vault`",
            );
        }
        let plain = text.trim_end_matches('/');
        if let Some((other, _)) = seen.iter().find(|(_, seen)| *seen == plain) {
            report.add(
                path.place,
                format!("this is the folder of the vault `{other}` too"),
                "give each its own folder",
            );
        }
        seen.push((name, plain));
    }
    refuse_shared_prefixes(vaults, report);
    for (_, _, vault) in vaults.pairs() {
        limits(vault.get("limits"), report);
        bucket(root, vault, report);
    }
}

/// Whether the folder of `lifeboat.yaml` is this one, or lies in it.
fn holds_configuration(path: &str, daemon_file: &Path) -> bool {
    let beside = daemon_file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A folder that does not exist yet holds nothing.
    let (Ok(folder), Ok(vault)) = (beside.canonicalize(), beside.join(path).canonicalize()) else { return false };
    !path.trim().is_empty() && folder.starts_with(vault)
}

/// Vaults of one bucket whose objects would mix.
fn refuse_shared_prefixes(vaults: Spot<'_>, report: &mut Report<'_>) {
    let mut seen: Vec<(&str, &str, &str, &str)> = Vec::new();
    for (name, _, vault) in vaults.pairs() {
        let Some(bucket) = vault.get("bucket").text() else { continue };
        let endpoint = vault.get("endpoint").text().unwrap_or_default().trim_end_matches('/');
        let prefix = vault.get("prefix").text().unwrap_or_default();
        let shared = seen.iter().find(|(_, other_bucket, other_endpoint, other)| {
            (*other_bucket, *other_endpoint) == (bucket, endpoint)
                && (other.starts_with(prefix) || prefix.starts_with(other))
        });
        if let Some((other, ..)) = shared {
            let prefix = vault.get("prefix");
            let place = if prefix.exists() { prefix.place } else { vault.get("bucket").place };
            report.add(
                place,
                format!("objects of the vault `{other}` would be in this one too"),
                "give each a `prefix` of its own, neither inside the other",
            );
        }
        seen.push((name, bucket, endpoint, prefix));
    }
}

fn limits(limits: Spot<'_>, report: &mut Report<'_>) {
    for key in ["upload", "download"] {
        let rate = limits.get(key);
        if rate.parsed::<ByteSize>().is_some_and(|rate| rate.as_bytes() < RATE_MIN) {
            report.add(
                rate.place,
                "so slow a vault would never be done",
                format!("write at least `{}` a second, or remove it", ByteSize::from_bytes(RATE_MIN)),
            );
        }
    }
}

fn bucket(root: Spot<'_>, vault: Spot<'_>, report: &mut Report<'_>) {
    if vault.get("signing_region").exists() && !vault.get("endpoint").exists() {
        report.add(
            vault.key("signing_region"),
            "Amazon's regions have one name each",
            "remove `signing_region`, or name the `endpoint` of the store that needs it",
        );
    }
    let reach = vault.get("object_lock").get("for");
    let least = Span::from_secs(locks::LEAST_SECONDS);
    if reach.parsed::<Span>().is_some_and(|reach| reach < least) {
        report.add(
            reach.place,
            "locks are renewed once a day, and such a one would end when that fails once",
            format!("write at least `{least}`, such as `15d`"),
        );
    }
    let keep = vault.get("archive").get("keep");
    let is_days = |ms: u128| ms >= DAY_MS && ms.is_multiple_of(DAY_MS);
    if keep.parsed::<Span>().is_some_and(|keep| !is_days(keep.as_duration().as_millis())) {
        report.add(keep.place, "copies from an archive are kept for whole days", "write one or more, such as `3d`");
    }
    report.refuse_zero(vault.get("archive"), "limit", "write how long a restore waits, such as `2d`");
    let (key, delete_key) = (vault.get("credentials"), vault.get("delete_credentials"));
    credentials(root, key, report);
    credentials(root, delete_key, report);
    let (id, delete_id) = (key.get("access_key_id"), delete_key.get("access_key_id"));
    if id.text().is_some() && id.text() == delete_id.text() {
        report.add(
            delete_id.place,
            "this is the access key that writes, too",
            "write one of its own that alone may delete, or remove `delete_credentials`",
        );
    }
}

fn credentials(root: Spot<'_>, key: Spot<'_>, report: &mut Report<'_>) {
    for secret in ["secret_access_key", "session_token"] {
        report.secret(root, key.get(secret));
    }
}

/// What lets this node in to AWS has to be here before anything is asked.
fn aws_credentials(root: Spot<'_>, report: &mut Report<'_>) {
    let key = root.get("aws").get("credentials");
    credentials(root, key, report);
    for secret in ["secret_access_key", "session_token"].map(|secret| key.get(secret)) {
        for store in ["secretsmanager", "ssm", "vault"].into_iter().filter(|store| secret.get(store).exists()) {
            report.add(
                secret.key(store),
                "what lets this node in to AWS has to be on this machine",
                "write `{file: PATH}`, `{env: NAME}` or `{command: [argv]}`, or remove `credentials`: then the SDK finds a role",
            );
        }
    }
}

fn zone(provider: Spot<'_>, report: &mut Report<'_>) {
    let Some(zone) = provider.get("zone").text().filter(|zone| zone.ends_with('.')) else { return };
    for (name, place, _) in provider.get("records").pairs() {
        if name.ends_with('.') && !is_inside(name, zone) {
            report.add(place, format!("`{name}` is outside the zone `{zone}`"), format!("let it end in `.{zone}`"));
        }
    }
}

/// Whether a full name is in a zone; names compare without case.
pub(super) fn is_inside(name: &str, zone: &str) -> bool {
    let (name, zone) = (name.to_ascii_lowercase(), zone.to_ascii_lowercase());
    name == zone || name.strip_suffix(&zone).is_some_and(|labels| labels.ends_with('.'))
}
