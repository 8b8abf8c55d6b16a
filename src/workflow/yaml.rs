//! A YAML document as a tree whose every node knows its place and its own spelling.
//!
//! The parser tells types apart as YAML 1.1 does (`yes` is a boolean, `3.10` a number), which is right for `mount: yes`
//! and wrong for `version: 3.10` or the command `true`. So a scalar keeps both what it was taken for and the text as it
//! stands in the file, and the schema chooses. Aliases and merge keys (`<<`) are expanded by the parser, within bounds.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{DuplicateKeyPolicy, Error, Location, NonFiniteFloatPolicy, Spanned, budget::BudgetBreach};

use super::mistake::{Mistake, Problem, shown};
use super::source::{Source, Span};

/// Nodes of one document with its aliases expanded: 10,000 workflows of forty values each.
const MAX_NODES: usize = 400_000;
/// Bytes of text in one document with its aliases expanded.
const MAX_TEXT_BYTES: usize = 16 << 20;

/// Lists and mappings inside of each other. The schema needs six; the parser calls itself for each, on a stack of 2 MiB.
const MAX_DEPTH: usize = 16;

/// One node of the tree.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// Where it is written; for an alias, where its anchor is.
    pub(super) span: Span,
    /// What it is.
    pub(super) value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A scalar, with its text.
    Scalar(Scalar, String),
    /// A list.
    List(Vec<Node>),
    /// A mapping in the order of the file; keys may repeat.
    Mapping(Vec<(Node, Node)>),
}

/// What YAML takes an unquoted scalar for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Integer,
    Float,
    Text,
}

impl Node {
    /// What the node is, as messages say it.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Scalar(Scalar::Null, _) => "nothing".to_owned(),
            Value::Scalar(Scalar::Bool(_), text) => format!("the boolean `{}`", shown(text)),
            Value::Scalar(Scalar::Integer | Scalar::Float, text) => format!("the number `{}`", shown(text)),
            Value::Scalar(Scalar::Text, text) => format!("the string `{}`", shown(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
        }
    }

    /// Whether there is no value.
    pub(super) const fn is_null(&self) -> bool {
        matches!(self.value, Value::Scalar(Scalar::Null, _))
    }
}

/// Parses the one document of a source.
pub(super) fn parse(source: &Source) -> Result<Node, Mistake> {
    let options = serde_yaml::options! {
        with_snippet: false,
        emit_comments: false,
        reject_unsupported_tags: true,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        budget: serde_yaml::budget! {
            max_nodes: MAX_NODES,
            max_events: MAX_NODES * 3,
            max_total_scalar_bytes: MAX_TEXT_BYTES,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            // The bounds above hold for what aliases expand to; a shared `<<: *defaults` in each workflow is fine.
            enforce_alias_anchor_ratio: false,
        },
    };
    let tree: Spanned<RawNode> =
        serde_yaml::from_str_with_options(source.text(), options).map_err(|error| mistake_of(source, &error))?;
    Ok(finish(source, tree))
}

fn mistake_of(source: &Source, error: &Error) -> Mistake {
    let span = error.location().map_or(Span::START, |location| span_of(source, location));
    Mistake::new(source, span, problem_of(error.without_snippet()))
}

fn problem_of(error: &Error) -> Problem {
    let syntax = |text: &str| Problem::Syntax(text.to_owned());
    match error {
        Error::AliasError { error, .. } => problem_of(error),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => syntax("nested too deeply"),
        Error::Budget { breach: BudgetBreach::ScalarBytes { .. }, .. } => {
            Problem::TooLarge { limit: format!("{} MiB of text", MAX_TEXT_BYTES >> 20) }
        }
        Error::Budget { .. } | Error::AliasReplayLimitExceeded { .. } | Error::AliasReplayStackDepthExceeded { .. } => {
            Problem::TooLarge { limit: format!("{MAX_NODES} values") }
        }
        Error::MultipleDocuments { .. } => syntax("a second document starts here, expected one document in a file"),
        Error::UnknownAnchor { .. } => syntax("this alias names an anchor that does not exist"),
        Error::RecursiveReferencesRequireWeakTypes { .. } => syntax("this alias stands inside of its own anchor"),
        Error::UnsupportedTag { tag, .. } => syntax(&format!("unknown tag `{}`", shown(tag))),
        Error::MergeValueNotMapOrSeqOfMaps { .. } => syntax("`<<` takes a mapping or a list of mappings"),
        other => {
            // The parser ends its messages with the place, which ours start with.
            let text = other.to_string();
            let end = text.find(" at line ").unwrap_or(text.len());
            match &text[..end] {
                "recursion limit exceeded" => syntax("nested too deeply"),
                text => syntax(&shown_line(text)),
            }
        }
    }
}

