//! Secrets in AWS Secrets Manager and the Parameter Store of SSM: moto, an emulator, for
//! what is read and refused, and a stand-in for what it cannot refuse.

use aws_sdk_secretsmanager::config::{BehaviorVersion, Credentials, Region};
use serde_json::json;
use tokio::process::Command;

use super::{
    reload::protects,
    site::{PASSWORD, Site, finished, tells, walk, wallet},
    streaming::{SOON, caught_up},
};
use crate::support::{
    eventually,
    moto::{KEY_ID, Moto, REGION, SECRET},
    receiver::Receiver,
};

/// A client of nobody's code but the SDK's.
fn manager(moto: &Moto) -> aws_sdk_secretsmanager::Client {
    let config = aws_sdk_secretsmanager::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(KEY_ID, SECRET, None, None, "test"))
        .endpoint_url(&moto.endpoint);
    aws_sdk_secretsmanager::Client::from_conf(config.build())
}

fn parameters(moto: &Moto) -> aws_sdk_ssm::Client {
    let config = aws_sdk_ssm::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(KEY_ID, SECRET, None, None, "test"))
        .endpoint_url(&moto.endpoint);
    aws_sdk_ssm::Client::from_conf(config.build())
}

/// As a node that has credentials for AWS.
fn with_credentials(mut command: Command) -> Command {
    command.env("AWS_ACCESS_KEY_ID", KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET);
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

fn know(site: &Site, endpoint: &str) {
    site.edit("lifeboat.yaml", "api:", &format!("aws: {{endpoint: \"{endpoint}\"}}\napi:"));
}

/// The problems that `check` finds.
async fn problems(site: &Site, args: &[&str]) -> Vec<String> {
    let ran = finished(with_credentials(site.command(args))).await;
    assert!(!format!("{ran:?}").contains(PASSWORD) && !format!("{ran:?}").contains(SECRET), "{ran:?}");
    let document: serde_json::Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    document["problems"].as_array().unwrap().iter().map(|told| told.as_str().unwrap().to_owned()).collect()
}

async fn lacks(site: &Site, words: &[&str]) {
    let found = problems(site, &["check"]).await;
    assert_eq!(found.len(), 1, "{found:?}");
    tells(&found[0], words);
}

#[tokio::test]
async fn both_are_read_and_what_is_wrong_is_told() {
    let moto = Moto::start().await;
    let site = Site::write(1);
    know(&site, &moto.endpoint);
    let identity = site.text("identity.age");
    let json = json!({"username": "lifeboat", "password": PASSWORD}).to_string();
    let manager = manager(&moto);
    for (name, text) in [("prod/wallet", json.as_str()), ("prod/plain", PASSWORD)] {
        manager.create_secret().name(name).secret_string(text).send().await.unwrap();
    }
    let kind = aws_sdk_ssm::types::ParameterType::SecureString;
    parameters(&moto).put_parameter().name("/prod/identity").value(&identity).r#type(kind).send().await.unwrap();
    let region = format!("region: {REGION}");
    let ssm = format!("{{ssm: /prod/identity, {region}}}");
    site.edit("lifeboat.yaml", "{file: identity.age}", &ssm);
    let password = format!("{{secretsmanager: prod/wallet, {region}, key: password}}");
    site.edit("schedules/wallet.yaml", "{file: wallet.password}", &password);
    let none: [&str; 0] = [];
    assert_eq!(problems(&site, &["check"]).await, none);

    let wrong = async |file: &str, from: &str, to: &str, words: &[&str]| {
        site.edit(file, from, to);
        lacks(&site, words).await;
        site.edit(file, to, from);
    };
    let (daemon, schedule) = ("lifeboat.yaml", "schedules/wallet.yaml");
    wrong(
        daemon,
        "ssm: /prod/identity",
        "ssm: /prod/nothing",
        &["keys.identity", "/prod/nothing", "ParameterNotFound", "correct its name, or the region"],
    )
    .await;
    wrong(
        schedule,
        "prod/wallet,",
        "prod/nothing,",
        &["`wallet`", "prod/nothing", "ResourceNotFoundException", "or the region"],
    )
    .await;
    wrong(schedule, "key: password", "key: passwort", &["`wallet`", "no field `passwort`", "`username`, `password`"])
        .await;
    wrong(schedule, "prod/wallet,", "prod/plain,", &["`wallet`", "prod/plain", "no JSON object", "remove `key`"]).await;
    wrong(schedule, "key: password}", "key: password, version_stage: AWSPREVIOUS}", &["`wallet`", "prod/wallet"]).await;
    // The whole text, where no key is named.
    site.edit(schedule, ", key: password", "");
    site.edit(schedule, "prod/wallet", "prod/plain");
    assert_eq!(problems(&site, &["check"]).await, none);
    // Nobody answers there.
    moto.kill().await;
    let found = problems(&site, &["check"]).await;
    assert!(found.len() == 2 && found.iter().all(|told| told.contains("cannot be read")), "{found:?}");
}

/// A stand-in, as the emulator has no key that cannot be used, and refuses no right by itself.
#[tokio::test]
async fn a_key_that_cannot_be_used_is_told_from_a_right_that_is_missing() {
    let stand_in = Receiver::start().await;
    let site = Site::write(1);
    know(&site, &stand_in.url);
    let password = format!("{{secretsmanager: prod/wallet, region: {REGION}}}");
    site.edit("schedules/wallet.yaml", "{file: wallet.password}", &password);
    for (answer, words) in [
        (
            r#"{"__type": "DecryptionFailure", "message": "Secrets Manager can't decrypt"}"#,
            ["cannot be decrypted", "kms:Decrypt", "DecryptionFailure"],
        ),
        (
            r#"{"__type": "AccessDeniedException", "Message": "User is not authorized"}"#,
            ["AccessDeniedException", "allow `secretsmanager:GetSecretValue`", "with its key"],
        ),
        (
            r#"{"__type": "ExpiredTokenException", "message": "The security token has expired"}"#,
            ["ExpiredTokenException", "renew the credentials", "prod/wallet"],
        ),
    ] {
        stand_in.answer(&[(400, None, answer)]);
        lacks(&site, &words).await;
    }
    stand_in.answer(&[]);
    let key = format!("{{ssm: /prod/wallet, region: {REGION}}}");
    site.edit("schedules/wallet.yaml", &password, &key);
    stand_in.answer(&[(400, None, r#"{"__type": "InvalidKeyId", "message": "the key is disabled"}"#)]);
    lacks(&site, &["/prod/wallet", "cannot be decrypted", "kms:Decrypt", "InvalidKeyId"]).await;
}

/// The two users that Secrets Manager changes over between, each time with a new password.
#[tokio::test]
async fn users_that_change_over_are_followed() {
    let (lab, moto) = tokio::join!(wallet(""), Moto::start());
    lab.psql("CREATE ROLE lifeboat_clone LOGIN REPLICATION PASSWORD 'later' IN ROLE lifeboat").await;
    let hba = "local all postgres trust\nlocal replication postgres trust\n\
               host all,replication +lifeboat 127.0.0.0/8 scram-sha-256\n";
    std::fs::write(lab.cluster.data().join("pg_hba.conf"), hba).unwrap();
    lab.psql("SELECT pg_reload_conf()").await;
    let site = Site::write(lab.port);
    know(&site, &moto.endpoint);
    let secret = |user: &str, password: &str| json!({"username": user, "password": password}).to_string();
    let manager = manager(&moto);
    manager.create_secret().name("prod/wallet").secret_string(secret("lifeboat", PASSWORD)).send().await.unwrap();
    let field = |key: &str| format!("{{secretsmanager: prod/wallet, region: {REGION}, key: {key}}}");
    let login = format!("user: {}, member_of: lifeboat, password: {}", field("username"), field("password"));
    site.edit("schedules/wallet.yaml", "user: lifeboat, password: {file: wallet.password}", &login);
    let log = std::fs::File::create(site.path("log")).unwrap();
    let mut command = with_credentials(site.command(&["-vv", "serve"]));
    let mut daemon = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    protects(&site, &["wallet"]).await;

    let rotated = format!("{PASSWORD}-rotated");
    lab.psql(&format!("ALTER ROLE lifeboat_clone PASSWORD '{rotated}'; ALTER ROLE lifeboat NOLOGIN PASSWORD 'other'"))
        .await;
    manager
        .put_secret_value()
        .secret_id("prod/wallet")
        .secret_string(secret("lifeboat_clone", &rotated))
        .send()
        .await
        .unwrap();
    lab.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'lifeboat'").await;
    let connected = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'lifeboat_clone'";
    eventually("the other user is connected, twice", SOON, async || {
        lab.psql(connected).await.parse::<u32>().unwrap() > 1
    })
    .await;
    caught_up(&lab, &site).await;
    protects(&site, &["wallet"]).await;
    daemon.kill().await.unwrap();
    let own = [site.path("wallet.password")];
    for path in walk(&site.path("")).into_iter().filter(|path| !own.contains(path)) {
        let content = std::fs::read(&path).unwrap();
        let is_found = content.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes());
        assert!(!is_found, "{} holds the password", path.display());
    }
}
