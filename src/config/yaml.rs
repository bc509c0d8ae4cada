//! YAML as a tree in which every key and value knows its place.
//!
//! Scalars stay the text that was written, with a note whether it was quoted:
//! what `NO`, `1.10` or `0x1F` means is decided by the schema of the place it
//! stands in, never guessed here. What makes a file mean other than it looks
//! (anchors, aliases, tags, duplicate keys, several documents) is a problem.

use std::path::Path;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::problem::{Place, Problems};

/// One value and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing was written, or `null` or `~`.
    Null,
    Scalar {
        text: String,
        quoted: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) value: Node,
}

impl Content {
    /// For messages: what stands there.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Scalar { text, .. } => format!("`{}`", shortened(text)),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// The beginning of a text, on one line, for messages.
pub(super) fn shortened(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect();
    if text.chars().count() > 60 { format!("{line}…") } else { line }
}

/// Reads the one document of a file. None when nothing of it can be used; what
/// is wrong with it is then among the problems.
pub(super) fn parse(text: &str, file: &Path, problems: &mut Problems) -> Option<Node> {
    let mut builder = Builder { file, problems, open: Vec::new(), root: None, documents: 0 };
    let options = granit_parser::options! { emit_anchor_events: true };
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => builder.take(event, &span),
            Err(error) => {
                builder.syntax(&error, text);
                return None;
            }
        }
    }
    let root = builder.root;
    if root.as_ref().is_none_or(|root| root.content == Content::Null) {
        problems.add(file, Place::START, "the file is empty", "write it, or remove it");
        return None;
    }
    root
}

fn place(marker: &Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1 }
}

/// A collection whose end has not been seen.
enum Open {
    List(Place, Vec<Node>),
    /// The entries, and the key that waits for its value.
    Map(Place, Vec<Entry>, Option<(String, Place)>),
}

struct Builder<'a> {
    file: &'a Path,
    problems: &'a mut Problems,
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
}

impl Builder<'_> {
    fn problem(&mut self, place: Place, what: impl Into<String>, remedy: &str) {
        self.problems.add(self.file, place, what, remedy);
    }

    fn syntax(&mut self, error: &ScanError, text: &str) {
        let at = place(error.marker());
        let line = text.lines().nth(at.line - 1).unwrap_or_default();
        let indented_by_tab = line.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t');
        if indented_by_tab {
            self.problem(at, "a tab indents this line", "indent with spaces; YAML allows no tabs there");
        } else {
            self.problem(at, format!("this is not YAML ({})", error.info()), "correct the line, or the one before it");
        }
    }

    fn take(&mut self, event: Event<'_>, span: &Span) {
        let at = place(&span.start);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents == 2 {
                    self.problem(at, "a second document begins here", "keep one document per file");
                }
            }
            Event::Alias(_) => {
                self.problem(at, "aliases are not allowed", "write the value out");
                self.value(Node { place: at, content: Content::Null });
            }
            Event::Anchor(..) => {
                self.problem(
                    at,
                    "anchors are not allowed",
                    "remove the `&name`, and write the value out where it is used",
                );
            }
            Event::Scalar(text, style, _, tag) => {
                self.refuse_tag(span, tag.is_some());
                let quoted = style != ScalarStyle::Plain;
                let null = !quoted && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let content = if null { Content::Null } else { Content::Scalar { text: text.into_owned(), quoted } };
                self.value(Node { place: at, content });
            }
            Event::SequenceStart(_, _, tag) => {
                self.refuse_tag(span, tag.is_some());
                self.open.push(Open::List(at, Vec::new()));
            }
            Event::MappingStart(_, _, tag) => {
                self.refuse_tag(span, tag.is_some());
                self.open.push(Open::Map(at, Vec::new(), None));
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(place, items)) => self.value(Node { place, content: Content::List(items) }),
                Some(Open::Map(place, entries, _)) => self.value(Node { place, content: Content::Map(entries) }),
                None => {}
            },
            _ => {}
        }
    }

    fn refuse_tag(&mut self, span: &Span, tagged: bool) {
        if tagged {
            let at = span.tag_span().map_or(span.start, |tag| tag.start);
            self.problem(place(&at), "tags are not allowed", "remove the `!tag`");
        }
    }

    /// A finished value goes into the collection that is open, as a key or a value.
    fn value(&mut self, node: Node) {
        let Some(Open::Map(_, entries, waiting)) = self.open.last_mut() else {
            match self.open.last_mut() {
                Some(Open::List(_, items)) => items.push(node),
                _ if self.documents == 1 => self.root = Some(node),
                _ => {}
            }
            return;
        };
        if let Some((key, key_place)) = waiting.take() {
            // Nothing has no place of its own: its key is shown.
            let place = if node.content == Content::Null { key_place } else { node.place };
            entries.push(Entry { key, key_place, value: Node { place, ..node } });
            return;
        }
        let key = match node.content {
            Content::Scalar { text, .. } => text,
            Content::Null | Content::List(_) | Content::Map(_) => String::new(),
        };
        let first = entries.iter().find(|entry| entry.key == key).map(|entry| entry.key_place.line);
        *waiting = Some((key.clone(), node.place));
        if key.is_empty() {
            self.problem(node.place, "a key is a plain text", "write `key: value`");
        } else if let Some(line) = first {
            let what = format!("the key `{}` stands here again (first on line {line})", shortened(&key));
            self.problem(node.place, what, "keep one of the two");
        }
    }
}

