//! Text for people: an error with its causes, foreign text made harmless, the word that was meant. Imports nothing of ours.

use std::error::Error;
use std::fmt::Write;

/// An error with all its causes, outermost first, and its hint last.
///
/// Messages hold their hint in a second line; causes go before it. A cause that an outer message tells already is left out,
/// for errors of others that repeat their source.
#[must_use]
pub fn describe(error: &dyn Error) -> String {
    let mut causes = String::new();
    let mut hints = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let (message, hint) = text.split_once("\nhint:").unwrap_or((&text, ""));
        if !causes.contains(message) {
            let separator = if causes.is_empty() { "" } else { ": " };
            let _ = write!(causes, "{separator}{message}");
        }
        if !hint.is_empty() {
            let _ = write!(hints, "\nhint:{hint}");
        }
        next = error.source();
    }
    causes + &hints
}

/// Foreign text with control characters spelled out, so that a name or a server's answer cannot drive a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// The candidate that `word` was most likely meant to be, if one is near enough for that.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    // A longer word would cost time and is nobody's slip of the finger.
    if word.len() > 100 {
        return None;
    }
    candidates
        .map(|candidate| (strsim::osa_distance(&word, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(word.len()) / 3).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot do `{0}`{1}")]
    struct Outer(&'static str, &'static str, #[source] std::io::Error);

    #[test]
    fn causes_come_before_hints() {
        let error = Outer("this", "\nhint: try that", std::io::Error::other("disk on fire"));
        assert_eq!(describe(&error), "cannot do `this`: disk on fire\nhint: try that");
        let repeating = Outer("this: disk on fire", "", std::io::Error::other("disk on fire"));
        assert_eq!(
            describe(&repeating),
            "cannot do `this: disk on fire`: disk on fire".replace(": disk on fire`: disk on fire", ": disk on fire`")
        );
    }

    #[test]
    fn terminals_are_not_driven() {
        assert_eq!(printable("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\n");
    }

    #[test]
    fn nearest_is_a_slip_and_not_any_word() {
        let known = ["image", "commands", "env", "resources", "gpu", "cpu"];
        for (word, expected) in [
            ("imagee", Some("image")),
            ("imgae", Some("image")),
            ("Image", Some("image")),
            ("command", Some("commands")),
            ("resource", Some("resources")),
            ("envs", Some("env")),
            ("gpus", Some("gpu")),
            ("volume", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), expected, "{word}");
        }
        assert_eq!(nearest(&"i".repeat(1 << 20), known.into_iter()), None);
    }
}
