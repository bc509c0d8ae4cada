//! Webhook, Slack and `PagerDuty`, before a receiver that keeps what it gets.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use lifeboat::{
    clock::Clock,
    notify::{Notify, PagerDuty, Slack, Webhook},
};
use sha2::Sha256;

use super::{known, notice, tells};
use crate::support::{
    free_port,
    receiver::{Answer, Post, Receiver},
};

const KEY: [u8; 32] = [7; 32];
const ROUTING_KEY: &str = "R0UT1NGKEY000000000000000000001";
const SLACK_PATH: &str = "/services/T000SECRET/B000/WORDSECRET";

fn webhook(url: &str) -> Webhook {
    let secret = known(&format!("whsec_{}", STANDARD.encode(KEY)));
    let clock = Clock::held_at("2026-12-25T01:00:05Z".parse().unwrap());
    Webhook { url: format!("{url}/hooks/lifeboat"), secret, ca_file: None, clock }
}

fn pagerduty(url: &str) -> PagerDuty {
    PagerDuty { routing_key: known(ROUTING_KEY), url: url.to_owned(), source: "lifeboat on mt-1".to_owned() }
}

/// All kinds over HTTP, posting to this receiver.
fn all(url: &str) -> [(&'static str, Arc<dyn Notify>); 3] {
    let slack = Slack { url: known(&format!("{url}{SLACK_PATH}\n")) };
    [("webhook", Arc::new(webhook(url))), ("slack", Arc::new(slack)), ("pagerduty", Arc::new(pagerduty(url)))]
}

/// As a receiver checks it, from the specification alone.
#[track_caller]
fn is_signed(post: &Post) {
    let signed = format!("{}.{}.{}", post.header("webhook-id"), post.header("webhook-timestamp"), post.body);
    let mut mac = Hmac::<Sha256>::new_from_slice(&KEY).unwrap();
    mac.update(signed.as_bytes());
    let signature = post.header("webhook-signature").strip_prefix("v1,").unwrap();
    mac.verify_slice(&STANDARD.decode(signature).unwrap()).unwrap();
}

#[tokio::test]
async fn a_webhook_is_signed_and_says_the_same_id_again() {
    let receiver = Receiver::start().await;
    let webhook = webhook(&receiver.url);
    webhook.send(&notice()).await.unwrap();
    webhook.clock.set("2026-12-25T01:07:00Z".parse().unwrap());
    webhook.send(&notice()).await.unwrap();
    let [first, again] = &receiver.posts()[..] else { panic!("two posts") };
    assert_eq!(first.path, "/hooks/lifeboat");
    for post in [first, again] {
        is_signed(post);
        let document = post.json();
        assert_eq!(document["type"], "maintenance.announced");
        assert_eq!(document["timestamp"], "2026-12-25T01:00:00Z");
        assert_eq!(document["data"]["id"], notice().id);
        assert_eq!(document["data"]["databases"], serde_json::json!(["wallet"]));
        assert_eq!(document["data"]["text"], notice().text);
        assert_eq!(document["data"]["details"]["stage"], "24h");
    }
    assert_eq!(first.header("webhook-id"), again.header("webhook-id"));
    assert_eq!(first.header("webhook-timestamp"), "1798160405");
    assert_ne!(first.header("webhook-signature"), again.header("webhook-signature"));
}

#[tokio::test]
async fn slack_gets_text_in_which_nothing_is_markup_but_the_title() {
    let receiver = Receiver::start().await;
    all(&receiver.url)[1].1.send(&notice()).await.unwrap();
    let post = &receiver.posts()[0];
    assert_eq!(post.path, SLACK_PATH);
    let text =
        "*Maintenance: wallet &lt;today&gt; &amp; tomorrow*\nReason: new disks\nWhat is held: ž &lt;!channel&gt;";
    assert_eq!(post.json(), serde_json::json!({"text": text}));
}

#[tokio::test]
async fn pagerduty_gets_a_change_event_that_wakes_nobody() {
    let receiver = Receiver::start().await;
    receiver.answer(&[(202, None, r#"{"status": "success"}"#)]);
    pagerduty(&format!("{}/", receiver.url)).send(&notice()).await.unwrap();
    let post = &receiver.posts()[0];
    assert_eq!(post.path, "/v2/change/enqueue");
    let event = post.json();
    assert_eq!(event["routing_key"], ROUTING_KEY);
    assert_eq!(event["payload"]["summary"], notice().title);
    assert_eq!(event["payload"]["source"], "lifeboat on mt-1");
    assert_eq!(event["payload"]["timestamp"], "2026-12-25T01:00:00Z");
    assert_eq!(event["payload"]["custom_details"]["id"], notice().id);
    assert!(event.get("event_action").is_none(), "that would be an alert");
}

#[tokio::test]
async fn what_passes_is_told_from_what_a_person_must_mend() {
    let receiver = Receiver::start().await;
    let echo = "Cannot POST /services/T000SECRET/B000/WORDSECRET R0UT1NGKEY000000000000000000001";
    let cases: &[(Answer, bool, Option<u64>)] = &[
        ((500, None, echo), false, None),
        ((503, Some(7), ""), false, Some(7)),
        ((429, Some(30), "rate_limited"), false, Some(30)),
        ((429, Some(86_400), ""), false, Some(3600)),
        ((408, None, ""), false, None),
        ((400, None, echo), true, None),
        ((403, None, "action_prohibited"), true, None),
        ((404, None, echo), true, None),
        ((410, None, "channel_is_archived"), true, None),
        // Nobody follows it.
        ((302, None, ""), true, None),
    ];
    for (answer, is_permanent, retry_after) in cases {
        for (kind, notifier) in all(&receiver.url) {
            receiver.answer(&[*answer]);
            let error = notifier.send(&notice()).await.unwrap_err();
            assert_eq!(error.is_permanent(), *is_permanent, "{kind} {answer:?}");
            assert_eq!(error.retry_after(), retry_after.map(Duration::from_secs), "{kind} {answer:?}");
            let status = answer.0.to_string();
            tells(&error, &["127.0.0.1 answered", &status], &["SECRET", ROUTING_KEY, &STANDARD.encode(KEY)]);
        }
    }
    receiver.answer(&[(410, None, "channel_is_archived")]);
    tells(
        &all(&receiver.url)[1].1.send(&notice()).await.unwrap_err(),
        &["(channel_is_archived)", "make a new one"],
        &[],
    );
    receiver.answer(&[(400, None, r#"{"errors": ["Length of 'routing_key' is incorrect"]}"#)]);
    let error = pagerduty(&receiver.url).send(&notice()).await.unwrap_err();
    tells(&error, &["Length of 'routing_key' is incorrect", "Events API v2"], &[ROUTING_KEY]);
}

#[tokio::test]
async fn who_is_away_is_named_by_the_host_alone() {
    let away = format!("http://127.0.0.1:{}", free_port());
    for (kind, notifier) in all(&away) {
        for outcome in [notifier.send(&notice()).await, notifier.probe().await] {
            let error = outcome.unwrap_err();
            assert!(!error.is_permanent(), "{kind}");
            tells(&error, &["127.0.0.1 cannot be reached", "refused"], &["SECRET", "/services", ROUTING_KEY]);
        }
    }
    let receiver = Receiver::start().await;
    for (kind, notifier) in all(&receiver.url) {
        notifier.probe().await.unwrap_or_else(|error| panic!("{kind}: {error}"));
    }
    assert!(receiver.posts().is_empty(), "nobody was told anything");
}

#[tokio::test]
async fn secrets_that_are_none_are_refused_without_being_shown() {
    let no_key = Webhook { secret: known("hunter2"), ..webhook("http://127.0.0.1:1") };
    let in_clear = Slack { url: known("http://hooks.example/services/hunter2") };
    let no_address = Slack { url: known("hunter2") };
    let notifiers: [&dyn Notify; 3] = [&no_key, &in_clear, &no_address];
    for notifier in notifiers {
        for outcome in [notifier.send(&notice()).await, notifier.probe().await] {
            let error = outcome.unwrap_err();
            assert!(error.is_permanent());
            tells(&error, &["refers to"], &["hunter2"]);
        }
    }
}
