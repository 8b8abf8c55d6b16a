//! Reading typed values out of a [`Node`] tree: which keys a mapping may have, and what shape each value must have.

use std::fmt;

use super::mistake::{Mistake, Problem, shown};
use super::source::{At, Source, Span, Text};
use super::yaml::{Node, Scalar, Value};
use crate::words::nearest;

/// The keys of one kind of mapping.
pub(super) struct Keys {
    /// What the mapping is, as in "unknown key `x` in CONTEXT".
    pub(super) context: &'static str,
    /// The keys.
    pub(super) known: &'static [&'static str],
    /// Other names: `(alias, key)`.
    pub(super) aliases: &'static [(&'static str, &'static str)],
    /// Keys that stand elsewhere, with the place: "under `resources`".
    pub(super) elsewhere: &'static [(&'static [&'static str], &'static str)],
}

/// A value, and the key it was given under.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    source: &'a Source,
    key: &'a str,
    key_span: Span,
    node: &'a Node,
}

/// The entries of a mapping whose keys have been checked.
pub(super) struct Fields<'a> {
    /// The mapping's place.
    pub(super) span: Span,
    entries: Vec<(&'static str, Entry<'a>)>,
}

impl<'a> Fields<'a> {
    /// The entry of a key, given under its own name or an alias.
    pub(super) fn get(&self, key: &str) -> Option<Entry<'a>> {
        self.entries.iter().find(|(canonical, _)| *canonical == key).map(|(_, entry)| *entry)
    }

    /// The entry of a key read by `read`, if it was given.
    pub(super) fn read<T>(
        &self,
        key: &str,
        read: impl FnOnce(Entry<'a>) -> Result<T, Mistake>,
    ) -> Result<Option<T>, Mistake> {
        self.get(key).map(read).transpose()
    }
}

impl<'a> Entry<'a> {
    /// The whole document, which stands under no key.
    pub(super) const fn document(source: &'a Source, node: &'a Node) -> Self {
        Self { source, key: "the file", key_span: Span::START, node }
    }

    /// The place of the value.
    pub(super) const fn span(&self) -> Span {
        self.node.span
    }

    /// The place of the key.
    pub(super) const fn key_span(&self) -> Span {
        self.key_span
    }

    /// Whether the key has no value.
    pub(super) const fn is_null(&self) -> bool {
        self.node.is_null()
    }

    /// Whether the value is a list.
    pub(super) const fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    /// Whether the value is a mapping.
    pub(super) const fn is_mapping(&self) -> bool {
        matches!(self.node.value, Value::Mapping(_))
    }

    /// Whether the value is a string that holds `${{`.
    pub(super) fn is_template(&self) -> bool {
        matches!(&self.node.value, Value::Scalar(_, text) if text.contains("${{"))
    }

    /// A mistake at the value.
    pub(super) fn mistake(&self, problem: Problem) -> Mistake {
        // A missing value has no place of its own worth pointing at.
        let span = if self.is_null() { self.key_span } else { self.node.span };
        Mistake::new(self.source, span, problem)
    }

    /// A value of the wrong shape.
    pub(super) fn wrong_type(&self, expected: &'static str, hint: Option<&str>) -> Mistake {
        self.mistake(Problem::WrongType {
            key: shown(self.key),
            expected,
            found: self.node.describe(),
            hint: hint.map(str::to_owned),
        })
    }

    /// A value that says something impossible.
    pub(super) fn bad_value(&self, reason: &dyn fmt::Display) -> Mistake {
        self.mistake(Problem::bad_value(&shown(self.key), reason))
    }

    /// A key that cannot be.
    pub(super) fn bad_key(&self, problem: Problem) -> Mistake {
        Mistake::new(self.source, self.key_span, problem)
    }

