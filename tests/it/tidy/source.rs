//! A Rust file as the tidy rules see it: tokens, the paths they form, and which of them are tests.
//!
//! This is no parser. It knows comments, literals, `use` groups, inline modules and `#[cfg(test)]`, which is what the
//! rules need to be right on code that compiles.

use std::iter;

/// One file: its path from the package's root, its text, and its tokens.
pub(super) struct Source<'a> {
    pub(super) path: &'a str,
    pub(super) text: &'a str,
    pub(super) tokens: Vec<Token>,
}

/// A word (identifier, keyword or number), `::`, or one other character that is not white space.
pub(super) struct Token {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) text: String,
}

/// A path such as `crate::image::Digest`, taken out of its `use` group.
pub(super) struct ModulePath {
    pub(super) line: usize,
    pub(super) segments: Vec<String>,
    /// How many inline modules it stands in.
    inline_modules: usize,
}

impl<'a> Source<'a> {
    pub(super) fn new(path: &'a str, text: &'a str) -> Self {
        Self { path, text, tokens: Lexer::new(text).tokens() }
    }

    /// The modules that lead to this file, none for the crate roots; `None` outside `src`.
    pub(super) fn modules(&self) -> Option<Vec<&'a str>> {
        let path = self.path.strip_prefix("src/")?.strip_suffix(".rs")?;
        let mut modules: Vec<&str> = path.split('/').collect();
        if modules.last() == Some(&"mod") || path == "lib" || path == "main" {
            modules.pop();
        }
        Some(modules)
    }

    /// Is this part of the product, rather than a test?
    pub(super) fn is_product(&self) -> bool {
        self.path.starts_with("src/")
            && !self.path.split('/').any(|part| ["tests", "tests.rs", "testing.rs"].contains(&part))
    }

    /// The lines that have this word.
    pub(super) fn lines_with(&self, word: &str) -> Vec<usize> {
        self.tokens.iter().filter(|token| token.text == word).map(|token| token.line).collect()
    }

    /// The tokens outside `#[cfg(test)] mod … { … }`, and how many lines those modules take.
    pub(super) fn without_test_modules(&self) -> (Vec<&Token>, usize) {
        let (mut kept, mut test_lines, mut at) = (Vec::new(), 0, 0);
        while at < self.tokens.len() {
            if let Some(end) = test_module_end(&self.tokens[at..]) {
                let last = &self.tokens[at + end - 1];
                test_lines += last.line - self.tokens[at].line + 1;
                at += end;
            } else {
                kept.push(&self.tokens[at]);
                at += 1;
            }
        }
        (kept, test_lines)
    }
}

impl ModulePath {
    /// The module just below the crate's root that this path names from a file of module `own`, `depth` modules below
    /// the root; `None` for paths within `own` and into other crates.
    pub(super) fn top_module(&self, own: &str, depth: usize) -> Option<&str> {
        let segments = match self.segments.split_first() {
            Some((first, rest)) if first == "self" => rest,
            _ => &self.segments,
        };
        let supers = segments.iter().take_while(|segment| *segment == "super").count();
        let from_root = match segments.first()?.as_str() {
            "crate" => own != "main",
            "dockless" => own == "main",
            _ => false,
        };
        if from_root {
            segments.get(1).map(String::as_str)
        } else if supers > 0 && supers == depth + self.inline_modules {
            segments.get(supers).map(String::as_str)
        } else {
            None
        }
    }
}

/// All paths of two segments or more, those within `use` groups one by one.
pub(super) fn paths<'t>(tokens: impl IntoIterator<Item = &'t Token>) -> Vec<ModulePath> {
    let tokens: Vec<&Token> = tokens.into_iter().collect();
    let (mut found, mut open_modules, mut braces, mut at) = (Vec::new(), Vec::new(), 0, 0);
    while at < tokens.len() {
        let next = |ahead: usize| tokens.get(at + ahead).map_or("", |token| token.text.as_str());
        match next(0) {
            "mod" if next(2) == "{" => open_modules.push(braces),
            "{" => braces += 1,
            "}" => {
                braces -= 1;
                open_modules.pop_if(|module| *module == braces);
            }
            word if is_word(word) && next(1) == "::" => {
                let first = found.len();
                at = use_tree(&tokens, at, &[], &mut found);
                found[first..].iter_mut().for_each(|path: &mut ModulePath| path.inline_modules = open_modules.len());
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Reads `a::b`, `a::*` or `a::{…}` from `at` on and returns the place behind it.
fn use_tree(tokens: &[&Token], mut at: usize, prefix: &[String], found: &mut Vec<ModulePath>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token: &&Token| token.text.as_str());
    let (start, mut segments) = (at, prefix.to_vec());
    while is_word(text(at)) || text(at) == "*" {
        segments.push(text(at).into());
        at += 1;
        if text(at) != "::" {
            break;
        }
        at += 1;
    }
    if text(at) != "{" || (at > start && text(at - 1) != "::") {
        found.push(ModulePath { line: tokens[start].line, segments, inline_modules: 0 });
        return at;
    }
    while !["}", ""].contains(&text(at)) {
        at += 1; // past `{` or `,`
        if text(at) != "}" {
            at = use_tree(tokens, at, &segments, found);
        }
        while ![",", "}", ""].contains(&text(at)) {
            at += 1; // past `as name`
        }
    }
    at + 1
}

/// The number of tokens that `#[cfg(test)] mod … { … }` takes, when they begin with one.
fn test_module_end(tokens: &[Token]) -> Option<usize> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let is_cfg_test = ["#", "[", "cfg", "(", "test", ")", "]"].iter().enumerate().all(|(at, part)| text(at) == *part);
    if !is_cfg_test {
        return None;
    }
    let mut at = 7;
    while text(at) == "#" {
        at = closing(tokens, at + 1)?;
    }
    while text(at) != "mod" {
        if !["pub", "(", "crate", "super", ")"].contains(&text(at)) {
            return None;
        }
        at += 1;
    }
    if text(at + 2) == "{" { closing(tokens, at + 2) } else { None }
}

/// The place behind the bracket that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" | "[" | "(" => depth += 1,
            "}" | "]" | ")" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first == '_' || first.is_alphabetic())
}