/// A way through a tree: looks things up by key and keeps the nearest place for
/// what is absent, so that every rule can point somewhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot<'a> {
    node: Option<&'a Node>,
    pub(super) place: Place,
}

impl<'a> Spot<'a> {
    pub(super) fn of(node: Option<&'a Node>) -> Self {
        Self { node, place: node.map_or(Place::START, |node| node.place) }
    }

    pub(super) fn exists(self) -> bool {
        self.node.is_some_and(|node| node.content != Content::Null)
    }

    /// Whether `[]` or `{}` is written here.
    pub(super) fn is_empty(self) -> bool {
        match self.node.map(|node| &node.content) {
            Some(Content::List(items)) => items.is_empty(),
            Some(Content::Map(entries)) => entries.is_empty(),
            _ => false,
        }
    }

    fn entries(self) -> &'a [Entry] {
        match self.node.map(|node| &node.content) {
            Some(Content::Map(entries)) => entries,
            _ => &[],
        }
    }

    pub(super) fn get(self, key: &str) -> Self {
        match self.entries().iter().find(|entry| entry.key == key) {
            Some(entry) => Self { node: Some(&entry.value), place: entry.value.place },
            None => Self { node: None, place: self.place },
        }
    }

    /// Where the key itself stands.
    pub(super) fn key(self, key: &str) -> Place {
        self.entries().iter().find(|entry| entry.key == key).map_or(self.place, |entry| entry.key_place)
    }

    /// Keys with their places and values.
    pub(super) fn pairs(self) -> impl Iterator<Item = (&'a str, Place, Self)> {
        self.entries().iter().map(|entry| (entry.key.as_str(), entry.key_place, Self::of(Some(&entry.value))))
    }

    pub(super) fn items(self) -> impl Iterator<Item = Self> {
        let items = match self.node.map(|node| &node.content) {
            Some(Content::List(items)) => items.as_slice(),
            _ => &[],
        };
        items.iter().map(|item| Self::of(Some(item)))
    }

    pub(super) fn text(self) -> Option<&'a str> {
        match self.node.map(|node| &node.content) {
            Some(Content::Scalar { text, .. }) => Some(text),
            _ => None,
        }
    }

    /// The value, when it is one; that it is none is the schema's to say.
    pub(super) fn parsed<T: std::str::FromStr>(self) -> Option<T> {
        self.text()?.parse().ok()
    }
}
