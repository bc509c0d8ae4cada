//! Maintenance that a daemon announces: once, over restarts, kills and refusals, and
//! what became of it when the files are edited.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lifeboat::{clock::Clock, db::Db};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{nodes, site::Site};
use crate::support::{
    Lab, eventually,
    receiver::Receiver,
    smtp::{MailServer, PASSWORD},
};

const SOON: Duration = Duration::from_secs(60);
const LONG_SINCE: &str = "UPDATE notices SET stored_ms = stored_ms - 600000";
/// Recognisable wherever they should not be.
const KEY: &str = "whsec_bmV2ZXItdG8tYmUtc2hvd24tMDEyMzQ1Njc4OQ==";
const SLACK_PATH: &str = "/services/T0NEVERSHOWN";

/// Now and so many minutes, as a clock shows it in UTC.
fn minutes(from_now: i64) -> (Timestamp, String) {
    let at = Clock::system().now() + SignedDuration::from_mins(from_now);
    let shown = at.strftime("%Y-%m-%d %H:%M").to_string();
    (shown.replace(' ', "T").parse::<jiff::civil::DateTime>().unwrap().in_tz("UTC").unwrap().timestamp(), shown)
}

fn maintenance(from: i64, to: i64) -> String {
    format!("maintenance: [{{reason: new disks, start: \"{}\", end: \"{}\"}}]", minutes(from).1, minutes(to).1)
}

/// A site whose database nobody looks at, with a webhook and Slack, and maintenance.
fn site(receiver: &Receiver, maintenance: &str) -> Site {
    let site = Site::write(1);
    site.edit("lifeboat.yaml", "node: {name: test,", "node: {name: test, roles: [scheduler],");
    site.put_private("hook.key", KEY);
    site.put_private("slack.url", &format!("{}{SLACK_PATH}", receiver.url));
    let notify = format!(
        "notify:\n  hook: {{kind: webhook, url: \"{}/hook\", secret: {{file: hook.key}}}}\n  \
         dba: {{kind: slack, url: {{file: slack.url}}}}\n{maintenance}\napi:",
        receiver.url
    );
    site.edit("lifeboat.yaml", "api:", &notify);
    let schedule = site.text("schedules/wallet.yaml");
    site.put("schedules/wallet.yaml", &format!("{schedule}notify: [hook, dba]\n"));
    site
}

async fn stored(site: &Site) -> Db {
    eventually("the state", SOON, async || site.path("lifeboat.db").exists()).await;
    Db::open(&format!("sqlite:{}", site.path("lifeboat.db").display())).await.unwrap()
}

async fn execute(db: &Db, sql: &'static str) {
    let Db::Sqlite { state, .. } = db else { panic!("this is SQLite") };
    sqlx::query(sql).execute(state).await.unwrap();
}

/// The ids that the webhook got, with how each was told apart.
fn hooked(receiver: &Receiver) -> Vec<(String, String)> {
    let posts = receiver.posts().into_iter().filter(|post| post.path == "/hook");
    posts
        .map(|post| (post.json()["data"]["id"].as_str().unwrap().to_owned(), post.header("webhook-id").to_owned()))
        .collect()
}

fn slacked(receiver: &Receiver) -> Vec<String> {
    let posts = receiver.posts().into_iter().filter(|post| post.path == SLACK_PATH);
    posts.map(|post| post.json()["text"].as_str().unwrap().to_owned()).collect()
}

async fn findings(site: &Site) -> Vec<String> {
    let findings: serde_json::Value = serde_json::from_str(&site.run(&["findings"]).await.stdout).unwrap();
    let of = |finding: &serde_json::Value| finding["message"].as_str().unwrap().to_owned();
    findings.as_array().unwrap().iter().map(of).filter(|message| message.contains("notifier")).collect()
}

