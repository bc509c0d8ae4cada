//! The line that a server's `pg_hba.conf` lacks, from what the server says when it
//! lets nobody in: it names the address as it sees it, which behind a proxy or
//! another network is not ours.

use super::{Login, Postgres, Tls};

/// What lets us in, where `reason` says that no line of `pg_hba.conf` does.
pub(super) fn remedy(postgres: &Postgres, reason: &str) -> Option<String> {
    let line = line(&postgres.login, reason)?;
    Some(format!(
        "add `{line}` to pg_hba.conf, above any line that rejects it, and run `SELECT pg_reload_conf()` as a superuser"
    ))
}

fn line(login: &Login, reason: &str) -> Option<String> {
    if !reason.contains("pg_hba.conf") {
        return None;
    }
    let seen = quoted(reason, "host ")?;
    let database = if reason.contains("replication connection") {
        "replication".to_owned()
    } else {
        name(quoted(reason, "database ").unwrap_or(&login.dbname))
    };
    let user = match quoted(reason, "user ") {
        // One of many, which come and go: the line lets all members of their role in.
        Some(user) if user != login.user => format!("+{}", name(&login.user)),
        _ => name(&login.user),
    };
    let secret = login.credentials.is_some();
    if seen == "[local]" {
        return Some(format!("local {database} {user} {}", if secret { "scram-sha-256" } else { "peer" }));
    }
    let (kind, method) = match login.tls {
        Tls::Disable => ("host", "scram-sha-256"),
        Tls::Require | Tls::VerifyFull { .. } => ("hostssl", if secret { "scram-sha-256" } else { "cert" }),
    };
    let bits = if seen.contains(':') { 128 } else { 32 };
    Some(format!("{kind} {database} {user} {seen}/{bits} {method}"))
}

/// What stands in quotes behind a word.
fn quoted<'a>(reason: &'a str, word: &str) -> Option<&'a str> {
    let (_, rest) = reason.split_once(&format!("{word}\""))?;
    rest.split('"').next()
}

/// A name as the file takes it: in quotes where it could mean something else.
fn name(name: &str) -> String {
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let is_keyword = ["all", "sameuser", "samerole", "samegroup", "replication"].contains(&name);
    if is_plain && !is_keyword { name.to_owned() } else { format!("\"{name}\"") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{CredentialError, CredentialSource, Credentials},
        *,
    };

    /// One that no login comes to ask.
    #[derive(Debug)]
    struct Nobody;

    #[async_trait::async_trait]
    impl CredentialSource for Nobody {
        async fn read(&self) -> Result<Credentials, CredentialError> {
            unreachable!("no login")
        }

        async fn read_anew(&self) -> Result<Credentials, CredentialError> {
            unreachable!("no login")
        }
    }

    #[test]
    fn the_line_has_the_address_that_the_server_sees() {
        let login = |user: &str, password: bool, tls: Tls| Login {
            user: user.to_owned(),
            credentials: password.then(|| Arc::new(Nobody) as Arc<dyn CredentialSource>),
            tls,
            certificate: None,
            dbname: "wallet".to_owned(),
        };
        let verified = || Tls::VerifyFull { root_certificate: None };
        let entry = |host: &str, user: &str| {
            format!(r#"no pg_hba.conf entry for host "{host}", user "{user}", database "my wallet", SSL encryption"#)
        };
        let replication =
            r#"no pg_hba.conf entry for replication connection from host "10.0.0.7", user "lifeboat", no encryption"#;
        let rejects = r#"pg_hba.conf rejects connection for host "::1", user "lifeboat", database "wallet""#;
        for (login, reason, expected) in [
            (
                login("lifeboat", true, verified()),
                replication,
                "hostssl replication lifeboat 10.0.0.7/32 scram-sha-256",
            ),
            (login("lifeboat", true, Tls::Disable), replication, "host replication lifeboat 10.0.0.7/32 scram-sha-256"),
            (login("lifeboat", false, verified()), rejects, "hostssl wallet lifeboat ::1/128 cert"),
            (
                login("a b", true, Tls::Require),
                &entry("10.1.1.1", "a b"),
                "hostssl \"my wallet\" \"a b\" 10.1.1.1/32 scram-sha-256",
            ),
            (
                login("lifeboat", true, verified()),
                &entry("[local]", "lifeboat"),
                "local \"my wallet\" lifeboat scram-sha-256",
            ),
            (
                login("lifeboat", true, Tls::Disable),
                &entry("10.1.1.1", "v-lifeboat-1"),
                "host \"my wallet\" +lifeboat 10.1.1.1/32 scram-sha-256",
            ),
            (login("all", false, verified()), &entry("[local]", "all"), "local \"my wallet\" \"all\" peer"),
        ] {
            assert_eq!(line(&login, reason).as_deref(), Some(expected));
        }
        let wrong = r#"password authentication failed for user "lifeboat""#;
        assert_eq!(line(&login("lifeboat", true, verified()), wrong), None);
    }
}
