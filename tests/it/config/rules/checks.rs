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