fn nothing_secret(site: &Site) {
    let log = site.text("log");
    assert!(!log.contains(KEY) && !log.contains("NEVERSHOWN"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_is_told_once_and_what_becomes_of_it() {
    let receiver = Receiver::start().await;
    let first = maintenance(40, 100);
    let site = site(&receiver, &first);
    // Killed between telling and noting it: told again, by the same id.
    let log = std::fs::File::create(site.path("log")).unwrap();
    let mut command = site.command(&["serve"]);
    command.env("LIFEBOAT_FAULT", "kill@notice.sent:1").stdout(log.try_clone().unwrap()).stderr(log);
    let mut daemon = command.spawn().unwrap();
    tokio::time::timeout(SOON, daemon.wait()).await.unwrap().unwrap();
    let before: Vec<String> = receiver.posts().into_iter().map(|post| post.path).collect();
    assert!(!before.is_empty(), "it was told before it was killed");
    let db = stored(&site).await;
    execute(&db, "UPDATE notices SET lease_until_ms = 1").await;
    let mut daemon = site.serve(&[]);
    let are_told = async || {
        let sent = notices(&db).await;
        sent.len() == 2 && sent.iter().all(|(_, is_sent)| *is_sent)
    };
    eventually("both are told", SOON, are_told).await;
    let (hooks, slacks) = (hooked(&receiver), slacked(&receiver));
    assert!(hooks.len() + slacks.len() > 2, "what was not noted is told again: {before:?}");
    assert!(hooks.iter().all(|hook| *hook == hooks[0]) && slacks.iter().all(|text| *text == slacks[0]));
    assert!(hooks[0].0.starts_with("maintenance/") && hooks[0].0.ends_with("-all/1h/hook"), "{hooks:?}");
    let start = minutes(40).0.to_string();
    for word in ["*Maintenance: wallet,", "Reason: new disks", "(Europe/Malta)", "Held: backups", "Not held: WAL"] {
        assert!(slacks[0].contains(word), "{word} is not in {}", slacks[0]);
    }
    // The minute may have turned since the files were written.
    let yaml = site.text("lifeboat.yaml");
    assert!(slacks[0].contains(&start) || !yaml.contains(&minutes(40).1), "{}", slacks[0]);

    // Neither a restart nor an edit of something else tells it again.
    kill(Pid::from_raw(daemon.id().unwrap().cast_signed()), Signal::SIGTERM).unwrap();
    tokio::time::timeout(SOON, daemon.wait()).await.unwrap().unwrap();
    let told = receiver.posts().len();
    let mut daemon = site.serve(&[]);
    // It is moved: that is told, and what was before with it, once it was announced long enough.
    execute(&db, LONG_SINCE).await;
    site.edit("lifeboat.yaml", &first, &maintenance(300, 360));
    eventually("it is told that it moved", SOON, async || slacked(&receiver).len() > slacks.len()).await;
    let moved = slacked(&receiver).pop().unwrap();
    assert!(moved.contains("*Maintenance changed: wallet,") && moved.contains("Announced before:"), "{moved}");
    eventually("the webhook, too", SOON, async || hooked(&receiver).len() > hooks.len()).await;
    assert_eq!(receiver.posts().len(), told + 2, "nothing else was told since the restart");
    assert!(hooked(&receiver).pop().unwrap().0.ends_with("/24h/hook"));
    // It is taken out.
    execute(&db, LONG_SINCE).await;
    let yaml = site.text("lifeboat.yaml");
    let kept: Vec<&str> = yaml.lines().filter(|line| !line.starts_with("maintenance:")).collect();
    site.put("lifeboat.yaml", &(kept.join("\n") + "\n"));
    eventually("it is called off", SOON, async || receiver.posts().len() == told + 4).await;
    let off = slacked(&receiver).pop().unwrap();
    assert!(off.contains("*Maintenance called off: wallet,") && off.contains("does not take place"), "{off}");
    assert!(hooked(&receiver).pop().unwrap().0.ends_with("/cancelled/hook"));
    daemon.kill().await.unwrap();
    nothing_secret(&site);
}

/// The ids of what is stored, and whether it was told.
async fn notices(db: &Db) -> Vec<(String, bool)> {
    let stored = lifeboat::db::notices::current(db, "maintenance").await.unwrap();
    stored.into_iter().map(|stored| (stored.notice.id, stored.sent_at.is_some())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_is_tried_again_and_is_a_finding_until_it_is() {
    let receiver = Receiver::start().await;
    let site = site(&receiver, &maintenance(300, 360));
    site.edit("schedules/wallet.yaml", "notify: [hook, dba]", "notify: [dba]");
    // What passes, then what a person has to mend.
    receiver.answer(&[(500, None, ""), (429, Some(1), ""), (404, None, "no_service")]);
    // The libraries that tell say all they know of it.
    let log = std::fs::File::create(site.path("log")).unwrap();
    let mut command = site.command(&["serve"]);
    command.env("RUST_LOG", "trace").stdout(log.try_clone().unwrap()).stderr(log);
    let mut daemon = command.spawn().unwrap();
    let db = stored(&site).await;
    // The files are read again, and it looks at once.
    let pid = Pid::from_raw(daemon.id().unwrap().cast_signed());
    let hang_up = || kill(pid, Signal::SIGHUP).unwrap();
    for tries in 1..=3_u8 {
        eventually("it is tried", SOON, async || receiver.posts().len() == usize::from(tries)).await;
        eventually("and given back", SOON, async || {
            let Db::Sqlite { state, .. } = &db else { panic!("this is SQLite") };
            let free =
                "SELECT count(*) FROM notices WHERE lease_until_ms = 0 AND next_ms > stored_ms AND attempts = $1";
            let free: i64 = sqlx::query_scalar(free).bind(i64::from(tries)).fetch_one(state).await.unwrap();
            free == 1
        })
        .await;
        if tries < 3 {
            assert!(findings(&site).await.is_empty(), "it may pass");
            execute(&db, "UPDATE notices SET next_ms = 0").await;
            hang_up();
        }
    }
    eventually("a finding", SOON, async || !findings(&site).await.is_empty()).await;
    let told = findings(&site).await;
    for word in ["notifier `dba` (slack) could not tell \"Maintenance: wallet,", "404 (no_service)", "make a new one"] {
        assert!(told.len() == 1 && told[0].contains(word), "{word} is not in {told:?}");
    }
    assert!(!told[0].contains("NEVERSHOWN"));
    // Whoever mends it need not wait for its turn.
    hang_up();
    eventually("it is told", SOON, async || notices(&db).await.iter().all(|(_, is_sent)| *is_sent)).await;
    eventually("the finding is closed", SOON, async || findings(&site).await.is_empty()).await;
    assert_eq!(slacked(&receiver).len(), 4);

    // Where nothing is left to be told, and it can be reached, nothing is found any more.
    execute(&db, "UPDATE notices SET over_ms = stored_ms").await;
    receiver.answer(&[(410, None, "channel_is_archived")]);
    site.edit("lifeboat.yaml", "reason: new disks,", "reason: new disks, databases: [wallet],");
    hang_up();
    eventually("a finding", SOON, async || !findings(&site).await.is_empty()).await;
    let (yaml, maintained) = (site.text("lifeboat.yaml"), |line: &&str| line.starts_with("maintenance:"));
    let kept: Vec<&str> = yaml.lines().filter(|line| !maintained(line)).collect();
    site.put("lifeboat.yaml", &(kept.join("\n") + "\n"));
    hang_up();
    eventually("the finding is closed", SOON, async || findings(&site).await.is_empty()).await;
    // Nor of a notifier that goes.
    receiver.answer(&[(410, None, "channel_is_archived")]);
    site.put("lifeboat.yaml", &yaml);
    hang_up();
    eventually("a finding", SOON, async || !findings(&site).await.is_empty()).await;
    site.edit("schedules/wallet.yaml", "notify: [dba]", "notify: [hook]");
    let yaml = site.text("lifeboat.yaml");
    let kept: Vec<&str> = yaml.lines().filter(|line| !line.starts_with("  dba: ")).collect();
    site.put("lifeboat.yaml", &(kept.join("\n") + "\n"));
    hang_up();
    eventually("the finding is closed", SOON, async || findings(&site).await.is_empty()).await;
    daemon.kill().await.unwrap();
    nothing_secret(&site);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_one_tells_it() {
    let lab = Lab::start("").await;
    lab.psql("CREATE DATABASE state").await;
    let receiver = Receiver::start().await;
    let site = site(&receiver, &maintenance(300, 360));
    let url = format!("postgres://postgres@127.0.0.1:{}/state", lab.port);
    site.edit("lifeboat.yaml", "sqlite:lifeboat.db", &url);
    // They begin at the same moment, with one signing key.
    site.run(&["runs"]).await.json(0);
    let yaml = site.text("lifeboat.yaml");
    let serve = |node: &str| {
        // Each has a notifier of its own besides, so that its look is seen.
        let own = format!(
            "notify:\n  {node}: {{kind: webhook, url: \"{}/{node}\", secret: {{file: hook.key}}}}",
            receiver.url
        );
        let ours = yaml.replace("name: test", &format!("name: {node}")).replace("notify:\n", &format!("{own}\n"));
        let api = ours.find("\napi:").unwrap();
        let ours = ours[..=api].replace("reason: new disks,", &format!("reason: new disks, notify: [{node}],"));
        site.put(&format!("{node}.yaml"), &ours);
        let log = std::fs::File::create(site.path(&format!("{node}.log"))).unwrap();
        nodes::command(&site, node, &[], &["serve"]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    };
    let mut daemons = ["a", "b"].map(serve);
    for path in ["/a", "/b", "/hook", SLACK_PATH] {
        let is_told = async || receiver.posts().iter().any(|post| post.path == path);
        eventually(&format!("{path} is told"), SOON, is_told).await;
    }
    // What is under way then is told to its end.
    for daemon in &mut daemons {
        kill(Pid::from_raw(daemon.id().unwrap().cast_signed()), Signal::SIGTERM).unwrap();
        let ended = tokio::time::timeout(SOON, daemon.wait()).await.unwrap().unwrap();
        assert_eq!(ended.code(), Some(0));
    }
    let mut paths: Vec<String> = receiver.posts().into_iter().map(|post| post.path).collect();
    paths.sort();
    assert_eq!(paths, ["/a", "/b", "/hook", SLACK_PATH]);
    let counted = lab.psql_in("state", "SELECT count(*), sum(attempts), count(sent_ms) FROM notices").await;
    assert_eq!(counted, "4|4|4");
}

#[tokio::test]
async fn check_tells_who_cannot_be_told() {
    let receiver = Receiver::start().await;
    let coming = maintenance(300, 360);
    let site = site(&receiver, &coming);
    let problems = async |args: &[&str], code| {
        let checked = site.run(args).await.json(code);
        let of = |problem: &serde_json::Value| problem.as_str().unwrap().to_owned();
        let problems: Vec<String> = checked["problems"].as_array().unwrap().iter().map(of).collect();
        problems.into_iter().filter(|problem| problem.contains("notifier")).collect::<Vec<_>>()
    };
    assert!(problems(&["check"], 0).await.is_empty());
    assert!(problems(&["check", "--connect"], 2).await.is_empty(), "both can be reached");
    assert!(receiver.posts().is_empty(), "nobody was told");
    std::fs::remove_file(site.path("hook.key")).unwrap();
    for args in [&["check"][..], &["check", "--connect"]] {
        let told = problems(args, 2).await;
        assert!(told.len() == 1 && told[0].contains("`hook`") && told[0].contains("No such file"), "{told:?}");
    }
    site.put_private("hook.key", KEY);
    let away = receiver.url.clone();
    drop(receiver);
    let is_away = async || std::net::TcpStream::connect(away.trim_start_matches("http://")).is_err();
    eventually("the receiver ends", SOON, is_away).await;
    assert!(problems(&["check"], 0).await.is_empty(), "it connects nowhere");
    let told = problems(&["check", "--connect"], 2).await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|told| told.contains("127.0.0.1 cannot be reached") && !told.contains("NEVERSHOWN")));
    // What is announced to nobody is told, too.
    site.edit("schedules/wallet.yaml", "notify: [hook, dba]\n", "");
    let notes = async || site.run(&["check"]).await.json(0)["findings"].to_string();
    let told = notes().await;
    assert!(told.contains("maintenance `new disks` is announced to nobody"), "{told}");
    site.edit("lifeboat.yaml", &coming, &maintenance(-360, -300));
    assert_eq!(notes().await, "[]", "what is over is nobody's concern");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_is_told_as_it_is_written() {
    let (receiver, mail) = (Receiver::start().await, MailServer::start("starttls", 0).await);
    let site = site(&receiver, &maintenance(300, 360));
    site.put_private("mail.password", PASSWORD);
    site.put_private("routing.key", "R0UT1NG");
    let more = format!(
        "notify:\n  audit: {{kind: email, host: localhost, port: {}, ca_file: {}, user: lifeboat, \
         password: {{file: mail.password}}, from: lifeboat@example.com, to: [audit@example.com]}}\n  \
         oncall: {{kind: pagerduty, routing_key: {{file: routing.key}}, url: \"{}\"}}\n",
        mail.port,
        mail.ca_file.display(),
        receiver.url
    );
    site.edit("lifeboat.yaml", "notify:\n", &more);
    site.edit("lifeboat.yaml", "reason: new disks,", "reason: new disks, notify: [audit, oncall],");
    let log = std::fs::File::create(site.path("log")).unwrap();
    let mut command = site.command(&["serve"]);
    command.env("RUST_LOG", "trace").stdout(log.try_clone().unwrap()).stderr(log);
    // Nobody listens there, and nobody must hear.
    command.env("HTTP_PROXY", "http://127.0.0.1:9").env("ALL_PROXY", "http://127.0.0.1:9");
    let mut daemon = command.spawn().unwrap();
    for path in ["/hook", SLACK_PATH, "/v2/change/enqueue"] {
        let is_told = async || receiver.posts().iter().any(|post| post.path == path);
        eventually(&format!("{path} is told"), SOON, is_told).await;
    }
    eventually("a mail", SOON, async || mail.mails().len() == 1).await;
    daemon.kill().await.unwrap();
    let posts = receiver.posts();
    let event = posts.iter().find(|post| post.path == "/v2/change/enqueue").unwrap().json();
    assert_eq!((&event["routing_key"], &event["payload"]["source"]), (&"R0UT1NG".into(), &"lifeboat on test".into()));
    let sent = &mail.mails()[0];
    assert_eq!((&sent["login"], &sent["is_encrypted"]), (&"lifeboat".into(), &true.into()), "{sent}");
    assert!(sent["text"].as_str().unwrap().contains("/24h/audit"), "{sent}");
    nothing_secret(&site);
    let log = site.text("log");
    assert!(!log.contains(PASSWORD) && !log.contains("R0UT1NG"), "{log}");
}

/// An edit and an end wait for nobody who does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_that_is_silent_holds_up_no_end() {
    let receiver = Receiver::start().await;
    let site = site(&receiver, &maintenance(300, 360));
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    site.put_private("slack.url", &format!("http://{}{SLACK_PATH}", silent.local_addr().unwrap()));
    let mut daemon = site.serve(&[]);
    let (_line, _) = tokio::time::timeout(SOON, silent.accept()).await.unwrap().unwrap();
    eventually("the other one is told meanwhile", SOON, async || hooked(&receiver).len() == 1).await;
    kill(Pid::from_raw(daemon.id().unwrap().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(tokio::time::timeout(SOON, daemon.wait()).await.unwrap().unwrap().code(), Some(0));
    let log = site.text("log");
    assert!(log.contains("not told before the end, so told later") && !log.contains("did not answer"), "{log}");
    let db = stored(&site).await;
    let sent: Vec<bool> = notices(&db).await.into_iter().map(|(_, is_sent)| is_sent).collect();
    assert_eq!(sent.iter().filter(|is_sent| **is_sent).count(), 1, "{sent:?}");
    nothing_secret(&site);
}
