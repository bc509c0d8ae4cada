//! Every way in, and every way to be refused with words that help.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use lifeboat::engine::{
    EngineError, Look,
    postgres::{CredentialError, CredentialSource, Credentials, Postgres, Tls, sql, wire::Connection},
};

use super::{known, member, over_tcp, set_hba};
use crate::support::{Lab, authority::certificate, free_port, scratch};

/// Logs in with both clients: the one for SQL and the one for replication.
pub(super) async fn log_in(postgres: &Postgres) -> [Result<(), EngineError>; 2] {
    let member = &postgres.members[0];
    [
        sql::connect(postgres, member, "postgres").await.map(drop),
        match Connection::open(postgres, member).await {
            Ok(connection) => {
                connection.close().await;
                Ok(())
            }
            Err(error) => Err(error),
        },
    ]
}

pub(super) async fn is_let_in(postgres: &Postgres) {
    for result in log_in(postgres).await {
        result.unwrap();
    }
}

#[tokio::test]
async fn passwords_are_proven_with_scram_and_md5_and_a_wrong_one_is_named() {
    let lab = Lab::start("").await;
    for (method, encryption) in [("scram-sha-256", "scram-sha-256"), ("md5", "md5")] {
        let role = format!("l_{encryption}").replace('-', "_");
        lab.psql(&format!(
            "SET password_encryption = '{encryption}'; CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'käse ''1'"
        ))
        .await;
        set_hba(&lab, &format!("host all all 127.0.0.1/32 {method}\nhost replication all 127.0.0.1/32 {method}")).await;
        let mut postgres = over_tcp(&lab, &role);
        postgres.login.credentials = Some(known(&postgres, "käse '1"));
        is_let_in(&postgres).await;

        for wrong in [Some(known(&postgres, "other")), None] {
            postgres.login.credentials = wrong;
            for result in log_in(&postgres).await {
                let error = result.unwrap_err();
                assert!(matches!(&error, EngineError::Login { .. }), "{method}: {error:?}");
                assert!(error.is_permanent() && error.to_string().contains("pg_hba.conf"), "{error}");
            }
        }
    }
}

/// What is kept is outdated; what is asked for anew counts how often.
#[derive(Debug)]
struct Rotated {
    anew: &'static str,
    asked: AtomicUsize,
}

impl Rotated {
    fn of(anew: &'static str) -> Arc<Self> {
        Arc::new(Self { anew, asked: AtomicUsize::new(0) })
    }
}

fn credentials(password: &str) -> Credentials {
    Credentials { user: "rotating".to_owned(), password: Some(password.to_owned().into()) }
}

#[async_trait]
impl CredentialSource for Rotated {
    async fn read(&self) -> Result<Credentials, CredentialError> {
        Ok(credentials("old"))
    }

    async fn read_anew(&self) -> Result<Credentials, CredentialError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(credentials(self.anew))
    }
}

