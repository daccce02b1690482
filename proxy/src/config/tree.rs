//! Configuration text as a tree in which every key and value knows its place. The only module
//! that knows the YAML library.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use super::diagnose::{Diagnostic, Place};

/// A value with its place.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys and values, in order, with repetitions.
    Map(Vec<(Key, Node)>),
}

/// A key with its place.
#[derive(Debug, Clone)]
pub struct Key {
    /// Where it stands.
    pub place: Place,
    /// The key.
    pub name: String,
}

/// One step of a path into a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Under a key.
    Key(String),
    /// At an index.
    Index(usize),
}

/// Every document of a text, without places.
///
/// # Errors
/// What is wrong with it.
#[cfg(feature = "kubernetes")]
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    serde_saphyr::from_multiple(text).map_err(|error| error.to_string())
}

/// Parses a file's text. `file` is its index among the files of this configuration.
///
/// # Errors
/// Where the text is not YAML; with aliases, depth and size bounded by the library's budget.
pub fn parse(text: &str, file: usize) -> Result<Node, Diagnostic> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
    };
    let parsed: Result<Raw, _> = serde_saphyr::from_str_with_options(text, options);
    match parsed {
        Ok(raw) => Ok(raw.place(file)),
        Err(error) => {
            let location = error.location();
            let place = location.map_or(Place::start(file), |l| Place {
                file,
                line: usize::try_from(l.line()).unwrap_or(1),
                column: usize::try_from(l.column()).unwrap_or(1),
            });
            Err(Diagnostic::error(
                place,
                "",
                format!("not valid YAML: {error}"),
            ))
        }
    }
}

impl Node {
    /// An empty map.
    #[must_use]
    pub const fn empty(file: usize) -> Self {
        Self {
            place: Place::start(file),
            kind: Kind::Map(Vec::new()),
        }
    }

    /// The value under a key.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<(&Key, &Self)> {
        match &self.kind {
            Kind::Map(entries) => {
                let found = entries.iter().find(|(key, _)| key.name == name);
                found.map(|(key, node)| (key, node))
            }
            _ => None,
        }
    }

    /// Whether a list or map is there, with nothing in it.
    #[must_use]
    pub fn is_empty_at(&self, path: &[Step]) -> bool {
        match (path.split_first(), &self.kind) {
            (None, Kind::List(items)) => items.is_empty(),
            (None, Kind::Map(members)) => members.is_empty(),
            (None, _) => false,
            (Some((Step::Key(name), rest)), _) => self
                .child(name)
                .is_some_and(|(_, node)| node.is_empty_at(rest)),
            (Some((Step::Index(at), rest)), Kind::List(items)) => {
                items.get(*at).is_some_and(|item| item.is_empty_at(rest))
            }
            (Some(_), _) => false,
        }
    }

    /// The place of what a path leads to, or of the last thing on the way that exists.
    #[must_use]
    pub fn find(&self, path: &[Step]) -> Place {
        let Some((step, rest)) = path.split_first() else {
            return self.place;
        };
        match (step, &self.kind) {
            (Step::Key(name), _) => match self.child(name) {
                // A map or list begins on the next line; its key is what a reader looks for.
                Some((key, node)) if rest.is_empty() && !node.is_scalar() => key.place,
                Some((_, node)) => node.find(rest),
                None => self.place,
            },
            (Step::Index(at), Kind::List(items)) => {
                items.get(*at).map_or(self.place, |item| item.find(rest))
            }
            // The short form of a list of one.
            (Step::Index(_), _) => self.find(rest),
        }
    }

    /// Whether it has no parts.
    #[must_use]
    pub const fn is_scalar(&self) -> bool {
        !matches!(self.kind, Kind::List(_) | Kind::Map(_))
    }

    /// As JSON; keys without a value are left out.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Number(value) => Value::Number(value.clone()),
            Kind::Text(value) => Value::String(value.clone()),
            Kind::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Kind::Map(entries) => {
                let entries = entries
                    .iter()
                    .filter(|(_, node)| !matches!(node.kind, Kind::Null));
                let map: Map<_, _> = entries
                    .map(|(k, v)| (k.name.clone(), v.to_json()))
                    .collect();
                Value::Object(map)
            }
        }
    }

    /// What it is, in words.
    #[must_use]
    pub const fn describe(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "true or false",
            Kind::Number(_) => "a number",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }
}

/// What the library gives, before places have their file.
struct Raw(Spanned<RawKind>);

enum RawKind {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Raw>),
    Map(Vec<(Spanned<String>, Raw)>),
}

fn place_of<T>(spanned: &Spanned<T>, file: usize) -> Place {
    Place {
        file,
        line: usize::try_from(spanned.referenced.line()).unwrap_or(1),
        column: usize::try_from(spanned.referenced.column()).unwrap_or(1),
    }
}

impl Raw {
    fn place(self, file: usize) -> Node {
        let place = place_of(&self.0, file);
        let kind = match self.0.value {
            RawKind::Null => Kind::Null,
            RawKind::Bool(value) => Kind::Bool(value),
            RawKind::Number(value) => Kind::Number(value),
            RawKind::Text(value) => Kind::Text(value),
            RawKind::List(items) => Kind::List(items.into_iter().map(|i| i.place(file)).collect()),
            RawKind::Map(entries) => Kind::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| {
                        let place = place_of(&key, file);
                        let name = key.value;
                        (Key { place, name }, value.place(file))
                    })
                    .collect(),
            ),
        };
        Node { place, kind }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for RawKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = RawKind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<RawKind, E> {
                Ok(RawKind::Null)
            }

            fn visit_none<E>(self) -> Result<RawKind, E> {
                Ok(RawKind::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<RawKind, D::Error> {
                RawKind::deserialize(d)
            }

            fn visit_bool<E>(self, value: bool) -> Result<RawKind, E> {
                Ok(RawKind::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<RawKind, E> {
                Ok(RawKind::Number(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<RawKind, E> {
                Ok(RawKind::Number(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<RawKind, E> {
                Ok(Number::from_f64(value)
                    .map_or_else(|| RawKind::Text(value.to_string()), RawKind::Number))
            }

            fn visit_str<E>(self, value: &str) -> Result<RawKind, E> {
                Ok(RawKind::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawKind, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(RawKind::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawKind, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(RawKind::Map(entries))
            }
        }

        deserializer.deserialize_any(Any)
    }
}
