//! What is wrong in a workflow file, and where: `file:line:column`, the line with a caret, a hint. Or what is wrong with a
//! flag that was given for a workflow, which has no place.

use std::fmt;

use super::source::{Source, Span};

/// Longest part of a source line that is shown, in characters.
const MAX_SHOWN_LINE: usize = 100;
/// Longest value that is shown, in characters.
const MAX_SHOWN_VALUE: usize = 60;

/// A mistake in a workflow file, or in a flag that changes a workflow.
///
/// It prints as the place, the problem, the source line with a caret under the place, and a hint where there is one; of a
/// flag only the problem and the hint.
#[derive(Debug)]
pub struct Mistake(Box<Inner>);

#[derive(Debug)]
struct Inner {
    file: String,
    span: Span,
    excerpt: Option<Excerpt>,
    problem: Problem,
}

/// The part of a line around a place; not the whole, which may be the whole file.
#[derive(Debug)]
struct Excerpt {
    /// How many characters of the line stand before it.
    start: usize,
    text: String,
}

/// What is wrong. Values are shortened and their control characters escaped when the problem is made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The bytes are not text.
    #[error("the file is not UTF-8: found byte 0x{0:02x}")]
    NotUtf8(u8),
    /// Nothing but white space and comments.
    #[error("the file is empty, expected `workflows:` with a list of workflows")]
    Empty,
    /// The YAML itself is broken; the text is the parser's.
    #[error("malformed YAML: {0}")]
    Syntax(String),
    /// Aliases expand to more than any honest file holds.
    #[error("the document is too large once its aliases are expanded (over {limit})")]
    TooLarge {
        /// The bound that was reached.
        limit: String,
    },
    /// One key twice in a mapping.
    #[error("key `{key}` stands twice in {context}, first on line {first_line}")]
    DuplicateKey {
        /// The key as written the second time.
        key: String,
        /// The mapping.
        context: &'static str,
        /// Where it stood first.
        first_line: usize,
    },
    /// A key and its alias in one mapping.
    #[error("`{key}` is another name of `{canonical}`, which stands on line {first_line}")]
    SameKey {
        /// The later of the two.
        key: String,
        /// The key that both mean.
        canonical: &'static str,
        /// Where the other one stood.
        first_line: usize,
    },
    /// A key that the schema does not have.
    #[error("unknown key `{key}` in {context}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The mapping.
        context: &'static str,
        /// The nearest known key, or where the key belongs, or the known keys.
        hint: String,
    },
    /// A value of another shape than the schema asks for.
    #[error("`{key}` must be {expected}, found {found}")]
    WrongType {
        /// The key.
        key: String,
        /// The expected shape.
        expected: &'static str,
        /// The shape that was found.
        found: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// A required key is missing.
    #[error("{context} has no `{key}`")]
    MissingKey {
        /// The key.
        key: &'static str,
        /// The mapping that lacks it.
        context: String,
        /// What to add.
        hint: String,
    },
    /// A value of the right shape that says something impossible.
    #[error("`{key}` is wrong: {reason}")]
    BadValue {
        /// The key.
        key: String,
        /// Why, with what was expected.
        reason: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// A workflow name that was given before, in this file or another one.
    #[error("workflow name `{name}` stands twice, first at {first}")]
    DuplicateName {
        /// The name.
        name: String,
        /// `file:line:column` of the first.
        first: String,
    },
    /// Workflows that need each other's artifacts.
    #[error("the dependencies go round in a circle: {0}")]
    Cycle(String),
}

impl Mistake {
    /// A mistake at a place of a source.
    #[must_use]
    pub fn new(source: &Source, span: Span, problem: Problem) -> Self {
        let excerpt = source.line(span.line).map(|line| Excerpt::of(line, span));
        Self(Box::new(Inner { file: source.name().to_owned(), span, excerpt, problem }))
    }

    /// A mistake in what was given with a workflow; the problem names the flag as its key.
    #[must_use]
    pub fn of_flag(problem: Problem) -> Self {
        Self(Box::new(Inner { file: String::new(), span: Span::START, excerpt: None, problem }))
    }

    /// The same mistake without anything of what stands there.
    #[must_use]
    pub(super) fn concealed(mut self) -> Self {
        self.0.excerpt = None;
        if let Problem::WrongType { found, .. } = &mut self.0.problem {
            "something else".clone_into(found);
        }
        self
    }

    /// The file, as it is named in messages; empty for a flag.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.0.file
    }

    /// The place in the file.
    #[must_use]
    pub const fn span(&self) -> Span {
        self.0.span
    }

    /// What is wrong there.
    #[must_use]
    pub const fn problem(&self) -> &Problem {
        &self.0.problem
    }
}

