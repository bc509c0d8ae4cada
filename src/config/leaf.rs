//! What single texts must be: the checks behind the named types and `format`s
//! of the schemas.

use std::{net::IpAddr, net::SocketAddr, path::Path, str::FromStr};

use crate::{
    decide::due,
    domain::{
        BackupId, ByteSize, DatabaseName, Decimal, Lsn, MemberName, NotifierName, Region, RunbookName, Share, SiteName,
        Span, VaultName,
    },
};

/// What is wrong with a text, and what to do about it; none when it is right
/// or its kind (a type's name or a format) has no rule.
pub(super) fn refuse(kind: &str, text: &str) -> Option<(String, String)> {
    match kind {
        "DatabaseName" => reading::<DatabaseName>(text),
        "MemberName" => reading::<MemberName>(text),
        "SiteName" => reading::<SiteName>(text),
        "VaultName" => reading::<VaultName>(text),
        "NotifierName" => reading::<NotifierName>(text),
        "Region" => reading::<Region>(text),
        "RunbookName" => reading::<RunbookName>(text),
        "BackupId" => reading::<BackupId>(text),
        "Span" => reading::<Span>(text),
        "ByteSize" => reading::<ByteSize>(text),
        "Share" => reading::<Share>(text),
        "Decimal" => reading::<Decimal>(text),
        "Lsn" => reading::<Lsn>(text),
        "cron" => due::parse_cron(text).err().map(split),
        "edge" => reading::<crate::decide::hold::Edge>(text),
        "timezone" => due::parse_zone(text).err().map(split),
        "age-recipient" => recipient(text),
        "ip" => text.parse::<IpAddr>().is_err().then(|| said(text, "an IP address", "write one such as `192.0.2.20`")),
        "socket-address" => text.parse::<SocketAddr>().is_err().then(|| {
            said(text, "an address with a port", "write both, such as `127.0.0.1:8080`; names are not looked up here")
        }),
        "fqdn" => fqdn(text),
        "state-url" => state_url(text),
        "bucket" => bucket(text),
        "prefix" => prefix(text),
        "endpoint" => endpoint(text),
        "hook" => hook(text),
        "aws-endpoint" => endpoint(text).or_else(|| unencrypted(text, origin(text)?)),
        "vault-address" => vault_address(text),
        "mailbox" => mailbox(text),
        "role" => role(text),
        "account" => (!is_account(text)).then(|| said(text, "an account", "write its 12 digits, in quotes")),
        "utc-window" => utc_window(text),
        "filled" => text.trim().is_empty().then(|| ("an empty text says nothing".to_owned(), "write it".to_owned())),
        "program" => (!Path::new(text).is_absolute())
            .then(|| said(text, "an absolute path", "name the program by its full path; no shell looks for it")),
        _ => None,
    }
}

fn said(text: &str, wanted: &str, remedy: &str) -> (String, String) {
    (format!("`{}` is not {wanted}", super::yaml::shortened(text)), remedy.to_owned())
}

fn reading<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Option<(String, String)> {
    text.parse::<T>().err().map(split)
}

/// Messages of the types read `what: remedy`.
fn split(error: impl std::fmt::Display) -> (String, String) {
    let message = error.to_string();
    // From the right: what was written may hold a colon itself, our remedies do not.
    match message.rsplit_once(": ") {
        Some((what, remedy)) => (what.to_owned(), remedy.to_owned()),
        None => (message, "correct it".to_owned()),
    }
}

fn recipient(text: &str) -> Option<(String, String)> {
    if text.starts_with("AGE-SECRET-KEY-") {
        let what = "this is an age identity, which is secret, and no public key".to_owned();
        let remedy = "make a new one with `age-keygen`, and write the line that begins with `age1` here".to_owned();
        return Some((what, remedy));
    }
    text.parse::<age::x25519::Recipient>()
        .is_err()
        .then(|| said(text, "an age public key", "write the `age1…` line that `age-keygen` prints, whole"))
}

/// A DNS name in full: labels of letters, digits, `-` and `_`, and a final dot.
fn fqdn(text: &str) -> Option<(String, String)> {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    match text.strip_suffix('.') {
        Some(labels) if labels.len() <= 253 && labels.split('.').all(label) => None,
        None if text.split('.').all(label) => Some(said(text, "a full name", &format!("end it with a dot: `{text}.`"))),
        _ => Some(said(text, "a DNS name", "write one such as `wallet.example.`")),
    }
}

/// The rules that all stores share: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>.
fn bucket(text: &str) -> Option<(String, String)> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let sound = (3..=63).contains(&text.len())
        && text.chars().all(inner)
        && outer(text.chars().next())
        && outer(text.chars().next_back())
        && !text.contains("..")
        && text.parse::<IpAddr>().is_err();
    (!sound)
        .then(|| said(text, "the name of a bucket", "write 3 to 63 of a-z, 0-9, `-` and `.`, as the store shows it"))
}

/// A folder of a bucket: it ends in `/`, so that no other prefix begins with it.
fn prefix(text: &str) -> Option<(String, String)> {
    let parts = text.strip_suffix('/');
    let sound = parts.is_some_and(|parts| {
        parts.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0']))
    });
    (!sound).then(|| said(text, "a prefix", "write folders that end in `/`, such as `prod/`, without one at the start"))
}

