//! Rules of notifiers, and of who names them.

use std::net::IpAddr;

use super::{Report, Spot, known};

/// The notifiers of `lifeboat.yaml`, and who maintenance is announced to.
pub(super) fn daemon(root: Spot<'_>, report: &mut Report<'_>) {
    for (_, _, notifier) in root.get("notify").pairs() {
        for (_, _, value) in notifier.pairs() {
            report.secret(root, value); // Of those that are secrets.
        }
        if notifier.get("kind").text() == Some("email") {
            email(notifier, report);
        }
    }
    for maintenance in root.get("maintenance").items() {
        names(root, maintenance.get("notify"), report);
    }
}

/// Those that a schedule or a maintenance names.
pub(super) fn names(daemon: Spot<'_>, named: Spot<'_>, report: &mut Report<'_>) {
    report.refuse_twins(named);
    let defined = daemon.get("notify");
    if !daemon.exists() {
        return; // What is defined is not known.
    }
    for notifier in named.items() {
        let Some(name) = notifier.text() else { continue };
        if !defined.pairs().any(|(defined, _, _)| defined == name) {
            let remedy =
                known(defined.pairs().map(|(name, _, _)| name), name, "notifier under `notify` in lifeboat.yaml");
            report.add(notifier.place, format!("the notifier `{name}` does not exist"), remedy);
        }
    }
}

fn email(email: Spot<'_>, report: &mut Report<'_>) {
    for (one, other) in [("user", "password"), ("password", "user")] {
        if email.get(one).exists() && !email.get(other).exists() {
            let what = format!("`{one}` is of no use without `{other}`");
            report.add(email.key(one), what, format!("add `{other}`, or remove `{one}`"));
        }
    }
    let to = email.get("to");
    if to.is_empty() {
        report.add(to.place, "nobody gets this mail", "name at least one mailbox");
    }
    report.refuse_twins(to);
    let is_clear = email.get("tls").text() == Some("none");
    let is_explained = email.get("unencrypted_reason").exists();
    let is_here = email.get("host").text().is_none_or(is_loopback);
    if is_clear && !is_here && !is_explained {
        report.add(
            email.get("tls").place,
            "mail, and the password where there is one, would cross the network in clear",
            "use `tls: starttls` or `tls: implicit`, or say why not in `unencrypted_reason`",
        );
    }
    if is_explained && (!is_clear || is_here) {
        report.add(email.key("unencrypted_reason"), "nothing crosses the network in clear", "remove it");
    }
    if is_clear && email.get("ca_file").exists() {
        report.add(email.key("ca_file"), "without TLS no certificate is shown", "remove `ca_file`, or use TLS");
    }
}

/// Whether this names this machine and no other.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