fn shown_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn span_of(source: &Source, location: Location) -> Span {
    let first_line = written(source, location).and_then(|text| text.lines().next()).unwrap_or_default();
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).max(1);
    let width = first_line.trim_end().chars().count().max(1);
    Span { line: count(location.line()), column: count(location.column()), width }
}

/// The text of a node as it stands in the file.
fn written(source: &Source, location: Location) -> Option<&str> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    source.text().get(start..start.checked_add(length)?)
}

/// The tree as the parser hands it over: without the spelling of numbers and booleans.
struct RawNode(RawValue);

enum RawValue {
    Scalar(Scalar, String),
    List(Vec<Spanned<RawNode>>),
    Mapping(Vec<(Spanned<RawNode>, Spanned<RawNode>)>),
}

/// Gives each node its place and each scalar its spelling. The parser has bounded the depth.
fn finish(source: &Source, raw: Spanned<RawNode>) -> Node {
    let location = raw.defined;
    let value = match raw.value.0 {
        RawValue::Scalar(Scalar::Text, text) => Value::Scalar(Scalar::Text, text),
        RawValue::Scalar(scalar, parsed) => {
            let text = written(source, location).map_or(parsed, |text| text.trim().to_owned());
            Value::Scalar(scalar, text)
        }
        RawValue::List(items) => Value::List(items.into_iter().map(|item| finish(source, item)).collect()),
        RawValue::Mapping(entries) => Value::Mapping(
            entries.into_iter().map(|(key, value)| (finish(source, key), finish(source, value))).collect(),
        ),
    };
    Node { span: span_of(source, location), value }
}

