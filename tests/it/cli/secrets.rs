//! What a node lacks to restore, it learns from `check`, and not on the day.

use serde_json::Value;

use super::site::{PASSWORD, Site, tells};

/// `check` finds exactly one problem, which holds all of `words`.
async fn lacks(site: &Site, words: &[&str]) {
    let checked = site.run(&["check"]).await.json(2);
    let problems = checked["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 1, "{checked}");
    tells(problems[0].as_str().unwrap(), words);
    let shown = site.shown(&["check"]).await;
    assert!(!shown.contains("all right") && shown.trim_end().ends_with("1 problem"), "{shown}");
}

/// `restore` and `vault verify` refuse for the same reason, as a mistake of the caller.
async fn nothing_is_opened(site: &Site, words: &[&str]) {
    site.run(&["restore", "wallet", "--to", "/nowhere", "--signed-by", FINGERPRINT]).await.refused(2, words);
    site.run(&["vault", "verify", "--signed-by", FINGERPRINT]).await.refused(2, words);
    // No content is read, so nothing need be opened.
    let quick = site.run(&["vault", "verify", "--quick", "--signed-by", FINGERPRINT]).await;
    assert_eq!(quick.json(3)["verdict"], "INCONCLUSIVE");
}

const FINGERPRINT: &str = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[tokio::test]
async fn an_identity_that_opens_nothing_is_found_before_it_is_needed() {
    let site = Site::write(1);
    let identity = site.text("identity.age");
    let public = identity.trim().parse::<age::x25519::Identity>().unwrap().to_public().to_string();
    for (text, words) in [
        ("", &["keys.identity", "identity.age", "is empty"][..]),
        (&public, &["keys.identity", "identity.age", "public key", "AGE-SECRET-KEY-1"]),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n", &["keys.identity", "identity.age", "SSH key", "lifeboat keygen"]),
    ] {
        site.put_private("identity.age", text);
        lacks(&site, words).await;
        nothing_is_opened(&site, words).await;
    }
    let stranger = site.new_identity("identity.age");
    lacks(&site, &["keys.identity", "identity.age", &stranger, "none of `keys.recipients`"]).await;
    std::fs::remove_file(site.path("identity.age")).unwrap();
    lacks(&site, &["keys.identity", "identity.age", "No such file"]).await;
    std::fs::create_dir(site.path("identity.age")).unwrap();
    lacks(&site, &["keys.identity", "identity.age", "directory"]).await;
    std::fs::remove_dir(site.path("identity.age")).unwrap();
    site.put_private("identity.age", &identity);
    site.put_private("signing.key", "no key\n");
    lacks(&site, &["signing.key"]).await;
    std::fs::remove_file(site.path("signing.key")).unwrap();
    // The one that is kept elsewhere, the same way.
    site.edit("lifeboat.yaml", "  signing:", "  escrow: {env: NOBODY_SET_THIS}\n  signing:");
    lacks(&site, &["keys.escrow", "NOBODY_SET_THIS", "not set"]).await;
    assert!(!site.path("signing.key").exists() && !site.path("lifeboat.db").exists(), "looking makes nothing");
}

#[tokio::test]
async fn all_that_is_missing_is_told_at_once() {
    let site = Site::write(1);
    std::fs::remove_file(site.path("wallet.password")).unwrap();
    lacks(&site, &["password of `wallet`", "wallet.password", "No such file"]).await;
    std::fs::remove_file(site.path("identity.age")).unwrap();
    let other = site.text("schedules/wallet.yaml").replace("database: wallet\n", "database: other\n");
    site.put("schedules/other.yaml", &other);
    for args in [&["check"][..], &["check", "--connect"]] {
        let checked = site.run(args).await.json(2);
        let problems: Vec<&str> =
            checked["problems"].as_array().unwrap().iter().map(|problem| problem.as_str().unwrap()).collect();
        assert_eq!(problems.len(), 3, "{checked}");
        assert!(problems[0].contains("keys.identity"), "{checked}");
        assert!(problems[1].contains("password of `other`") && problems[2].contains("password of `wallet`"));
    }
    // Elsewhere than on the node the files alone can be right.
    assert_eq!(site.run(&["check", "--files"]).await.json(0)["problems"], Value::Array(Vec::new()));
    assert!(site.shown(&["check", "--files"]).await.contains("all right"));
    site.put_private("wallet.password", PASSWORD);
}
