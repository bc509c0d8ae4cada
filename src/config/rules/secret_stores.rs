//! Rules of the stores that keep secrets.

use super::{Report, Spot};

pub(super) fn check(root: Spot<'_>, report: &mut Report<'_>) {
    let vault = root.get("secret_stores").get("vault");
    if !vault.exists() {
        return;
    }
    let (token, approle) = (vault.get("token"), vault.get("approle"));
    match (token.exists(), approle.exists()) {
        (false, false) => report.add(
            vault.place,
            "nothing says how it lets this node in",
            "add `token: {file: PATH}`, or `approle: {role_id: …, secret_id: {file: PATH}}`",
        ),
        (true, true) => {
            report.add(vault.key("token"), "it lets this node in by `approle` already", "remove one of the two");
        }
        _ => {}
    }
    for secret in [token, approle.get("secret_id")] {
        report.secret(root, secret);
        if secret.get("vault").exists() {
            report.add(
                secret.key("vault"),
                "what lets this node in to it cannot be kept in it",
                "keep it elsewhere, such as `{file: PATH}`",
            );
        }
    }
}
