//! Holds a file's tree against the JSON Schema that is derived from the types,
//! so that every unknown key, missing key and wrong value is found at its
//! place, not only the first. What it lets through is the file as a JSON value
//! that the types can read.
//!
//! Knows exactly the shapes that the schema derivation makes of the types
//! beside it: objects, maps, lists, scalars, options, and enums told apart by
//! `kind`, by their only key, or by their first one.

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    leaf,
    problem::{Place, Problems},
    vocabulary::{self, Document},
    yaml::{Content, Entry, Node, shortened},
};

/// Walks one file.
pub(super) struct Walk<'a> {
    pub(super) document: Document,
    pub(super) schema: &'a Value,
    pub(super) file: &'a Path,
    pub(super) problems: &'a mut Problems,
}

/// A place in the schema, all references followed.
#[derive(Clone, Copy)]
struct Shape<'s> {
    schema: &'s Value,
    /// The name of the type, when it has one.
    name: Option<&'s str>,
}

impl<'a> Walk<'a> {
    /// The value that was written; None when a problem was found in it.
    pub(super) fn run(mut self, root: &Node) -> Option<Value> {
        let shape = self.resolve(self.schema);
        self.value(shape, root, "")
    }

    fn problem(&mut self, place: Place, what: impl Into<String>, remedy: impl Into<String>) {
        self.problems.add(self.file, place, what, remedy);
    }

