//! What we ourselves see in SQL that an operator wrote: where its statements end,
//! and where `:as_of` stands. Strings, quoted names and remarks are passed over as
//! PostgreSQL reads them (its manual, chapter 4.1).
//!
//! It must never replace anything inside of them, and judges nothing else: whether
//! the SQL is right, the server says.

use jiff::Timestamp;

/// The instant that a witness asks about stands here.
const AS_OF: &str = ":as_of";

/// The statements, without what separates them; remarks alone are none.
pub fn split(sql: &str) -> Vec<&str> {
    Scan::of(sql).statements
}

/// Whether `:as_of` stands anywhere.
pub fn names_as_of(sql: &str) -> bool {
    !Scan::of(sql).as_of.is_empty()
}

/// The same with an instant wherever `:as_of` stands; to the microsecond, which is
/// what the server keeps.
pub fn bound(sql: &str, as_of: Timestamp) -> String {
    let literal = format!("(timestamptz '{}+00')", as_of.strftime("%Y-%m-%d %H:%M:%S.%6f"));
    let (mut text, mut from) = (String::with_capacity(sql.len() + literal.len()), 0);
    for at in Scan::of(sql).as_of {
        text.push_str(sql.get(from..at).unwrap_or_default());
        text.push_str(&literal);
        from = at + AS_OF.len();
    }
    text.push_str(sql.get(from..).unwrap_or_default());
    text
}

#[derive(Debug, Default)]
struct Scan<'a> {
    statements: Vec<&'a str>,
    /// Where each `:as_of` begins, in bytes.
    as_of: Vec<usize>,
}

