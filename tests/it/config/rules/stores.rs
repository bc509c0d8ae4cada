//! Rules of where secrets are kept, and of who logs in with them.

use super::{D, S, assert_each};

#[test]
fn where_secrets_are_kept() {
    let file = "{file: /run/secrets/wallet}";
    let identity = "{file: /run/secrets/age.key}";
    let known = |how: &str| format!("secret_stores: {{vault: {{address: \"https://vault.example:8200\"{how}}}}}\napi:");
    let token = known(", token: {file: /t}");
    let user = "user: lifeboat";
    let referred = "user: {vault: database/creds/w, key: username}";
    assert_each(&[
        (
            &[(S, file, "{‸vault: secret/wallet, key: password}")],
            "nothing says where HashiCorp Vault is",
            "secret_stores",
        ),
        (&[(D, identity, "{‸vault: secret/w, key: identity}")], "nothing says where HashiCorp Vault is", "address"),
        (&[(S, file, "‸{vault: secret/wallet}"), (D, "api:", &token)], "the key `key` is missing", "add `key: …`"),
        (&[(S, file, "‸{secretsmanager: prod/wallet}")], "the key `region` is missing", "add `region: …`"),
        (&[(S, file, "{secretsmanager: a, region: eu-south-1, ‸kye: p}")], "unknown key `kye`", "did you mean `key`?"),
        (&[(S, file, "{‸secretmanager: a, region: eu-south-1}")], "unknown key", "did you mean `secretsmanager`?"),
        (&[(S, file, "{ssm: ‸\"\", region: eu-south-1}")], "an empty text says nothing", "write it"),
        (&[(S, file, "{ssm: /a, region: eu-south-1, ‸key: p}")], "unknown key `key`", "known here: `ssm`, `region`"),
        (
            &[(D, "api:", &known("").replace("vault: {", "vault: ‸{"))],
            "how it lets this node in",
            "add `token: {file: PATH}`",
        ),
        (
            &[(D, "api:", &known(", ‸token: {file: /t}, approle: {role_id: r, secret_id: {file: /s}}"))],
            "by `approle` already",
            "remove one",
        ),
        (&[(D, "api:", &known(", token: {‸vault: a, key: b}"))], "cannot be kept in it", "{file: PATH}"),
        (&[(D, "api:", &known(", token: ‸s.abc"))], "reference to a secret", "docs/secrets.md"),
        (&[(D, "api:", &known(", token: {command: [‸cat]}"))], "not an absolute path", "full path"),
        (&[(D, "api:", &token.replace("\"https://", "‸\"http://"))], "is not encrypted", "this machine alone"),
        (
            &[(D, "api:", &token.replace("\"https://", "‸\"vault://"))],
            "the address of a HashiCorp Vault",
            "https://HOST:8200",
        ),
        (&[(D, "api:", "aws: {endpoint: ‸\"ftp://x\"}\napi:")], "is not the address", "https://HOST"),
        (&[(D, "api:", "aws: {fips: ‸1}\napi:")], "true or false", "write `true`"),
        (
            &[(S, user, &format!("‸{referred}")), (D, "api:", &token)],
            "nothing says whose rights these users have",
            "add `member_of: ROLE`",
        ),
        (
            &[(S, user, &format!("{user}, ‸member_of: lifeboat"))],
            "the role that logs in is `user`",
            "remove `member_of`",
        ),
        (
            &[(S, user, &format!("{}, member_of: w", referred.replace("{vault", "{‸vault")))],
            "nothing says where HashiCorp Vault is",
            "secret_stores",
        ),
    ]);
}