impl<'de> Deserialize<'de> for RawNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Self)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = RawValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Scalar::Null, String::new()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Scalar::Bool(value), value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Scalar::Integer, value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Scalar::Integer, value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Scalar::Float, value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Scalar::Text, value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(Scalar::Text, value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<RawValue, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(RawValue::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<RawValue, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = mapping.next_entry()? {
            entries.push(entry);
        }
        Ok(RawValue::Mapping(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Node, Mistake> {
        parse(&Source::new("w.yaml".to_owned(), text.to_owned()))
    }

    fn only_value(text: &str) -> (Scalar, String, Span) {
        let node = parsed(text).unwrap();
        let Value::Mapping(mut entries) = node.value else { panic!("{text:?} is no mapping") };
        let node = entries.remove(0).1;
        let Value::Scalar(scalar, text) = node.value else { panic!("{text:?} holds no scalar") };
        (scalar, text, node.span)
    }

    #[test]
    fn scalars_keep_their_spelling() {
        for (text, scalar, spelling) in [
            ("a: 3.10", Scalar::Float, "3.10"),
            ("a: 0x10", Scalar::Integer, "0x10"),
            ("a: -5", Scalar::Integer, "-5"),
            ("a: 99999999999999999999999", Scalar::Float, "99999999999999999999999"),
            ("a: yes", Scalar::Bool(true), "yes"),
            ("a: ~", Scalar::Null, "~"),
            ("a:", Scalar::Null, ""),
            ("a: .nan", Scalar::Float, ".nan"),
            ("a: 1e999", Scalar::Float, "1e999"),
            ("a: \"3.10\"", Scalar::Text, "3.10"),
            ("a: 8080:80", Scalar::Text, "8080:80"),
            ("a: !!str 12", Scalar::Text, "12"),
            ("a: |\n  x\n  y\n", Scalar::Text, "x\ny\n"),
            ("\u{feff}a: 1", Scalar::Integer, "1"),
            ("ä: 1.50 # x", Scalar::Float, "1.50"),
            ("a: &x 1.50", Scalar::Float, "1.50"),
        ] {
            let (found, found_text, _) = only_value(text);
            assert_eq!((found, found_text.as_str()), (scalar, spelling), "{text:?}");
        }
    }

    #[test]
    fn places_count_characters() {
        assert_eq!(only_value("äöü: träin # x").2, Span { line: 1, column: 6, width: 5 });
        assert_eq!(only_value("\n\na:\n  b c\n  d\n").2, Span { line: 4, column: 3, width: 3 });
        assert_eq!(only_value("a: b\r\nc: d\r\n").2, Span { line: 1, column: 4, width: 1 });
    }

    #[test]
    fn aliases_and_merges_point_at_what_is_written() {
        let node = parsed("a: &x\n  b: 1.50\nc:\n  <<: *x\n").unwrap();
        let Value::Mapping(entries) = node.value else { panic!() };
        let Value::Mapping(merged) = &entries[1].1.value else { panic!() };
        assert_eq!(merged[0].1.value, Value::Scalar(Scalar::Float, "1.50".to_owned()));
        assert_eq!(merged[0].1.span, Span { line: 2, column: 6, width: 4 });
    }

    #[test]
    fn broken_documents() {
        for (text, place, message) in [
            ("a:\n\tb: 1\n", "2:2", "hint: indent with spaces"),
            ("a: 1\n---\nb: 2\n", "3:1", "a second document starts here"),
            ("a: b: c\n", "1:5", "hint: put quotes around a value that holds `: `"),
            ("a: @x\n", "1:4", "hint: put quotes around a value that starts with a special character"),
            ("a: *nope\n", "1:4", "an anchor that does not exist"),
            ("a: &a [*a]\n", "1:8", "inside of its own anchor"),
            ("a: !foo 1\n", "1:9", "unknown tag `!foo`"),
            ("a:\n  <<: 3\n", "2:7", "`<<` takes a mapping"),
            ("a: 'x\n", "1:4", "unclosed quote"),
        ] {
            let mistake = parsed(text).unwrap_err().to_string();
            assert!(mistake.starts_with(&format!("w.yaml:{place}: malformed YAML: ")), "{text:?} gave {mistake}");
            assert!(mistake.contains(message), "{text:?} gave {mistake}");
            assert!(!mistake.contains(" at line "), "{text:?} gave {mistake}");
        }
        let deep = parsed(&"[".repeat(5000)).unwrap_err().to_string();
        assert!(deep.contains("malformed YAML"), "{deep}");
        let deep = (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<Vec<_>>().concat();
        assert!(parsed(&deep).unwrap_err().to_string().contains("nested too deeply"));
    }

    /// Nine levels of nine aliases each: 387 million values from half a kilobyte.
    #[test]
    fn alias_bombs_are_refused_soon() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let items = vec![format!("*a{}", level - 1); 9].join(", ");
            text.extend(["a", &level.to_string(), ": &a", &level.to_string(), " [", &items, "]\n"]);
        }
        let started = std::time::Instant::now();
        let mistake = parsed(&text).unwrap_err();
        assert!(matches!(mistake.problem(), Problem::TooLarge { .. }), "{mistake}");
        assert!(started.elapsed().as_secs() < 20, "took {:?}", started.elapsed());
    }

    #[test]
    fn aliases_of_long_text_are_refused() {
        let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 2000].join(", "));
        let mistake = parsed(&text).unwrap_err();
        assert!(matches!(mistake.problem(), Problem::TooLarge { .. }), "{mistake}");
    }

    #[test]
    fn a_shared_anchor_in_many_items_is_fine() {
        let items = "- {<<: *d, b: 2}\n".repeat(5000);
        assert!(parsed(&format!("- &d {{a: 1}}\n{items}")).is_ok());
    }
}
