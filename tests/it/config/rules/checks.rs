//! What a restore test asks of the copy.

use super::*;

#[test]
fn checks_of_a_restored_copy() {
    assert_each(&[
        (&[(S, ", expect: \"0.00\"}", "}"), (S, "- {sql", "- ‸{sql")], "what the answer is to be", "zero_rows: true"),
        (&[(S, "expect: \"0.00\"}", "expect: \"0.00\", ‸min: 1}")], "both `expect` and `min`", "only `min` and `max`"),
        (&[(S, "expect: \"0.00\"}", "‸min: 2, max: 1.99}")], "`min` is above `max`", "exchange"),
        (&[(S, "expect: \"0.00\"}", "min: ‸many}")], "`many` is not a number", "such as `1000`"),
        (&[(S, "expect: \"0.00\"}", "max: ‸1e9999}")], "`1e9999` is not a number", "write digits"),
        (&[(S, "- heartbeat", "- {row_counts: ‸{}, dbname: wallet}")], "no table is named", "{bets: 1000}"),
        (
            &[(S, "- heartbeat", "- {row_counts: {‸bets: 0}, dbname: wallet}")],
            "at least 0 rows",
            "how many rows `bets`",
        ),
        (&[(S, "- heartbeat", "- {sql: ‸[a], dbname: wallet, zero_rows: true}")], "a text belongs", "write one"),
        (&[(S, "- heartbeat", "- {sql: {‸fle: a}, dbname: wallet, zero_rows: true}")], "unknown key `fle`", "`file`"),
    ]);
}

#[test]
fn witnesses() {
    let with = |check: &str| format!("- heartbeat\n    - {check}");
    let sql = "\"select count(*) from bets where placed < :as_of\"";
    let whole = |more: &str| with(&format!("{{witness: {sql}, dbname: wallet{more}}}"));
    let other = |sql: &str| with(&format!("{{witness: ‸\"{sql}\", dbname: wallet, every: 15m}}"));
    assert_each(&[
        (&[(S, "- heartbeat", &whole("").replace("{witness", "‸{witness"))], "`every` is missing", "How often"),
        (&[(S, "- heartbeat", &whole(", every: ‸59s"))], "at most every 1m", "less often"),
        (&[(S, "- heartbeat", &whole(", every: ‸often"))], "`often` is not a duration", "such as"),
        (&[(S, "- heartbeat", &whole(", every: 15m, settle: ‸0s"))], "`settle` is zero", "such as `1m`"),
        (&[(S, "- heartbeat", &whole(", every: 15m, ‸public: true"))], "unknown key `public`", "known here"),
        (&[(S, "- heartbeat", &other("select 1"))], "does not name `:as_of`", "where placed < :as_of"),
        (&[(S, "- heartbeat", &other("select ':as_of'"))], "does not name `:as_of`", "such as"),
        (&[(S, "- heartbeat", &other("select :as_of; drop table bets"))], "not one statement", "write one"),
        (&[(S, "- heartbeat", &other("-- :as_of"))], "not one statement", "write one"),
        (&[(S, "- heartbeat", &other(" "))], "an empty text", "write it"),
        (&[(S, "- heartbeat", &with("‸restored_confg"))], "`restored_confg`", "did you mean `restored_config`?"),
    ]);
}