#[tokio::test]
async fn a_refused_password_is_read_anew_and_another_refusal_is_not() {
    let lab = Lab::start("").await;
    lab.psql("CREATE ROLE rotating LOGIN REPLICATION PASSWORD 'new'").await;
    let hba = "host all rotating 127.0.0.1/32 scram-sha-256\nhost replication rotating 127.0.0.1/32 scram-sha-256";
    set_hba(&lab, hba).await;
    let mut postgres = over_tcp(&lab, "rotating");
    for (anew, is_let_in) in [("new", true), ("old", false), ("other", false)] {
        let source = Rotated::of(anew);
        postgres.login.credentials = Some(source.clone());
        for result in log_in(&postgres).await {
            assert_eq!(result.is_ok(), is_let_in, "{anew}: {result:?}");
            let is_refused = |error: &EngineError| matches!(error, EngineError::Login { is_password: true, .. });
            assert!(result.as_ref().err().is_none_or(is_refused), "{anew}: {result:?}");
        }
        assert_eq!(source.asked.load(Ordering::Relaxed), 2, "once for each client");
    }
    // Another password would help nobody here.
    set_hba(&lab, "host all postgres 127.0.0.1/32 trust").await;
    let source = Rotated::of("new");
    postgres.login.credentials = Some(source.clone());
    for result in log_in(&postgres).await {
        assert!(matches!(result, Err(EngineError::Login { is_password: false, .. })), "{result:?}");
    }
    assert_eq!(source.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_clear_password_is_sent_over_a_socket_only() {
    let lab = Lab::start("").await;
    lab.psql("CREATE ROLE plain LOGIN REPLICATION PASSWORD 'p'").await;
    set_hba(&lab, "local all,replication plain password\nhost all,replication plain 127.0.0.1/32 password").await;
    let mut postgres = over_tcp(&lab, "plain");
    postgres.login.credentials = Some(known(&postgres, "p"));
    let error = Connection::open(&postgres, &postgres.members[0]).await.err().expect("refused");
    assert!(error.to_string().contains("without TLS"), "{error}");
    postgres.members = vec![member("a", lab.cluster.socket_folder().to_str().unwrap(), lab.port)];
    is_let_in(&postgres).await;
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let lab = Lab::start("").await;
    lab.psql("CREATE ROLE plain LOGIN").await;
    let postgres = over_tcp(&lab, "plain");
    let open = async || Connection::open(&postgres, &postgres.members[0]).await.err().expect("refused");

    let error = open().await;
    assert!(matches!(error, EngineError::Unfit { .. }), "{error:?}");
    assert!(error.to_string().contains(r#"ALTER ROLE "plain" REPLICATION"#), "{error}");

    set_hba(&lab, "host all all 127.0.0.1/32 trust").await;
    let error = open().await;
    assert!(
        matches!(&error, EngineError::Login { reason, .. } if reason.contains("no pg_hba.conf entry")),
        "{error:?}"
    );

    let error = sql::connect(&postgres, &postgres.members[0], "nowhere").await.unwrap_err();
    assert!(matches!(error, EngineError::Unfit { .. }) && error.to_string().contains("nowhere"), "{error}");
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_out_of_reach() {
    let lab = Lab::start("").await;
    let mut postgres = over_tcp(&lab, "postgres");
    postgres.members = vec![member("a", "127.0.0.1", free_port())];
    for result in log_in(&postgres).await {
        let error = result.unwrap_err();
        assert!(matches!(error, EngineError::Unreachable { .. }) && !error.is_permanent(), "{error:?}");
    }
    let seen = postgres.inspect().await;
    assert!(matches!(seen.as_slice(), [(_, Err(EngineError::Unreachable { .. }))]), "{seen:?}");
}

#[tokio::test]
async fn tls_checks_authority_and_name_when_it_is_to() {
    let lab = Lab::start("").await;
    let folder = scratch();
    certificate(folder.path(), "right", "IP:127.0.0.1").await;
    certificate(folder.path(), "misnamed", "DNS:elsewhere.example").await;
    let mut postgres = over_tcp(&lab, "postgres");

    postgres.login.tls = Tls::Require;
    let error = Connection::open(&postgres, &postgres.members[0]).await.err().expect("no TLS yet");
    assert!(error.to_string().contains("ssl = on"), "{error}");
    let error = sql::connect(&postgres, &postgres.members[0], "postgres").await.unwrap_err();
    assert!(error.to_string().contains("ssl = on"), "{error}");

    let serve = async |label: &str| {
        for end in ["crt", "key"] {
            let path = lab.cluster.data().join(format!("server.{end}"));
            std::fs::copy(folder.path().join(format!("{label}.{end}")), &path).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            if let Some(account) = &lab.cluster.account {
                account.own(&path).unwrap();
            }
        }
        lab.psql("ALTER SYSTEM SET ssl = on").await;
        set_hba(&lab, "hostssl all all 127.0.0.1/32 trust\nhostssl replication all 127.0.0.1/32 trust").await;
    };
    let full = |label: &str| Tls::VerifyFull { root_certificate: Some(folder.path().join(format!("{label}-ca.crt"))) };

    serve("right").await;
    for good in [Tls::Require, full("right")] {
        postgres.login.tls = good;
        is_let_in(&postgres).await;
    }
    // Over TLS the server offers to bind the channel, which we decline.
    lab.psql("CREATE ROLE scram LOGIN REPLICATION PASSWORD 'p'").await;
    set_hba(&lab, "hostssl all all 127.0.0.1/32 scram-sha-256\nhostssl replication all 127.0.0.1/32 scram-sha-256")
        .await;
    postgres.login.user = "scram".to_owned();
    postgres.login.credentials = Some(known(&postgres, "p"));
    is_let_in(&postgres).await;

    let refused = async |postgres: &Postgres| {
        for result in log_in(postgres).await {
            let error = result.unwrap_err();
            assert!(matches!(error, EngineError::Unfit { .. }), "{error:?}");
            assert!(error.to_string().contains("certificate") && error.is_permanent(), "{error}");
        }
    };
    for bad in [full("misnamed"), full("nowhere"), Tls::VerifyFull { root_certificate: None }] {
        postgres.login.tls = bad;
        refused(&postgres).await;
    }
    serve("misnamed").await;
    postgres.login.tls = full("misnamed");
    refused(&postgres).await;
    postgres.login.tls = Tls::Require;
    is_let_in(&postgres).await;
}
