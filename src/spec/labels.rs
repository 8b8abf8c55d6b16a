//! `KEY=VALUE` of `--label` and `--annotation`, and the files that hold labels.

use super::error::SpecError;
use super::flag_error::FlagProblem;

/// Reads `KEY[=VALUE]`; a key alone has an empty value, as in docker.
pub fn pair(flag: &'static str, text: &str) -> Result<(String, String), SpecError> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.trim().is_empty() || text.contains('\0') {
        return Err(SpecError::flag(flag, text, FlagProblem::Shape("`KEY=VALUE`")));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Reads the text of a `--label-file`: a label a line, nothing in empty lines and such that start with `#`. `path` only
/// names it in errors.
pub fn label_file(path: &str, text: &[u8]) -> Result<Vec<(String, String)>, SpecError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut labels = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let wrong = |reason| SpecError::flag("--label-file", path, FlagProblem::Line { line: index + 1, reason });
        let line = std::str::from_utf8(line).map_err(|_| wrong("not UTF-8"))?;
        let line = line.strip_suffix('\r').unwrap_or(line).trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = pair("--label-file", line).map_err(|_| wrong("expected `KEY=VALUE`"))?;
        if key.contains(char::is_whitespace) {
            return Err(wrong("the key holds white space"));
        }
        labels.push((key, value));
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_dockers() {
        for (text, key, value) in
            [("a=b", "a", "b"), ("a", "a", ""), ("a=", "a", ""), ("a.b/c=d=e f", "a.b/c", "d=e f")]
        {
            assert_eq!(pair("--label", text).unwrap(), (key.to_owned(), value.to_owned()));
        }
        for bad in ["", "=", "=b", " =b", "a=\0"] {
            assert!(pair("--label", bad).unwrap_err().to_string().contains("expected `KEY=VALUE`"), "{bad}");
        }
        let labels = label_file("f", b"\xef\xbb\xbfa=b\r\n\n# no\n  c=d e\nf").unwrap();
        assert_eq!(labels, [("a", "b"), ("c", "d e"), ("f", "")].map(|(k, v)| (k.to_owned(), v.to_owned())));
        for (text, expected) in [
            (&b"a=b\n=c"[..], "`--label-file f`: line 2: expected `KEY=VALUE`"),
            (b"a b=c", "`--label-file f`: line 1: the key holds white space"),
            (b"\xff", "`--label-file f`: line 1: not UTF-8"),
        ] {
            assert_eq!(label_file("f", text).unwrap_err().to_string(), expected);
        }
    }
}