fn is_word_part(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}

/// Cuts a text into tokens; comments, literals and lifetimes are dropped.
struct Lexer {
    characters: Vec<char>,
    at: usize,
    line: usize,
}

impl Lexer {
    fn new(text: &str) -> Self {
        Self { characters: text.chars().collect(), at: 0, line: 1 }
    }

    fn tokens(mut self) -> Vec<Token> {
        let mut tokens = Vec::new();
        while let Some(first) = self.peek(0) {
            match (first, self.peek(1)) {
                ('/', Some('/')) => self.skip_while(|character| character != '\n'),
                ('/', Some('*')) => self.skip_block_comment(),
                ('"', _) => self.skip_quoted('"'),
                ('\'', _) => self.skip_character_or_lifetime(),
                _ if is_word_part(first) => tokens.extend(self.word()),
                _ if first.is_whitespace() => self.advance(1),
                (':', Some(':')) => tokens.push(self.symbol(2)),
                _ => tokens.push(self.symbol(1)),
            }
        }
        tokens
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.characters.get(self.at + ahead).copied()
    }

    fn advance(&mut self, count: usize) {
        for _ in 0..count {
            self.line += usize::from(self.peek(0) == Some('\n'));
            self.at += 1;
        }
    }

    fn skip_while(&mut self, goes_on: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&goes_on) {
            self.advance(1);
        }
    }

    fn symbol(&mut self, length: usize) -> Token {
        let text = self.characters[self.at..self.at + length].iter().collect();
        self.advance(length);
        Token { line: self.line, text }
    }

    /// A word, or nothing when it turns out to be the prefix of a string (`b"…"`, `r#"…"#`) or of a raw identifier.
    fn word(&mut self) -> Option<Token> {
        let start = self.at;
        self.skip_while(is_word_part);
        let text: String = self.characters[start..self.at].iter().collect();
        let hashes = iter::successors(Some(0), |count| Some(count + 1)).find(|count| self.peek(*count) != Some('#'))?;
        let is_string = self.peek(hashes) == Some('"');
        match text.as_str() {
            "r" | "br" | "cr" if is_string => self.skip_raw_string(hashes),
            "b" | "c" if is_string && hashes == 0 => self.skip_quoted('"'),
            "b" if self.peek(0) == Some('\'') => self.skip_quoted('\''),
            "r" if hashes == 1 => self.advance(1),
            _ => return Some(Token { line: self.line, text }),
        }
        None
    }

    fn skip_raw_string(&mut self, hashes: usize) {
        self.advance(hashes + 1);
        while let Some(character) = self.peek(0) {
            self.advance(1);
            if character == '"' && (0..hashes).all(|ahead| self.peek(ahead) == Some('#')) {
                self.advance(hashes);
                return;
            }
        }
    }

    /// Skips a literal that ends at the next `quote` which no backslash guards.
    fn skip_quoted(&mut self, quote: char) {
        self.advance(1);
        while let Some(character) = self.peek(0) {
            self.advance(if character == '\\' { 2 } else { 1 });
            if character == quote {
                return;
            }
        }
    }

    /// `'a'` and `'\n'` are characters, `'a` is a lifetime or a label.
    fn skip_character_or_lifetime(&mut self) {
        if self.peek(1) == Some('\\') || self.peek(2) == Some('\'') {
            self.skip_quoted('\'');
        } else {
            self.advance(1);
            self.skip_while(is_word_part);
        }
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0;
        while let Some(character) = self.peek(0) {
            let step = match (character, self.peek(1)) {
                ('/', Some('*')) => 1,
                ('*', Some('/')) => -1,
                _ => 0,
            };
            depth += step;
            self.advance(if step == 0 { 1 } else { 2 });
            if depth == 0 {
                return;
            }
        }
    }
}
