//! What a server said when it said no, made fit to be shown: one line, bounded, control characters escaped.

use std::fmt;

use serde_json::Value;

/// Longest piece of a server's text that is shown, in characters.
const MAX_SHOWN_CHARS: usize = 200;

/// A refusal: status and what the body says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The error code, when the body has one (`MANIFEST_UNKNOWN`, `DENIED`, …).
    pub code: Option<String>,
    /// The message, when the body has one.
    pub message: Option<String>,
}

impl Answer {
    /// Reads the body of a refusal: the distribution specification's `errors`, what token services send, or plain text.
    pub(super) fn parse(status: u16, body: &[u8]) -> Self {
        let Ok(document) = serde_json::from_slice::<Value>(body) else {
            let text = String::from_utf8_lossy(body);
            let is_page = text.trim_start().starts_with('<');
            return Self { status, code: None, message: some_text(&text).filter(|_| !is_page) };
        };
        let first = &document["errors"][0];
        let (code, message) = if first.is_object() {
            (&first["code"], &first["message"])
        } else {
            // RFC 6749, 5.2; docker's hub says `details`, others `message`.
            let said = ["error_description", "details", "message"].map(|name| &document[name]);
            (&document["error"], said.into_iter().find(|value| value.is_string()).unwrap_or(&Value::Null))
        };
        let text = |value: &Value| value.as_str().and_then(some_text);
        Self { status, code: text(code), message: text(message) }
    }

    /// Whether the body carries this error code.
    #[must_use]
    pub fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        match (&self.code, &self.message) {
            (Some(code), Some(message)) => write!(f, " {code}: {message}"),
            (Some(only), None) | (None, Some(only)) => write!(f, " {only}"),
            (None, None) => {
                let status = reqwest::StatusCode::from_u16(self.status).ok();
                status.and_then(|status| status.canonical_reason()).map_or(Ok(()), |reason| write!(f, " {reason}"))
            }
        }
    }
}

fn some_text(text: &str) -> Option<String> {
    Some(shown(text)).filter(|text| !text.is_empty())
}

/// The first line of a foreign text, bounded and escaped.
pub(super) fn shown(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let mut shown = String::new();
    for (count, character) in line.chars().enumerate() {
        if count == MAX_SHOWN_CHARS {
            shown.push('…');
            break;
        }
        match character {
            '"' | '\'' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_dialect() {
        for (status, body, expected) in [
            (404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no"}]}"#, "404 MANIFEST_UNKNOWN: no"),
            (403, r#"{"errors":[{"code":"DENIED"}]}"#, "403 DENIED"),
            (401, r#"{"details":"incorrect username or password"}"#, "401 incorrect username or password"),
            (400, r#"{"error":"invalid_grant","error_description":"expired"}"#, "400 invalid_grant: expired"),
            (503, "upstream is down\nsecond line", "503 upstream is down"),
            (502, "<html><body>nginx</body></html>", "502 Bad Gateway"),
            (500, "", "500 Internal Server Error"),
            (429, "{}", "429 Too Many Requests"),
            (418, "[1,2]", "418 I'm a teapot"),
        ] {
            assert_eq!(Answer::parse(status, body.as_bytes()).to_string(), expected);
        }
    }

    #[test]
    fn foreign_text_is_tamed() {
        assert_eq!(shown("a\u{1b}[2Jb\r\nsecond"), "a\\u{1b}[2Jb");
        assert_eq!(shown(&"x".repeat(1000)).chars().count(), MAX_SHOWN_CHARS + 1);
        let evil = br#"{"errors":[{"code":"A\u001b]0;","message":"\u0007"}]}"#;
        assert!(!Answer::parse(400, evil).to_string().contains(|c: char| c.is_control()));
        assert!(!Answer::parse(400, b"\xff\xfe\x00\x07").to_string().contains(|c: char| c.is_control()));
    }
}
