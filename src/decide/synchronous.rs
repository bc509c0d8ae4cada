//! Whether commits wait for us: what the server's `synchronous_standby_names` says.
//!
//! What must never happen: a commit waits for us and is told as one that does
//! not; that nothing can be lost is said where a commit may be acknowledged
//! without us. The setting's grammar is PostgreSQL's (`syncrep_gram.y`); the
//! server has refused what does not follow it.

/// Whether commits wait for a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    Never,
    /// It is one of several, and enough of the others will do.
    Perhaps,
    /// No commit is acknowledged without it.
    Always,
}

/// What the setting makes of the standby with this `application_name`.
pub fn awaited(setting: &str, name: &str) -> Awaited {
    let Waiting { needed, names } = parse(setting);
    let is_any = names.iter().any(|listed| listed == "*");
    if !is_any && !names.iter().any(|listed| listed.eq_ignore_ascii_case(name)) {
        return Awaited::Never;
    }
    if is_any || needed < names.len() { Awaited::Perhaps } else { Awaited::Always }
}

/// How many of which standbys a commit waits for.
#[derive(Debug, PartialEq, Eq)]
struct Waiting {
    needed: usize,
    names: Vec<String>,
}

/// `a, b`, `2 (a, b)`, `FIRST 2 (a, b)` or `ANY 2 (a, b)`.
fn parse(setting: &str) -> Waiting {
    let words = words(setting);
    let Some(list) = words.iter().position(|word| *word == Word::List) else {
        return Waiting { needed: 1, names: names(&words) };
    };
    let (before, after) = words.split_at(list);
    let needed = names(before).last().and_then(|count| count.parse().ok()).unwrap_or(1);
    Waiting { needed, names: names(after) }
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Name(String),
    /// The list of names begins.
    List,
}

fn names(words: &[Word]) -> Vec<String> {
    let name = |word: &Word| match word {
        Word::Name(name) => Some(name.clone()),
        Word::List => None,
    };
    words.iter().filter_map(name).collect()
}

fn words(setting: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut chars = setting.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                let mut name = String::new();
                while let Some(c) = chars.next() {
                    // A quote in a name is written twice.
                    if c == '"' && chars.next_if_eq(&'"').is_none() {
                        break;
                    }
                    name.push(c);
                }
                words.push(Word::Name(name));
            }
            '(' => words.push(Word::List),
            ')' | ',' => {}
            c if c.is_whitespace() => {}
            c => {
                let mut name = String::from(c);
                while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !"(),\"".contains(*c)) {
                    name.push(c);
                }
                words.push(Word::Name(name));
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_surely_waits_only_where_all_that_are_listed_are_needed() {
        for (setting, expected) in [
            ("", Awaited::Never),
            ("standby", Awaited::Never),
            ("lifeboat2, \"life boat\"", Awaited::Never),
            ("lifeboat", Awaited::Always),
            ("  LifeBoat ", Awaited::Always),
            ("\"lifeboat\"", Awaited::Always),
            ("1 (lifeboat)", Awaited::Always),
            ("ANY 1 (lifeboat)", Awaited::Always),
            ("FIRST 2 (standby, lifeboat)", Awaited::Always),
            ("any 2(standby,\"lifeboat\")", Awaited::Always),
            ("3 (standby, lifeboat)", Awaited::Always),
            ("standby, lifeboat", Awaited::Perhaps),
            // Without us the standby will do.
            ("lifeboat, standby", Awaited::Perhaps),
            ("ANY 1 (standby, lifeboat)", Awaited::Perhaps),
            ("first 2 (a, lifeboat, \"b,\"\"(\")", Awaited::Perhaps),
            ("*", Awaited::Perhaps),
            ("FIRST 1 (\"*\")", Awaited::Perhaps),
        ] {
            assert_eq!(awaited(setting, "lifeboat"), expected, "{setting}");
        }
    }

    #[test]
    fn names_are_read_as_the_server_reads_them() {
        let waiting = parse(r#"ANY 2 ("a ""b"", c", d_1,e)"#);
        let names = [r#"a "b", c"#, "d_1", "e"].map(str::to_owned).to_vec();
        assert_eq!(waiting, Waiting { needed: 2, names });
        assert_eq!(parse("\"unended").names, ["unended"]);
    }
}
