//! Text of a workflow file, places in it, and values that know theirs.

use std::fmt;

/// The name and the text of one workflow file, kept so that a later mistake can still show its line.
#[derive(PartialEq, Eq)]
pub struct Source {
    name: String,
    text: String,
    /// The offset of each line, so that a thousand mistakes do not read the text a thousand times.
    line_starts: Vec<usize>,
}

/// A place in a [`Source`]. Lines and columns count from 1, columns and the width in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
    /// How many characters of that line belong to it; at least 1.
    pub width: usize,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub span: Span,
}

/// What a file gives for a value: the value itself, or text with `${{ … }}` in it that has to be interpolated first.
///
/// The two are kept apart in the type, so that nothing can use a template as if it were the value.
#[derive(Debug, Clone, PartialEq)]
pub enum Text<T> {
    /// The checked value.
    Literal(T),
    /// The text as it stands in the file; unchecked.
    Template(String),
}

impl Source {
    /// A source with the name that messages show.
    pub(super) fn new(name: String, text: String) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(end, _)| end + 1)).collect();
        Self { name, text, line_starts }
    }

    /// The name that messages show.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// One line without its end.
    pub(super) fn line(&self, line: usize) -> Option<&str> {
        let start = *self.line_starts.get(line.checked_sub(1)?)?;
        self.text[start..].lines().next()
    }
}

/// Shows the name alone: the text may hold a password.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Span {
    /// The first character of a file.
    pub(super) const START: Self = Self { line: 1, column: 1, width: 1 };
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl<T> Text<T> {
    /// The value, when it needs no interpolation.
    pub const fn literal(&self) -> Option<&T> {
        match self {
            Self::Literal(value) => Some(value),
            Self::Template(_) => None,
        }
    }
}
