//! What the API and its pages do: signals to runs, and the safety lever.

use super::{Answer, Server};

const RUNNING: &str = "backup/odds/manual/20261121t054100z-4c";
const ENDED: &str = "restore_test/wallet/scheduled/20261121t050000z";
const JSON: (&str, &str) = ("Content-Type", "application/json");
const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const HOST: (&str, &str) = ("Host", "localhost:8080");
const BY: &str = r#"{"who": "ann", "reason": "it is time"}"#;

impl Server {
    async fn post(&self, path: &str, kind: (&str, &str), body: &str) -> Answer {
        self.send("POST", path, &[HOST, kind], body).await
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.deeds.told.lock().unwrap())
    }
}

#[tokio::test]
async fn runs_take_what_somebody_says_and_the_lever_turns() {
    let server = Server::start(false).await;
    for word in ["approve", "abort", "resume"] {
        let answer = server.post(&format!("/api/v1/runs/{RUNNING}/{word}"), JSON, BY).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        assert_eq!((answer.json()["run_id"].as_str(), answer.json()["sent"].as_str()), (Some(RUNNING), Some(word)));
        assert_eq!(server.told(), [format!("{word} ann: it is time")]);
    }
    let lever = server.get("/api/v1/lever").await.json();
    assert_eq!((&lever["on"], &lever["who"]), (&false.into(), &serde_json::Value::Null));
    let on = server.post("/api/v1/lever", JSON, r#"{"on": true, "who": "ann", "reason": "a match"}"#).await;
    assert_eq!(on.status, 200, "{}", on.body);
    let lever = server.get("/api/v1/lever").await.json();
    assert_eq!((&lever["on"], &lever["who"], &lever["reason"]), (&true.into(), &"ann".into(), &"a match".into()));
    assert_eq!(lever, on.json());
}

#[tokio::test]
async fn what_cannot_be_done_is_a_problem_and_nothing_is_done() {
    let server = Server::start(false).await;
    let approve = format!("/api/v1/runs/{RUNNING}/approve");
    let (ended, unknown) = (format!("/api/v1/runs/{ENDED}/abort"), format!("/api/v1/runs/{RUNNING}/launch"));
    let huge = format!(r#"{{"who": "ann", "reason": "{}"}}"#, "x".repeat(20_000));
    for (path, kind, body, status, detail) in [
        (approve.as_str(), JSON, r#"{"who": " ", "reason": "x"}"#, 422, "`who` is empty"),
        (&approve, JSON, r#"{"reason": "x"}"#, 422, "who"),
        (&approve, JSON, r#"{"who": "ann", "as": "root"}"#, 422, "unknown field `as`"),
        (&approve, JSON, r#"{"who": "ann\nbob"}"#, 422, "line breaks"),
        (&approve, JSON, "{", 400, "JSON"),
        (&approve, FORM, "who=ann", 415, "application/json"),
        (&approve, ("Content-Type", "text/plain"), BY, 415, "application/json"),
        (&approve, JSON, &huge, 413, "limit"),
        (&ended, JSON, BY, 409, "has ended"),
        (&unknown, JSON, BY, 404, "not `launch`"),
        ("/api/v1/runs/no/such/run/approve", JSON, BY, 404, "there is no run `no/such/run`"),
        ("/api/v1/lever", JSON, r#"{"on": true, "who": "ann", "reason": ""}"#, 422, "`reason` is empty"),
        ("/api/v1/lever", JSON, r#"{"who": "ann", "reason": "x"}"#, 422, "on"),
    ] {
        let answer = server.post(path, kind, body).await;
        assert_eq!(answer.status, status, "{path} {body:.80}: {}", answer.body);
        let problem = answer.problem();
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{path} {body:.80}: {problem}");
    }
    assert_eq!(server.told(), Vec::<String>::new());
    assert_eq!(server.get("/api/v1/lever").await.json()["on"], false);
}

#[tokio::test]
async fn other_pages_and_other_names_are_refused() {
    let server = Server::start(false).await;
    let path = format!("/api/v1/runs/{RUNNING}/abort");
    for (headers, status) in [
        (vec![HOST, JSON, ("Origin", "https://evil.example")], 403),
        (vec![HOST, JSON, ("Sec-Fetch-Site", "cross-site")], 403),
        (vec![HOST, JSON, ("Origin", "null")], 403),
        (vec![("Host", "evil.example"), JSON], 421),
        (vec![HOST, JSON, ("Origin", "http://localhost:8080"), ("Sec-Fetch-Site", "same-origin")], 202),
    ] {
        let answer = server.send("POST", &path, &headers, BY).await;
        assert_eq!(answer.status, status, "{headers:?}: {}", answer.body);
        assert_eq!(server.told().len(), usize::from(status == 202), "{headers:?}");
    }
    let rebound = server.send("GET", "/lever", &[("Host", "evil.example")], "").await;
    assert_eq!(rebound.status, 421);
    assert!(!rebound.body.contains("token"), "{}", rebound.body);
}

/// The token in a page's form.
fn token(page: &str) -> &str {
    page.split_once("name=\"token\" value=\"").unwrap().1.split_once('"').unwrap().0
}

#[tokio::test]
async fn pages_ask_for_a_name_and_a_confirmation_and_know_their_own_forms() {
    let server = Server::start(false).await;
    let path = format!("/runs/{RUNNING}");
    assert!(server.get("/").await.body.contains(&format!("href=\"{path}\"")), "the status page leads to the run");
    let page = server.get(&path).await.body;
    let policy = server.get(&path).await.headers["content-security-policy"].clone();
    assert!(policy.contains("form-action 'self'") && !policy.contains("unsafe"), "{policy}");
    assert!(
        !page.contains("<script")
            && !page.contains(" onclick")
            && !page.contains(" style=")
            && !page.contains("http-equiv"),
        "{page}"
    );
    let own = token(&page);
    assert!(own.len() >= 32, "{own}");
    let other = Server::start(false).await;
    assert_ne!(token(&other.get(&path).await.body), own, "a token is of one process");

    let form = |token: &str, who: &str, confirm: &str, press: &str| {
        format!("token={token}&who={who}&reason=it+is+time{confirm}&press={press}")
    };
    for (body, status, detail) in [
        (form("0", "ann", "&confirm=yes", "approve"), 403, "not from the daemon that runs now"),
        (form(own, "ann", "", "approve"), 400, "tick the box"),
        (form(own, "", "&confirm=yes", "approve"), 422, "`who` is empty"),
        (form(own, "ann", "&confirm=yes", "launch"), 422, "launch"),
        ("who=ann".to_owned(), 422, "token"),
    ] {
        let answer = server.post(&path, FORM, &body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
        assert!(answer.problem()["detail"].as_str().unwrap().contains(detail), "{body}: {}", answer.body);
    }
    assert_eq!(server.told(), Vec::<String>::new());
    let sent = server.post(&path, FORM, &form(own, "ann", "&confirm=yes", "approve")).await;
    assert_eq!((sent.status, sent.headers["location"].as_str()), (303, "/"), "{}", sent.body);
    assert_eq!(server.told(), ["approve ann: it is time"]);

    assert!(!server.get(&format!("/runs/{ENDED}")).await.body.contains("<form"), "nothing can be said to what ended");
    let lever = server.get("/lever").await.body;
    let on = server.post("/lever", FORM, &form(token(&lever), "ann", "&confirm=yes", "on")).await;
    assert_eq!(on.status, 303, "{}", on.body);
    let lever = server.get("/lever").await.body;
    assert!(lever.contains("by ann: it is time") && lever.contains("value=\"off\""), "{lever}");
}
