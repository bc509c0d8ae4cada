//! Client certificates: a server that lets in whoever shows the right one.

use lifeboat::engine::{
    EngineError,
    postgres::{ClientCertificate, Postgres, Tls, wire::Connection},
};

use super::{
    known,
    login::{is_let_in, log_in},
    over_tcp, set_hba,
};
use crate::support::{Lab, authority::certificate, scratch};

/// Why neither client is let in.
async fn refused(postgres: &Postgres, is_expected: fn(&EngineError) -> bool, word: &str) {
    for result in log_in(postgres).await {
        let error = result.unwrap_err();
        assert!(is_expected(&error) && error.is_permanent(), "{error:?}");
        assert!(lifeboat::domain::with_causes(&error).contains(word), "`{word}`: {error:?}");
    }
}

fn unfit(error: &EngineError) -> bool {
    matches!(error, EngineError::Unfit { .. })
}

fn login(error: &EngineError) -> bool {
    matches!(error, EngineError::Login { .. })
}

#[tokio::test]
async fn a_certificate_lets_in_the_role_that_it_names_and_nobody_else() {
    let lab = Lab::start("").await;
    let folder = scratch();
    for (label, name) in [("server", "IP:127.0.0.1"), ("carol", "DNS:carol"), ("mallory", "DNS:mallory")] {
        certificate(folder.path(), label, name).await;
    }
    for (from, to) in [("server.crt", "server.crt"), ("server.key", "server.key"), ("carol-ca.crt", "root.crt")] {
        let path = lab.cluster.data().join(to);
        std::fs::copy(folder.path().join(from), &path).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        if let Some(account) = &lab.cluster.account {
            account.own(&path).unwrap();
        }
    }
    lab.psql("ALTER SYSTEM SET ssl = on").await;
    lab.psql("ALTER SYSTEM SET ssl_ca_file = 'root.crt'").await;
    lab.psql("CREATE ROLE carol LOGIN REPLICATION PASSWORD 'p'; CREATE ROLE dave LOGIN REPLICATION").await;
    set_hba(&lab, "hostssl all,replication all 127.0.0.1/32 cert").await;
    let shown = |label: &str| {
        let path = |end: &str| folder.path().join(format!("{label}.{end}"));
        Some(ClientCertificate { chain: path("crt"), key: path("key") })
    };
    let mut carol = over_tcp(&lab, "carol");
    for tls in [Tls::Require, Tls::VerifyFull { root_certificate: Some(folder.path().join("server-ca.crt")) }] {
        carol.login.tls = tls;
        carol.login.certificate = shown("carol");
        is_let_in(&carol).await;
        carol.login.certificate = None;
        refused(&carol, login, "client certificate").await;
        // Made by an authority that the server does not know.
        carol.login.certificate = shown("mallory");
        for result in log_in(&carol).await {
            assert!(result.is_err());
        }
    }
    let mut dave = over_tcp(&lab, "dave");
    dave.login.tls = Tls::Require;
    dave.login.certificate = shown("carol");
    refused(&dave, login, "certificate authentication failed").await;

    // A password and the certificate, both.
    set_hba(&lab, "hostssl all,replication all 127.0.0.1/32 scram-sha-256 clientcert=verify-full").await;
    carol.login.certificate = shown("carol");
    carol.login.credentials = Some(known(&carol, "p"));
    is_let_in(&carol).await;
    carol.login.credentials = Some(known(&carol, "q"));
    refused(&carol, login, "password authentication failed").await;
    carol.login.credentials = Some(known(&carol, "p"));
    carol.login.certificate = None;
    refused(&carol, login, "client certificate").await;
}

#[tokio::test]
async fn a_key_that_others_can_read_or_that_is_none_is_refused() {
    let lab = Lab::start("").await;
    let folder = scratch();
    certificate(folder.path(), "carol", "DNS:carol").await;
    certificate(folder.path(), "other", "DNS:other").await;
    let mut postgres = over_tcp(&lab, "postgres");
    postgres.login.tls = Tls::Require;
    let path = |name: &str| folder.path().join(name);
    let mode = |mode| {
        std::fs::set_permissions(path("carol.key"), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    postgres.login.certificate = Some(ClientCertificate { chain: path("carol.crt"), key: path("carol.key") });
    for open in [0o644, 0o602, 0o620] {
        mode(open);
        let error = lifeboat::engine::postgres::sql::connect(&postgres, &postgres.members[0], "postgres").await;
        let error = error.unwrap_err();
        assert!(unfit(&error) && error.to_string().contains("others can read the private key"), "{error}");
    }
    mode(0o600);
    std::fs::set_permissions(path("carol.crt"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    // What is wrong with the files is found before the server is asked anything in TLS.
    for (chain, key, word) in [
        ("nowhere.crt", "carol.key", "nowhere.crt"),
        ("carol.crt", "nowhere.key", "nowhere.key"),
        ("carol.crt", "carol.crt", "`sslkey` cannot be read"),
        ("carol.crt", "other.key", "of no use"),
    ] {
        postgres.login.certificate = Some(ClientCertificate { chain: path(chain), key: path(key) });
        let error = Connection::open(&postgres, &postgres.members[0]).await.err().expect("refused");
        assert!(unfit(&error) && error.to_string().contains(word), "`{word}`: {error}");
    }
}
