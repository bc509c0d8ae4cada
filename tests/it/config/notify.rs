//! Notifiers, and who names them.

use lifeboat::{
    config::{SecretRef, notify::NotifierConfig},
    domain::NotifierName,
};

use super::{
    Written,
    rules::{D, S, assert_each},
};

/// What the documents show.
fn shown() -> String {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/notifications.md"));
    let block = text.split("```yaml\n").nth(1).unwrap();
    block.split("```").next().unwrap().to_owned()
}

#[test]
fn what_the_documents_show_is_right_and_its_paths_become_absolute() {
    let written = Written::examples();
    written.change(D, "api:", &format!("{}\napi:", shown()));
    written.change(S, "timezone:", "notify: [dba, oncall]\ntimezone:");
    let estate = written.load().unwrap_or_else(|problems| panic!("{problems}"));
    let kinds: Vec<&str> = estate.daemon.notify.values().map(NotifierConfig::kind).collect();
    assert_eq!(kinds, ["email", "slack", "webhook", "pagerduty"], "all kinds are shown");

    let relative =
        "notify: {hook: {kind: webhook, url: \"https://hooks.example/x\", secret: {file: hook.key}, ca_file: ca.pem}}";
    let written = Written::examples();
    written.change(D, "api:", &format!("{relative}\napi:"));
    let estate = written.load().unwrap();
    let folder = std::fs::canonicalize(written.path("")).unwrap();
    let [NotifierConfig::Webhook(hook)] = &estate.daemon.notify.values().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!(hook.secret, SecretRef::File(folder.join("hook.key")));
    assert_eq!(hook.ca_file, Some(folder.join("ca.pem")));
}

#[test]
fn who_is_told_of_which_maintenance() {
    let written = Written::examples();
    let slack = |name: &str| format!("  {name}: {{kind: slack, url: {{env: {name}}}}}\n");
    let names: String = ["dba", "audit", "office"].map(slack).concat();
    let entry = |rest: &str| format!("  - {{reason: disks, start: \"Sun 02:00\", end: \"Sun 04:00\"{rest}}}\n");
    let entries = entry("") + &entry(", databases: [other]") + &entry(", databases: [wallet], notify: [office, dba]");
    written.change(D, "api:", &format!("notify:\n{names}maintenance:\n{entries}api:"));
    written.change(S, "timezone:", "notify: [dba, audit]\ntimezone:");
    let windows = written.load().unwrap().windows();
    let told: Vec<Vec<&str>> =
        windows.iter().map(|window| window.told.keys().map(NotifierName::as_str).collect()).collect();
    assert_eq!(told, [vec!["audit", "dba"], vec![], vec!["audit", "dba", "office"]]);
    assert!(windows[0].scope.is_empty() && windows[2].scope[0].as_str() == "wallet");
    let [concerned] = &windows[2].told.values().next().unwrap()[..] else { panic!("{windows:?}") };
    assert_eq!((concerned.database.as_str(), concerned.timezone.as_str()), ("wallet", "Europe/Malta"));
}

#[test]
fn notifiers_that_are_none() {
    let with = |notifier: &str| format!("notify: {{dba: {notifier}}}\napi:");
    let mail = |rest: &str| with(&format!("{{kind: email, host: mail.example, from: a@b.example, {rest}}}"));
    let hook = |url: &str| with(&format!("{{kind: webhook, url: {url}, secret: {{env: HOOK}}}}"));
    let to = "to: [dba@b.example]";
    for (new, what, remedy) in [
        (with("{kind: ‸smoke}"), "`smoke`", "`slack`"),
        (with("‸{url: {env: X}}"), "`kind` is missing", "kind: webhook"),
        (with("{kind: slack, url: ‸https://hooks.slack.com/x}"), "reference to a secret", "{file: PATH}"),
        (with("{kind: slack, url: {command: [‸curl]}}"), "absolute path", "full path"),
        (with("‸{kind: pagerduty}"), "`routing_key` is missing", "routing_key"),
        (with("{kind: pagerduty, routing_key: {env: K}, url: ‸events.pagerduty.com}"), "post to", "https://HOST"),
        (hook("‸\"ftp://hooks.example/x\""), "not an address to post to", "https://HOST/PATH"),
        (hook("‸\"https://user:hunter2@hooks.example/x\""), "password stands", "signed"),
        (hook("‸\"http://hooks.example/x\""), "not encrypted", "this machine alone"),
        (hook("‸\"http://127.0.0.1.example/x\""), "not encrypted", "this machine alone"),
        (hook("‸\"https://hooks.example/a b\""), "not an address", "https://"),
        (mail("to: ‸[]"), "nobody gets this mail", "mailbox"),
        (mail("to: [‸dba]"), "`dba` is not a mailbox", "dba@example.com"),
        (mail("to: [‸\"DBA <dba@b.example>\"]"), "not a mailbox", "without a name"),
        (mail("to: [x@b.example, ‸x@b.example]"), "twice", "keep one"),
        (mail(&format!("{to}, ‸user: lifeboat")), "without `password`", "add `password`"),
        (mail(&format!("{to}, ‸password: {{env: P}}")), "without `user`", "add `user`"),
        (mail(&format!("{to}, tls: ‸none")), "in clear", "unencrypted_reason"),
        (mail(&format!("{to}, ‸unencrypted_reason: why")), "nothing crosses", "remove it"),
        (mail(&format!("{to}, tls: none, unencrypted_reason: why, ‸ca_file: x.pem")), "no certificate", "use TLS"),
        (mail(&format!("{to}, port: ‸0")), "out of range", "from 1"),
        ("notify: {‸DBA: {kind: slack, url: {env: X}}}\napi:".to_owned(), "notifier name", "a-z"),
    ] {
        assert_each(&[(&[(D, "api:", &new)], what, remedy)]);
    }
    let slack = "notify: {dba: {kind: slack, url: {env: X}}}\napi:";
    let maintenance = "maintenance: [{reason: x, start: \"Sun 02:00\", end: \"Sun 04:00\", notify: [‸dbas]}]";
    assert_each(&[
        (&[(S, "timezone:", "notify: [‸dba]\ntimezone:")], "notifier `dba` does not exist", "define a notifier"),
        (&[(D, "api:", slack), (S, "timezone:", "notify: [‸dbas]\ntimezone:")], "does not exist", "`dba`"),
        (&[(D, "api:", slack), (S, "timezone:", "notify: [dba, ‸dba]\ntimezone:")], "twice", "keep one"),
        (&[(D, "api:", &format!("{maintenance}\n{slack}"))], "notifier `dbas` does not exist", "did you mean `dba`?"),
    ]);
    // To this machine, and with a reason, mail may go in clear.
    for rest in ["tls: none, unencrypted_reason: the relay is on a line of its own", "tls: implicit"] {
        let written = Written::examples();
        written.change(D, "api:", &mail(&format!("{to}, {rest}")));
        written.load().unwrap_or_else(|problems| panic!("{problems}"));
    }
}