impl Problem {
    /// What to try, if there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::NotUtf8(_) => Some("save the file as UTF-8"),
            Self::Empty => Some("start with `workflows:`, then `  - name: NAME`"),
            Self::Syntax(message) => syntax_hint(message),
            Self::TooLarge { .. } => Some("write the repeated parts out, or split the file"),
            Self::DuplicateKey { .. } | Self::SameKey { .. } => Some("keep one of the two"),
            Self::DuplicateName { .. } => Some("rename one of the two"),
            Self::UnknownKey { hint, .. } | Self::MissingKey { hint, .. } => Some(hint),
            Self::WrongType { hint, .. } | Self::BadValue { hint, .. } => hint.as_deref(),
            Self::Cycle(_) => Some("leave one of these `deps` away"),
        }
    }

    /// A [`Problem::BadValue`] from an error whose text may end in a hint line of its own.
    pub(super) fn bad_value(key: &str, error: &dyn fmt::Display) -> Self {
        let text = error.to_string();
        let (reason, hint) = match text.split_once("\nhint: ") {
            Some((reason, hint)) => (reason.to_owned(), Some(hint.to_owned())),
            None => (text, None),
        };
        Self::BadValue { key: key.to_owned(), reason, hint }
    }
}

fn syntax_hint(message: &str) -> Option<&'static str> {
    if message.contains("tab") {
        Some("indent with spaces, YAML does not allow tabs there")
    } else if message.contains("mapping values are not allowed") {
        Some("put quotes around a value that holds `: `")
    } else if message.contains("unexpected character") {
        Some("put quotes around a value that starts with a special character")
    } else {
        None
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { file, span, excerpt, problem } = &*self.0;
        if !file.is_empty() {
            write!(f, "{file}:{span}: ")?;
        }
        write!(f, "{problem}")?;
        if let Some(excerpt) = excerpt {
            excerpt.write(f, *span)?;
        }
        match problem.hint() {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Mistake {}

impl Excerpt {
    fn of(line: &str, span: Span) -> Self {
        let column = span.column - 1;
        let start = if column < MAX_SHOWN_LINE * 3 / 4 { 0 } else { column - MAX_SHOWN_LINE / 4 };
        let text: String = line.chars().skip(start).take(MAX_SHOWN_LINE).map(printable).collect();
        Self { start, text: text.trim_end().to_owned() }
    }

    /// The line and a caret line below it.
    fn write(&self, f: &mut fmt::Formatter<'_>, span: Span) -> fmt::Result {
        let Self { start, text } = self;
        let indent = span.column - 1 - start;
        let carets = "^".repeat(span.width.min(text.chars().count().saturating_sub(indent)).max(1));
        let number = span.line.to_string();
        let margin = " ".repeat(number.len());
        write!(f, "\n{margin} |\n{number} | {text}\n{margin} | {}{carets}", " ".repeat(indent))
    }
}

/// One character that takes one column and cannot drive a terminal.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() || is_invisible(c) => '\u{fffd}',
        c => c,
    }
}

/// Characters that print nothing or turn the direction of the text around them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A value as messages show it: one line, bounded, nothing in it that a terminal obeys.
pub(super) fn shown(value: &str) -> String {
    let mut out = String::new();
    for (index, c) in value.chars().enumerate() {
        if index == MAX_SHOWN_VALUE {
            out.push('…');
            break;
        }
        if c.is_control() || is_invisible(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("w.yaml".to_owned(), text.to_owned())
    }

    #[test]
    fn shows_the_line_with_a_caret() {
        let source = source("workflows:\n  - nmae: a\n");
        let span = Span { line: 2, column: 5, width: 4 };
        let hint = "did you mean `name`?".to_owned();
        let problem = Problem::UnknownKey { key: "nmae".to_owned(), context: "a workflow", hint };
        assert_eq!(
            Mistake::new(&source, span, problem).to_string(),
            "w.yaml:2:5: unknown key `nmae` in a workflow\n  |\n2 |   - nmae: a\n  |     ^^^^\nhint: did you mean `name`?"
        );
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let source = source(&format!("{}HERE{}", "a".repeat(5000), "b".repeat(5000)));
        let span = Span { line: 1, column: 5001, width: 4 };
        let text = Mistake::new(&source, span, Problem::Empty).to_string();
        assert!(text.len() < 400, "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2].find("HERE"), lines[3].find("^^^^"), "{text}");
    }

    #[test]
    fn nothing_that_drives_a_terminal_is_shown() {
        let source = source("a: \u{1b}[31mred\u{202e}\n");
        let span = Span { line: 1, column: 4, width: 400 };
        let text = Mistake::new(&source, span, Problem::Empty).to_string();
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
        assert_eq!(shown("a\u{1b}b\nc\u{202e}"), "a\\u{1b}b\\nc\\u{202e}");
        assert_eq!(shown(&"x".repeat(1000)).chars().count(), MAX_SHOWN_VALUE + 1);
    }

    #[test]
    fn a_place_past_the_end_still_prints() {
        let text = Mistake::new(&source("a"), Span { line: 9, column: 9, width: 9 }, Problem::Empty).to_string();
        assert!(text.starts_with("w.yaml:9:9: the file is empty"), "{text}");
    }
}