impl<'a> Scan<'a> {
    fn of(sql: &'a str) -> Self {
        let mut scan = Self::default();
        let (mut at, mut begun, mut has_content, mut depth) = (0, 0, false, 0_usize);
        while let Some(rest) = sql.get(at..).filter(|rest| !rest.is_empty()) {
            let blank = blank(rest);
            let length = if blank > 0 { blank } else { token(rest) };
            match rest.chars().next() {
                _ if blank > 0 => {}
                Some(';') if depth == 0 => {
                    scan.statements.extend(sql.get(begun..at).filter(|_| has_content).map(str::trim));
                    (begun, has_content) = (at + length, false);
                }
                first => {
                    has_content = true;
                    match first {
                        Some('(') => depth += 1,
                        Some(')') => depth = depth.saturating_sub(1),
                        Some(':') if rest.get(..length) == Some(AS_OF) => scan.as_of.push(at),
                        _ => {}
                    }
                }
            }
            at += length;
        }
        scan.statements.extend(sql.get(begun..).filter(|_| has_content).map(str::trim));
        scan
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$') || !c.is_ascii()
}

/// The bytes until a character that is none of these; all where there is no other.
fn run(text: &str, is_part: impl Fn(char) -> bool) -> usize {
    text.find(|c: char| !is_part(c)).unwrap_or(text.len())
}

/// How many bytes of blanks or of one remark it begins with.
fn blank(rest: &str) -> usize {
    if rest.starts_with("--") {
        return run(rest, |c| c != '\n');
    }
    if !rest.starts_with("/*") {
        return run(rest, char::is_whitespace);
    }
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(left) = rest.get(at..).filter(|left| !left.is_empty()) {
        at += match left {
            _ if left.starts_with("/*") => {
                depth += 1;
                2
            }
            _ if left.starts_with("*/") => {
                depth -= 1;
                2
            }
            _ => left.chars().next().map_or(1, char::len_utf8),
        };
        if depth == 0 {
            break;
        }
    }
    at
}

/// How many bytes the first token has.
fn token(rest: &str) -> usize {
    let first = rest.chars().next().unwrap_or(' ');
    match first {
        '\'' | '"' => quoted(rest, first, false),
        '$' => dollar_quoted(rest).unwrap_or(1),
        ':' if rest.starts_with("::") => 2,
        ':' if rest.strip_prefix(AS_OF).is_some_and(|after| !after.starts_with(is_name)) => AS_OF.len(),
        _ if is_name(first) => {
            let word = run(rest, is_name);
            let string = rest.get(word..).filter(|after| after.starts_with('\''));
            // `E'…'` has backslashes that escape.
            match (rest.get(..word), string) {
                (Some("e" | "E"), Some(string)) => word + quoted(string, '\'', true),
                _ => word,
            }
        }
        other => other.len_utf8(),
    }
}

/// With both quotes; a doubled one belongs to it. One that never ends is all there is.
fn quoted(rest: &str, quote: char, has_escapes: bool) -> usize {
    let mut inner = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = inner.next() {
        if c == '\\' && has_escapes {
            inner.next();
        } else if c == quote && inner.next_if(|(_, next)| *next == quote).is_none() {
            return at + quote.len_utf8();
        }
    }
    rest.len()
}

/// `$tag$ … $tag$`; none where it is no such string.
fn dollar_quoted(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('$')?;
    let tag = run(inner, |c| is_name(c) && c != '$');
    let is_tag = inner.get(tag..)?.starts_with('$') && !inner.starts_with(|c: char| c.is_ascii_digit());
    let tag = rest.get(..tag + 2).filter(|_| is_tag)?;
    let content = rest.get(tag.len()..)?;
    Some(content.find(tag).map_or(rest.len(), |end| tag.len() + end + tag.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_where_the_server_ends_them() {
        for (sql, statements) in [
            ("select 1", vec!["select 1"]),
            ("select 1;", vec!["select 1"]),
            ("set x = 1; select 2 ; -- done; or not\n", vec!["set x = 1", "select 2"]),
            ("select ';' ; select e'\\';' ; select ';'';'", vec!["select ';'", "select e'\\';'", "select ';'';'"]),
            ("select $$;$$; select $a$;$$;$a$", vec!["select $$;$$", "select $a$;$$;$a$"]),
            ("select \";\" /* ; /* ; */ ; */; select 2", vec!["select \";\" /* ; /* ; */ ; */", "select 2"]),
            (
                "create rule r as on insert to t do (a; b); select 1",
                vec!["create rule r as on insert to t do (a; b)", "select 1"],
            ),
            ("-- nothing\n;/* at all */;", vec![]),
            ("select 'never ends; ", vec!["select 'never ends;"]),
            ("select /* never ends; ", vec!["select /* never ends;"]),
            ("sélect 'ž'; ž", vec!["sélect 'ž'", "ž"]),
            ("", vec![]),
        ] {
            assert_eq!(split(sql), statements, "{sql}");
        }
    }

    #[test]
    fn an_instant_is_bound_where_it_is_named_and_nowhere_else() {
        let at: Timestamp = "2026-11-29T11:25:16.123456Z".parse().unwrap();
        let literal = "(timestamptz '2026-11-29 11:25:16.123456+00')";
        for (sql, is_bound) in [
            ("select count(*) from bets where placed < :as_of", true),
            ("select count(*) from bets where placed <:as_of::date", true),
            ("select ':as_of' where :as_of", true),
            ("select $q$ :as_of $q$, \":as_of\", e'\\':as_of' -- :as_of\n/* :as_of */", false),
            ("select placed::as_of", false),
            ("select :as_of_day", false),
            ("select : as_of", false),
        ] {
            assert_eq!(names_as_of(sql), is_bound, "{sql}");
            let text = bound(sql, at);
            assert_eq!(text.matches(literal).count(), usize::from(is_bound), "{text}");
            assert!(is_bound || text == sql, "{text}");
        }
        assert_eq!(bound("a :as_of b :as_of c", at), format!("a {literal} b {literal} c"));
        assert_eq!(bound("select ':as_of', :as_of", at), format!("select ':as_of', {literal}"));
    }
}