    /// The same entry with another value.
    pub(super) const fn with<'b>(&self, node: &'b Node) -> Entry<'b>
    where
        'a: 'b,
    {
        Entry { node, ..*self }
    }

    /// A copy of the value.
    pub(super) fn value(&self) -> Node {
        self.node.clone()
    }

    /// The items of a list.
    pub(super) fn items(&self, expected: &'static str) -> Result<impl Iterator<Item = Entry<'a>> + use<'a>, Mistake> {
        let Value::List(items) = &self.node.value else { return Err(self.wrong_type(expected, None)) };
        let parent = *self;
        Ok(items.iter().map(move |node| Entry { node, key_span: node.span, ..parent }))
    }

    /// The entries of a mapping that may have any keys.
    pub(super) fn entries(
        &self,
        expected: &'static str,
    ) -> Result<impl Iterator<Item = Result<Entry<'a>, Mistake>> + use<'a>, Mistake> {
        let Value::Mapping(entries) = &self.node.value else { return Err(self.wrong_type(expected, None)) };
        let parent = *self;
        Ok(entries.iter().map(move |(key, node)| match &key.value {
            Value::Scalar(scalar, text) if *scalar != Scalar::Null => {
                Ok(Entry { key: text, key_span: key.span, node, ..parent })
            }
            _ => Err(Mistake::new(
                parent.source,
                key.span,
                Problem::WrongType {
                    key: format!("a key of {}", shown(parent.key)),
                    expected: "a string",
                    found: key.describe(),
                    hint: None,
                },
            )),
        }))
    }

    /// The key.
    pub(super) const fn key(&self) -> &'a str {
        self.key
    }

    /// The entries of a mapping with known keys, none unknown and none twice.
    pub(super) fn fields(&self, keys: &Keys, expected: &'static str) -> Result<Fields<'a>, Mistake> {
        let mut found: Vec<(&'static str, Entry<'a>)> = Vec::new();
        for entry in self.entries(expected)? {
            let entry = entry?;
            let Some(canonical) = keys.canonical(entry.key) else {
                return Err(Mistake::new(self.source, entry.key_span, keys.unknown(entry.key)));
            };
            if let Some((_, first)) = found.iter().find(|(other, _)| *other == canonical) {
                return Err(Mistake::new(self.source, entry.key_span, same_key(keys, first, &entry, canonical)));
            }
            found.push((canonical, entry));
        }
        Ok(Fields { span: self.node.span, entries: found })
    }

    /// The text of a scalar as it is written; numbers and booleans are taken as their text.
    pub(super) fn text(&self, expected: &'static str) -> Result<&'a str, Mistake> {
        match &self.node.value {
            Value::Scalar(Scalar::Null, _) => Err(self.wrong_type(expected, Some("put quotes around an empty string"))),
            Value::Scalar(_, text) if text.contains('\0') => Err(self.bad_value(&"the text contains a NUL byte")),
            Value::Scalar(_, text) => Ok(text),
            Value::Mapping(_) => Err(self.wrong_type(expected, Some("put quotes around text that holds `: `"))),
            Value::List(_) => Err(self.wrong_type(expected, None)),
        }
    }

    /// A string that may be a template.
    pub(super) fn string(&self, expected: &'static str) -> Result<At<Text<String>>, Mistake> {
        self.parsed(expected, |text| Ok::<_, std::convert::Infallible>(text.to_owned()))
    }

    /// A scalar whose text `parse` understands, unless it is a template.
    pub(super) fn parsed<T, E: fmt::Display>(
        &self,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<At<Text<T>>, Mistake> {
        let text = self.text(expected)?;
        let value = if self.is_template() {
            Text::Template(text.to_owned())
        } else {
            Text::Literal(parse(text).map_err(|error| self.bad_value(&error))?)
        };
        Ok(At { value, span: self.node.span })
    }

    /// A boolean.
    pub(super) fn boolean(&self) -> Result<At<bool>, Mistake> {
        match self.node.value {
            Value::Scalar(Scalar::Bool(value), _) => Ok(At { value, span: self.node.span }),
            _ => Err(self.wrong_type("`true` or `false`", None)),
        }
    }

    /// The value as `(key, text)`, whatever scalar it is; `None` when there is no value.
    pub(super) fn optional_text(&self, expected: &'static str) -> Result<Option<&'a str>, Mistake> {
        if self.is_null() { Ok(None) } else { self.text(expected).map(Some) }
    }
}

/// Takes the entry out of a mapping that a place belongs to, and says whether there was one.
pub(super) fn take_entry_at(mapping: &mut Node, place: Span) -> bool {
    let Value::Mapping(entries) = &mut mapping.value else { return false };
    let order = |span: Span| (span.line, span.column);
    // Entries of a merged mapping stand elsewhere, so that the places need not ascend.
    let entry = entries
        .iter()
        .enumerate()
        .filter(|(_, (key, _))| order(key.span) <= order(place))
        .max_by_key(|(_, (key, _))| order(key.span));
    let Some((index, _)) = entry else { return false };
    entries.remove(index);
    true
}

/// Gives a mapping a key with a text where it has none, and says whether it is a mapping.
pub(super) fn give(mapping: &mut Node, key: &str, text: &str) -> bool {
    let span = mapping.span;
    let Value::Mapping(entries) = &mut mapping.value else { return false };
    if !entries.iter().any(|(other, _)| matches!(&other.value, Value::Scalar(_, name) if name == key)) {
        let node = |text: &str| Node { span, value: Value::Scalar(Scalar::Text, text.to_owned()) };
        // In front, where `take_entry_at` prefers a real entry at the same place.
        entries.insert(0, (node(key), node(text)));
    }
    true
}

fn same_key(keys: &Keys, first: &Entry<'_>, second: &Entry<'_>, canonical: &'static str) -> Problem {
    let first_line = first.key_span.line;
    if first.key == second.key {
        return Problem::DuplicateKey { key: shown(second.key), context: keys.context, first_line };
    }
    // Whichever of the two comes second, the alias is the one to explain.
    let alias = if second.key == canonical { first.key } else { second.key };
    Problem::SameKey { key: shown(alias), canonical, first_line }
}

impl Keys {
    fn canonical(&self, key: &str) -> Option<&'static str> {
        let own = self.known.iter().find(|known| **known == key).copied();
        own.or_else(|| self.aliases.iter().find(|(alias, _)| *alias == key).map(|(_, canonical)| *canonical))
    }

    fn unknown(&self, key: &str) -> Problem {
        let place = self.elsewhere.iter().find(|(keys, _)| keys.contains(&key)).map(|(_, place)| place);
        let names = || self.known.iter().chain(self.aliases.iter().map(|(alias, _)| alias)).copied();
        let hint = match (place, nearest(key, names())) {
            (_, Some(known)) if known.eq_ignore_ascii_case(key) => format!("did you mean `{known}`?"),
            (Some(place), _) => format!("`{}` stands {place}", shown(key)),
            (None, Some(known)) => format!("did you mean `{known}`?"),
            (None, None) => format!("the keys of {} are `{}`", self.context, self.known.join("`, `")),
        };
        Problem::UnknownKey { key: shown(key), context: self.context, hint }
    }
}
