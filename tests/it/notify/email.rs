//! Mail before a real server, in each way that a connection is protected.

use std::path::Path;

use lifeboat::notify::{
    Email, Notify,
    email::{Login, Protection},
};

use super::{known, notice, tells};
use crate::support::{
    free_port,
    smtp::{MailServer, PASSWORD},
};

fn email(port: u16, protection: Protection, ca_file: Option<&Path>, password: Option<&str>) -> Email {
    Email {
        host: "localhost".to_owned(),
        port,
        protection,
        ca_file: ca_file.map(Path::to_owned),
        login: password.map(|password| Login { user: "lifeboat".to_owned(), password: known(password) }),
        from: "lifeboat@example.com".to_owned(),
        to: vec!["dba@example.com".to_owned(), "audit@example.com".to_owned()],
    }
}

#[tokio::test]
async fn mail_goes_out_protected_and_says_the_same_id_again() {
    for (name, protection, is_protected) in [
        ("starttls", Protection::Starttls, true),
        ("implicit", Protection::Implicit, true),
        ("none", Protection::None, false),
    ] {
        let server = MailServer::start(name, 1).await;
        let (ca_file, password) = if is_protected { (Some(&*server.ca_file), Some(PASSWORD)) } else { (None, None) };
        let email = email(server.port, protection, ca_file, password);
        email.probe().await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let error = email.send(&notice()).await.unwrap_err();
        assert!(!error.is_permanent(), "{name}");
        tells(&error, &["451 of SMTP", "tried again"], &[PASSWORD]);
        for _ in 0..2 {
            email.send(&notice()).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        let mails = server.mails();
        assert_eq!(mails.len(), 2, "{mails:?}");
        let ids: Vec<&str> = mails
            .iter()
            .map(|mail| {
                assert_eq!(mail["from"], "lifeboat@example.com");
                assert_eq!(mail["to"], serde_json::json!(["dba@example.com", "audit@example.com"]));
                assert_eq!(mail["is_encrypted"], is_protected);
                assert_eq!(mail["login"].as_str(), is_protected.then_some("lifeboat"));
                let text = mail["text"].as_str().unwrap();
                for line in ["Subject: Maintenance: wallet <today> & tomorrow", "Auto-Submitted: auto-generated"] {
                    assert!(text.contains(line), "{line} is not in {text}");
                }
                text.lines().find(|line| line.starts_with("Message-ID: ")).unwrap()
            })
            .collect();
        assert!(ids[0] == ids[1] && ids[0].ends_with("@example.com>"), "{ids:?}");
    }
}

#[tokio::test]
async fn nothing_is_said_to_a_server_that_is_not_who_it_should_be() {
    let server = MailServer::start("starttls", 0).await;
    let (port, ca_file) = (server.port, Some(&*server.ca_file));
    // Without its authority, by another name, and by another protection than it offers.
    let stranger = email(port, Protection::Starttls, None, Some(PASSWORD));
    tells(&stranger.send(&notice()).await.unwrap_err(), &["cannot be reached", "certificate"], &[PASSWORD]);
    let misnamed = Email { host: "127.0.0.1".to_owned(), ..email(port, Protection::Starttls, ca_file, Some(PASSWORD)) };
    tells(&misnamed.send(&notice()).await.unwrap_err(), &["127.0.0.1", "certificate"], &[PASSWORD]);
    let plain = MailServer::start("none", 0).await;
    for password in [Some(PASSWORD), None] {
        let stripped = email(plain.port, Protection::Starttls, ca_file, password);
        let error = stripped.send(&notice()).await.unwrap_err();
        assert!(error.is_permanent());
        tells(&error, &["does not do what is asked", "STARTTLS", "check `tls`"], &[PASSWORD]);
    }
    // Who may not log in, who is not known, and nobody at all.
    let wrong = email(port, Protection::Starttls, ca_file, Some("hunter2"));
    for outcome in [wrong.send(&notice()).await, wrong.probe().await] {
        let error = outcome.unwrap_err();
        assert!(error.is_permanent());
        tells(&error, &["535 of SMTP", "the password"], &["hunter2"]);
    }
    let unknown = Email {
        to: vec!["nobody@example.com".to_owned()],
        ..email(port, Protection::Starttls, ca_file, Some(PASSWORD))
    };
    let error = unknown.send(&notice()).await.unwrap_err();
    assert!(error.is_permanent());
    tells(&error, &["550 of SMTP", "somebody in `to`"], &["nobody@"]);
    let away = email(free_port(), Protection::Starttls, ca_file, Some(PASSWORD)).probe().await.unwrap_err();
    assert!(!away.is_permanent());
    tells(&away, &["cannot be reached"], &[PASSWORD]);
    assert!(server.mails().is_empty() && plain.mails().is_empty());
}