fn endpoint(text: &str) -> Option<(String, String)> {
    let host = origin(text);
    if host.is_some_and(|host| host.contains('@')) {
        let what = "a user or password stands in this address".to_owned();
        return Some((what, "write `https://HOST`, and the access key under `credentials`".to_owned()));
    }
    (!host.is_some_and(is_host))
        .then(|| said(text, "the address of a store", "write `https://HOST` or `https://HOST:PORT`"))
}

/// Host and port of an address that has nothing behind them.
fn origin(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    Some(rest.strip_suffix('/').unwrap_or(rest))
}

/// A name or an address, with a port or without.
fn is_host(host: &str) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    match (host.strip_prefix('['), host.rsplit_once(':')) {
        (Some(v6), _) => v6.split_once(']').is_some_and(|(address, port)| {
            address.parse::<std::net::Ipv6Addr>().is_ok() && port.strip_prefix(':').map_or(port.is_empty(), is_port)
        }),
        (None, Some((name, port))) => is_name(name) && is_port(port),
        (None, None) => is_name(host),
    }
}

/// Where something is posted to: encrypted, unless it stays on this machine.
fn hook(text: &str) -> Option<(String, String)> {
    let unfit = || Some(said(text, "an address to post to", "write `https://HOST/PATH`"));
    let Some((scheme, rest)) = text.split_once("://") else { return unfit() };
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        let what = "a user or password stands in this address".to_owned();
        return Some((what, "write `https://HOST/PATH`: what is posted is signed".to_owned()));
    }
    let is_sound = ["https", "http"].contains(&scheme) && is_host(host) && !rest.contains(|c: char| c.is_whitespace());
    if !is_sound {
        return unfit();
    }
    unencrypted(text, host)
}

/// What is wrong with an address in clear: that it leaves this machine.
fn unencrypted(text: &str, host: &str) -> Option<(String, String)> {
    let is_here = host.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        || host == "localhost"
        || host.starts_with("localhost:");
    (text.starts_with("http://") && !is_here)
        .then(|| said(text, "encrypted", "write `https://…`; `http://` may go to this machine alone"))
}

/// The ARN of a role, of any partition.
fn role(text: &str) -> Option<(String, String)> {
    let is_role = || {
        let rest = text.strip_prefix("arn:")?;
        let (partition, rest) = rest.split_once(":iam::")?;
        let (account, name) = rest.split_once(":role/")?;
        let is_partition = partition == "aws" || partition.starts_with("aws-");
        (is_partition && is_account(account) && !name.is_empty() && !name.contains(char::is_whitespace)).then_some(())
    };
    is_role()
        .is_none()
        .then(|| said(text, "the ARN of a role", "write it in full: `arn:aws:iam::123456789012:role/NAME`"))
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|digit| digit.is_ascii_digit())
}

/// `hh:mm-hh:mm`; one that ends before it begins goes past midnight.
fn utc_window(text: &str) -> Option<(String, String)> {
    let time = |time: &str| {
        let (hour, minute) = time.split_once(':')?;
        let number = |digits: &str, below: u8| {
            let number = digits.parse::<u8>().ok().filter(|_| digits.len() == 2 && !digits.starts_with('+'))?;
            (number < below).then_some(u32::from(number))
        };
        Some(number(hour, 24)? * 60 + number(minute, 60)?)
    };
    let minutes = text.split_once('-').and_then(|(from, to)| {
        let (from, to) = (time(from)?, time(to)?);
        Some((to + 24 * 60 - from) % (24 * 60))
    });
    match minutes {
        None => Some(said(text, "a window", "write two times of day in UTC, such as `02:00-03:00`")),
        // What the provider takes.
        Some(minutes) if minutes < 30 => {
            Some(said(text, "a window of at least 30 minutes", "write a longer one, such as `02:00-03:00`"))
        }
        Some(_) => None,
    }
}

/// Where a store of secrets is asked: encrypted, unless it stays on this machine.
fn vault_address(text: &str) -> Option<(String, String)> {
    match origin(text).filter(|host| is_host(host)) {
        Some(host) => unencrypted(text, host),
        None => Some(said(text, "the address of a HashiCorp Vault", "write `https://HOST:8200`, as in `VAULT_ADDR`")),
    }
}

/// `NAME@HOST`: what every mail server takes.
fn mailbox(text: &str) -> Option<(String, String)> {
    let sound = text.split_once('@').is_some_and(|(name, host)| {
        let plain = |text: &str| {
            !text.is_empty()
                && text.is_ascii()
                && !text.contains(|c: char| c.is_control() || " ,;:<>()[]\\\"@".contains(c))
        };
        plain(name) && plain(host) && !host.starts_with('.') && !host.ends_with('.')
    });
    (!sound).then(|| said(text, "a mailbox", "write it as `dba@example.com`, without a name before it"))
}

fn state_url(text: &str) -> Option<(String, String)> {
    let remedy = "write `sqlite:PATH` for one node, or `postgres://…` for several";
    match text.split_once(':') {
        Some(("sqlite", path)) if path.contains(":memory:") => Some((
            "a state in memory is gone with the process".to_owned(),
            "name a file, such as `sqlite:lifeboat.db`".to_owned(),
        )),
        Some(("sqlite", path)) if !path.trim_start_matches('/').is_empty() => None,
        Some(("postgres" | "postgresql", rest)) if rest.starts_with("//") => None,
        // The text may hold a password.
        _ => Some(("this is not a place for the state".to_owned(), remedy.to_owned())),
    }
}
