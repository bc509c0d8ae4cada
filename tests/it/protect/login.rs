//! Every way in, and every way to be refused with words that help.

use lifeboat::engine::{
    EngineError, Look,
    postgres::{Postgres, Tls, sql, wire::Connection},
};

use super::{member, over_tcp, set_hba};
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
        postgres.login.password = Some("käse '1".to_owned().into());
        is_let_in(&postgres).await;

        for wrong in [Some("other".to_owned().into()), None] {
            postgres.login.password = wrong;
            for result in log_in(&postgres).await {
                let error = result.unwrap_err();
                assert!(matches!(&error, EngineError::Login { .. }), "{method}: {error:?}");
                assert!(error.is_permanent() && error.to_string().contains("pg_hba.conf"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_clear_password_is_sent_over_a_socket_only() {
    let lab = Lab::start("").await;
    lab.psql("CREATE ROLE plain LOGIN REPLICATION PASSWORD 'p'").await;
    set_hba(&lab, "local all,replication plain password\nhost all,replication plain 127.0.0.1/32 password").await;
    let mut postgres = over_tcp(&lab, "plain");
    postgres.login.password = Some("p".to_owned().into());
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
    postgres.login.password = Some("p".to_owned().into());
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