    fn resolve(&self, schema: &'a Value) -> Shape<'a> {
        let name = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
        match name.and_then(|name| self.schema.get("$defs")?.get(name)) {
            Some(definition) => Shape { schema: definition, name },
            None => Shape { schema, name: schema.get("format").and_then(Value::as_str) },
        }
    }

    fn value(&mut self, shape: Shape<'a>, node: &Node, path: &str) -> Option<Value> {
        if node.content == Content::Null {
            self.problem(node.place, "no value is written here", "write one, or remove the key");
            return None;
        }
        if shape.name == Some("SecretRef") && matches!(node.content, Content::Scalar { .. }) {
            // What was written is not shown: it may well be the secret.
            let remedy = "write where it is found: `{file: PATH}`, `{env: NAME}` or `{command: [argv]}`, or in which \
                          store (`docs/secrets.md`), and replace the secret if this was it";
            self.problem(node.place, "a text stands where a reference to a secret belongs", remedy);
            return None;
        }
        // What may be absent is marked by a null variant; nobody needs to write it.
        let variants: Vec<Shape<'a>> = ["anyOf", "oneOf"]
            .iter()
            .filter_map(|key| shape.schema.get(*key)?.as_array())
            .flatten()
            .map(|variant| self.resolve(variant))
            .filter(|variant| type_of(*variant) != Some("null"))
            .collect();
        match variants.as_slice() {
            [] => self.plain(shape, node, path),
            [only] if shape.schema.get("anyOf").is_some() => self.value(*only, node, path),
            _ => self.choice(&self.mappings_apart(variants), node, path),
        }
    }

    /// The same where one of the variants is itself a choice of mappings.
    fn mappings_apart(&self, variants: Vec<Shape<'a>>) -> Vec<Shape<'a>> {
        let mut apart = Vec::new();
        for variant in variants {
            let inner: Vec<_> = variant.schema.get("anyOf").and_then(Value::as_array).into_iter().flatten().collect();
            let inner: Vec<_> = inner.into_iter().map(|inner| self.resolve(inner)).collect();
            let are_mappings = !inner.is_empty() && inner.iter().all(|inner| type_of(*inner) == Some("object"));
            if are_mappings { apart.extend(inner) } else { apart.push(variant) }
        }
        apart
    }

    /// One of several shapes.
    fn choice(&mut self, variants: &[Shape<'a>], node: &Node, path: &str) -> Option<Value> {
        let objects: Vec<_> = variants.iter().copied().filter(|variant| type_of(*variant) == Some("object")).collect();
        match &node.content {
            Content::Map(entries) if !objects.is_empty() => {
                let shape = self.variant_of(&objects, entries, node.place, path)?;
                self.value(shape, node, path)
            }
            _ if objects.len() == variants.len() => self.mismatch(node, "a mapping", &first_keys(&objects)),
            _ => {
                let mut words = Vec::new();
                self.collect_words(variants, &mut words);
                match variants.iter().find(|variant| words.is_empty() && type_of(**variant) == Some("string")) {
                    Some(text) => self.plain(*text, node, path),
                    None => self.word(&words, node, path),
                }
            }
        }
    }

    /// Which of several mappings is meant: by `kind`, or by the first key.
    fn variant_of(&mut self, objects: &[Shape<'a>], entries: &[Entry], at: Place, path: &str) -> Option<Shape<'a>> {
        let kinds: Vec<_> = objects.iter().filter_map(|object| Some((const_kind(*object)?, *object))).collect();
        if kinds.len() == objects.len() {
            let words: Vec<&str> = kinds.iter().map(|(kind, _)| *kind).collect();
            let Some(entry) = entries.iter().find(|entry| entry.key == "kind") else {
                self.problem(at, "the key `kind` is missing", format!("write `kind: {}`", words.join("` or `kind: ")));
                return None;
            };
            let kind = self.value_word(&words, &entry.value, &format!("{path}/kind"))?;
            return kinds.into_iter().find(|(name, _)| *name == kind).map(|(_, object)| object);
        }
        let chosen =
            objects.iter().find(|object| first_key(**object).is_some_and(|key| entries.iter().any(|e| e.key == key)));
        if let Some(chosen) = chosen {
            return Some(*chosen);
        }
        let keys = first_keys(objects);
        let unbuilt =
            entries.iter().find_map(|e| Some((e.key_place, vocabulary::unbuilt_key(self.document, path, &e.key)?)));
        if let Some((place, unbuilt)) = unbuilt {
            self.problem(place, unbuilt.what(), unbuilt.remedy);
        } else if let Some(first) = entries.first() {
            let candidates: Vec<&str> = objects.iter().filter_map(|object| first_key(*object)).collect();
            self.unknown_key(first, &candidates);
        } else {
            self.problem(at, "nothing is chosen here", keys);
        }
        None
    }

    /// The texts that an enum allows, through nested enums.
    fn collect_words(&self, variants: &[Shape<'a>], words: &mut Vec<&'a str>) {
        for variant in variants {
            words.extend(variant.schema.get("const").and_then(Value::as_str));
            for key in ["enum", "oneOf", "anyOf"] {
                for item in variant.schema.get(key).and_then(Value::as_array).into_iter().flatten() {
                    match item.as_str() {
                        Some(word) => words.push(word),
                        None => self.collect_words(&[self.resolve(item)], words),
                    }
                }
            }
        }
    }

    fn value_word<'w>(&mut self, words: &[&'w str], node: &Node, path: &str) -> Option<&'w str> {
        if let Content::Scalar { text, .. } = &node.content
            && let Some(unbuilt) = vocabulary::unbuilt_value(self.document, path, text)
        {
            self.problem(node.place, unbuilt.what(), unbuilt.remedy);
            return None;
        }
        let text = match &node.content {
            Content::Scalar { text, .. } => text.as_str(),
            _ => "",
        };
        if let Some(word) = words.iter().find(|word| **word == text) {
            return Some(word);
        }
        let remedy = match nearest(text, words) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write one of {}", listed(words)),
        };
        self.problem(node.place, format!("{} is not allowed here", node.content.describe()), remedy);
        None
    }

    fn word(&mut self, words: &[&str], node: &Node, path: &str) -> Option<Value> {
        self.value_word(words, node, path).map(Value::from)
    }

    fn plain(&mut self, shape: Shape<'a>, node: &Node, path: &str) -> Option<Value> {
        let mut words = Vec::new();
        self.collect_words(&[shape], &mut words);
        if !words.is_empty() {
            return self.word(&words, node, path);
        }
        match (type_of(shape), &node.content) {
            (Some("object"), Content::Map(entries)) => self.object(shape, entries, node.place, path),
            (Some("object"), _) => self.mismatch(node, "a mapping", "write `key: value` lines"),
            (Some("array"), Content::List(items)) => self.list(shape, items, path),
            (Some("array"), _) => self.mismatch(node, "a list", "write `[…]`, or lines that begin with `- `"),
            (Some("string"), Content::Scalar { text, .. }) => self.text(shape, text, node.place),
            (Some("string"), _) => self.mismatch(node, "a text", "write one, in quotes if need be"),
            (Some("boolean"), Content::Scalar { text, quoted: false }) if matches!(text.as_str(), "true" | "false") => {
                Some(Value::from(text == "true"))
            }
            (Some("boolean"), _) => self.mismatch(node, "true or false", "write `true` or `false`"),
            (Some("integer"), Content::Scalar { text, quoted: false }) if text.parse::<u64>().is_ok() => {
                self.number(shape, text, node)
            }
            (Some("integer"), _) => self.mismatch(node, "a number", "write digits only, without quotes"),
            (Some("number"), Content::Scalar { text, quoted: false }) if is_decimal(text) => {
                text.parse::<f64>().ok().map(Value::from)
            }
            (Some("number"), _) => {
                self.mismatch(node, "a number", "write digits, and a point if need be, without quotes")
            }
            // The types have no other shapes; the types themselves will refuse what comes here.
            _ => Some(Value::Null),
        }
    }

    fn mismatch(&mut self, node: &Node, wanted: &str, remedy: &str) -> Option<Value> {
        self.problem(node.place, format!("{} stands where {wanted} belongs", node.content.describe()), remedy);
        None
    }

    fn text(&mut self, shape: Shape<'a>, text: &str, place: Place) -> Option<Value> {
        match leaf::refuse(shape.name.unwrap_or_default(), text) {
            None => Some(Value::from(text)),
            Some((what, remedy)) => {
                self.problem(place, what, remedy);
                None
            }
        }
    }

    fn number(&mut self, shape: Shape<'a>, text: &str, node: &Node) -> Option<Value> {
        let number: u64 = text.parse().ok()?;
        let least = shape.schema.get("minimum").and_then(Value::as_u64).unwrap_or(0);
        let most = shape.schema.get("maximum").and_then(Value::as_u64).unwrap_or(u64::from(u32::MAX));
        if (least..=most).contains(&number) {
            return Some(Value::from(number));
        }
        self.problem(node.place, format!("{number} is out of range"), format!("write a number from {least} to {most}"));
        None
    }

    fn list(&mut self, shape: Shape<'a>, items: &[Node], path: &str) -> Option<Value> {
        let shape = self.resolve(shape.schema.get("items")?);
        let path = format!("{path}/*");
        let values: Vec<_> = items.iter().map(|item| self.value(shape, item, &path)).collect();
        values.into_iter().collect::<Option<Vec<_>>>().map(Value::from)
    }

    fn object(&mut self, shape: Shape<'a>, entries: &[Entry], at: Place, path: &str) -> Option<Value> {
        let properties = shape.schema.get("properties").and_then(Value::as_object);
        let others = shape.schema.get("additionalProperties").filter(|others| others.is_object());
        let names = shape.schema.get("propertyNames").map(|names| self.resolve(names));
        let mut object = Some(Map::new());
        for entry in entries {
            let value = match (properties.and_then(|properties| properties.get(&entry.key)), others) {
                (Some(schema), _) => self.value(self.resolve(schema), &entry.value, &format!("{path}/{}", entry.key)),
                (None, Some(schema)) => {
                    let well_named = self.name(names, entry);
                    self.value(self.resolve(schema), &entry.value, &format!("{path}/*")).filter(|_| well_named)
                }
                (None, None) => {
                    self.refuse_key(properties, entry, path);
                    None
                }
            };
            object = object.zip(value).map(|(mut object, value)| {
                object.insert(entry.key.clone(), value);
                object
            });
        }
        let complete = self.nothing_missing(shape, entries, at);
        object.filter(|_| complete).map(Value::Object)
    }

    /// Whether the key of a map is what its values are named by.
    fn name(&mut self, names: Option<Shape<'a>>, entry: &Entry) -> bool {
        let Some(names) = names else { return true };
        let mut words = Vec::new();
        self.collect_words(&[names], &mut words);
        if !words.is_empty() {
            if !words.contains(&entry.key.as_str()) {
                self.unknown_key(entry, &words);
            }
            return words.contains(&entry.key.as_str());
        }
        match leaf::refuse(names.name.unwrap_or_default(), &entry.key) {
            None => true,
            Some((what, remedy)) => {
                self.problem(entry.key_place, what, remedy);
                false
            }
        }
    }

    fn nothing_missing(&mut self, shape: Shape<'a>, entries: &[Entry], at: Place) -> bool {
        let required = shape.schema.get("required").and_then(Value::as_array).into_iter().flatten();
        let missing: Vec<&str> =
            required.filter_map(Value::as_str).filter(|key| !entries.iter().any(|entry| entry.key == *key)).collect();
        // A misspelt key is reported once, as what it is; `rto` is no misspelt `rpo`.
        let is_known = |key: &str| shape.schema.get("properties").is_some_and(|known| known.get(key).is_some());
        let is_meant = |entry: &Entry, key: &str| !is_known(&entry.key) && nearest(&entry.key, &[key]).is_some();
        let misspelt = |key: &&&str| entries.iter().any(|entry| is_meant(entry, key));
        for key in missing.iter().filter(|key| !misspelt(key)) {
            let meaning =
                shape.schema.get("properties").and_then(|all| all.get(*key)).and_then(|one| one.get("description"));
            let remedy = match meaning.and_then(Value::as_str) {
                Some(meaning) => format!("add `{key}: …` ({})", first_sentence(meaning)),
                None => format!("add `{key}: …`"),
            };
            self.problem(at, format!("the key `{key}` is missing"), remedy);
        }
        missing.is_empty()
    }

    fn refuse_key(&mut self, properties: Option<&'a Map<String, Value>>, entry: &Entry, path: &str) {
        if let Some(unbuilt) = vocabulary::unbuilt_key(self.document, path, &entry.key) {
            self.problem(entry.key_place, unbuilt.what(), unbuilt.remedy);
        } else {
            let keys: Vec<&str> = properties.into_iter().flat_map(Map::keys).map(String::as_str).collect();
            self.unknown_key(entry, &keys);
        }
    }

    fn unknown_key(&mut self, entry: &Entry, known: &[&str]) {
        let remedy = match nearest(&entry.key, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "remove it".to_owned(),
            None => format!("known here: {}", listed(known)),
        };
        self.problem(entry.key_place, format!("unknown key `{}`", shortened(&entry.key)), remedy);
    }
}

/// Digits with one point at most: neither an exponent nor what is no number.
fn is_decimal(text: &str) -> bool {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    [whole, part].iter().all(|digits| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()))
}

fn type_of(shape: Shape<'_>) -> Option<&str> {
    match shape.schema.get("type")? {
        Value::String(name) => Some(name),
        // `["string", "null"]`: an option of a plain type.
        Value::Array(names) => names.first()?.as_str(),
        _ => None,
    }
}

fn const_kind(shape: Shape<'_>) -> Option<&str> {
    shape.schema.get("properties")?.get("kind")?.get("const")?.as_str()
}

fn first_key(shape: Shape<'_>) -> Option<&str> {
    shape.schema.get("properties")?.as_object()?.keys().next().map(String::as_str)
}

fn first_keys(objects: &[Shape<'_>]) -> String {
    let keys: Vec<&str> = objects.iter().filter_map(|object| first_key(*object)).collect();
    format!("write one of {}", listed(&keys))
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn first_sentence(text: &str) -> &str {
    text.split(['.', ';', '\n']).next().unwrap_or(text)
}

/// The word that was probably meant: one typing error away, or two in a long word.
pub(super) fn nearest<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    let distance_max = if text.chars().count() > 5 { 2 } else { 1 };
    let near = |word: &&'w str| (strsim::damerau_levenshtein(text, word), *word);
    words.iter().map(near).filter(|(distance, _)| (1..=distance_max).contains(distance)).min().map(|(_, word)| word)
}
