//! Environment variables: `-e`, `--env-file` and how they meet the image's.
//!
//! Docker's rules: `KEY=VALUE` sets; `-e KEY` takes the caller's value, and removes the variable when the caller has
//! none; in a file such a line is skipped instead. Values are taken as they stand: no quotes, no expansion.
//! The caller's environment comes as a function, as only the command line may read the real one.

use std::collections::HashMap;
use std::path::Path;

use super::error::{EnvFileProblem, SpecError};

/// Looks a variable of the caller up.
pub type CallerEnv<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// One variable to set, or (without a value) to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvSetting {
    name: String,
    value: Option<String>,
}

impl EnvSetting {
    /// Sets `name` to `value`.
    pub fn set(name: &str, value: &str) -> Result<Self, SpecError> {
        Self::checked(name, Some(value.to_owned()))
    }

    /// Reads one `-e`: `KEY=VALUE`, or `KEY` for the caller's value.
    pub fn parse(text: &str, caller: &CallerEnv<'_>) -> Result<Self, SpecError> {
        match text.split_once('=') {
            Some((name, value)) => Self::checked(name, Some(value.to_owned())).map_err(|error| match error {
                SpecError::EnvName(_) => SpecError::EnvName(text.to_owned()),
                other => other,
            }),
            None => Self::checked(text, caller(text)),
        }
    }

    fn checked(name: &str, value: Option<String>) -> Result<Self, SpecError> {
        if name.is_empty() || name.contains('=') {
            return Err(SpecError::EnvName(name.to_owned()));
        }
        if name.contains('\0') || value.as_ref().is_some_and(|value| value.contains('\0')) {
            return Err(SpecError::Nul { what: "`--env`".to_owned(), text: name.to_owned() });
        }
        Ok(Self { name: name.to_owned(), value })
    }

    /// The variable's name; never empty, without `=`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value; `None` removes the variable.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }
}

/// Reads the text of an `--env-file`; `path` only names it in errors.
pub fn parse_env_file(path: &Path, bytes: &[u8], caller: &CallerEnv<'_>) -> Result<Vec<EnvSetting>, SpecError> {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut settings = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let setting = parse_line(line, caller).map_err(|problem| SpecError::EnvFile {
            path: path.to_owned(),
            line: index + 1,
            problem,
        })?;
        settings.extend(setting);
    }
    Ok(settings)
}

fn parse_line(line: &[u8], caller: &CallerEnv<'_>) -> Result<Option<EnvSetting>, EnvFileProblem> {
    let line = std::str::from_utf8(line).map_err(|_| EnvFileProblem::NotUtf8)?;
    let line = line.strip_suffix('\r').unwrap_or(line).trim_start();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, value) = line.split_once('=').map_or((line, None), |(name, value)| (name, Some(value)));
    if name.is_empty() {
        return Err(EnvFileProblem::NoName);
    }
    if name.contains(char::is_whitespace) {
        return Err(EnvFileProblem::WhiteSpace(name.to_owned()));
    }
    if line.contains('\0') {
        return Err(EnvFileProblem::Nul);
    }
    let value = value.map(str::to_owned).or_else(|| caller(name));
    Ok(value.map(|value| EnvSetting { name: name.to_owned(), value: Some(value) }))
}

/// An environment in the making: a later value wins but keeps the place of the first.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// A removed variable leaves an empty place, so that the indices stay good.
    entries: Vec<(String, Option<String>)>,
    places: HashMap<String, usize>,
}

impl Environment {
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.put(name, Some(value.to_owned()));
    }

    pub(super) fn apply(&mut self, setting: &EnvSetting) {
        self.put(&setting.name, setting.value.clone());
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).and_then(|&place| self.entries[place].1.as_deref())
    }

    /// The variables as `KEY=VALUE`, each once.
    pub(super) fn into_list(self) -> Vec<String> {
        self.entries.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name}={value}"))).collect()
    }

    fn put(&mut self, name: &str, value: Option<String>) {
        if let Some(&place) = self.places.get(name) {
            self.entries[place].1 = value;
        } else {
            self.places.insert(name.to_owned(), self.entries.len());
            self.entries.push((name.to_owned(), value));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn caller(name: &str) -> Option<String> {
        (name == "HAVE").then(|| "it".to_owned())
    }

    #[test]
    fn one_setting() {
        for (text, name, value) in [
            ("A=1", "A", Some("1")),
            ("A=", "A", Some("")),
            ("A=b=c", "A", Some("b=c")),
            ("A=\"q\"", "A", Some("\"q\"")),
            ("HAVE", "HAVE", Some("it")),
            ("LACK", "LACK", None),
            ("a b=c", "a b", Some("c")),
        ] {
            let setting = EnvSetting::parse(text, &caller).unwrap();
            assert_eq!((setting.name(), setting.value()), (name, value), "{text}");
        }
        for bad in ["", "=x", "A\0=1", "A=\0"] {
            assert!(EnvSetting::parse(bad, &caller).is_err(), "`{bad}` was accepted");
        }
        assert!(EnvSetting::parse("=x", &caller).unwrap_err().to_string().contains("`=x`"));
    }

    #[test]
    fn a_file_is_dockers() {
        let text = b"\xef\xbb\xbfA=1\r\n# no\n\n  B = spaced is no name? \n";
        let error = parse_env_file(Path::new("e"), text, &caller).unwrap_err().to_string();
        assert_eq!(error, "`--env-file` e, line 4: the name `B ` holds white space");

        let text = b"A=1\r\n#x\n\n  B='kept' \nHAVE\nLACK\nC=#not a comment\n";
        let settings = parse_env_file(Path::new("e"), text, &caller).unwrap();
        let pairs: Vec<_> = settings.iter().map(|s| (s.name(), s.value().unwrap())).collect();
        assert_eq!(pairs, [("A", "1"), ("B", "'kept' "), ("HAVE", "it"), ("C", "#not a comment")]);
    }

    #[test]
    fn a_bad_file_names_its_line() {
        for (text, line, problem) in [
            (&b"A=1\n=2"[..], 2, EnvFileProblem::NoName),
            (b"A=\xff", 1, EnvFileProblem::NotUtf8),
            (b"\n\nA=\0", 3, EnvFileProblem::Nul),
            (b"A B=1", 1, EnvFileProblem::WhiteSpace("A B".to_owned())),
        ] {
            let error = parse_env_file(Path::new("e"), text, &caller).unwrap_err();
            let SpecError::EnvFile { line: found, problem: what, .. } = error else { panic!("{error}") };
            assert_eq!((found, what), (line, problem));
        }
    }

    #[test]
    fn later_wins_in_the_first_place() {
        let mut environment = Environment::default();
        environment.set("A", "1");
        environment.set("B", "2");
        environment.set("C", "3");
        environment.set("A", "4");
        environment.apply(&EnvSetting::parse("B", &|_| None).unwrap());
        assert_eq!(environment.get("B"), None);
        assert_eq!(environment.into_list(), ["A=4", "C=3"]);
    }

    proptest! {
        #[test]
        fn merging_keeps_names_unique_and_the_last_value(pairs in prop::collection::vec(("[A-D]{1,2}", prop::option::of("[a-z=]{0,3}")), 0..20)) {
            let mut environment = Environment::default();
            let mut last = HashMap::new();
            for (name, value) in &pairs {
                environment.apply(&EnvSetting::checked(name, value.clone()).unwrap());
                last.insert(name.clone(), value.clone());
            }
            let list = environment.into_list();
            prop_assert_eq!(list.len(), last.values().flatten().count());
            for entry in list {
                let (name, value) = entry.split_once('=').unwrap();
                prop_assert_eq!(last[name].as_deref(), Some(value));
            }
        }

        #[test]
        fn no_file_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(settings) = parse_env_file(Path::new("e"), &bytes, &|_| None) {
                prop_assert!(settings.iter().all(|setting| !setting.name().is_empty() && !setting.name().contains(['=', '\0'])));
            }
        }
    }
}
