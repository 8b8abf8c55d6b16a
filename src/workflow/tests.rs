//! Over the whole schema: each key with each kind of wrong value, each key misspelled, and files that no editor makes.

use std::time::{Duration, Instant};

use super::fields::Keys;
use super::file::{self, parse};
use super::mistake::{Mistake, Problem};

/// The kinds of value that a key is tried with: nothing, a boolean, a number, text, a list, a mapping.
const KINDS: [&str; 6] = ["~", "true", "7", "some text", "[x]", "{x: y}"];

/// Lines of a workflow with `@` where the value goes, the key that a message names, and what each of [`KINDS`] gives:
/// `.` good, `t` wrong type, `v` wrong value, `k` unknown key.
const WHOLE_SCHEMA: &[(&str, &str, &str)] = &[
    ("name: @", "name", "t..vtt"),
    ("help: @", "help", "t...tt"),
    ("provider: @", "provider", "t...tt"),
    ("image: @", "image", "t..vtt"),
    ("commands: @", "commands", "t....t"),
    ("commands: [@]", "commands", "....tt"),
    ("before_run: @", "before_run", "t....t"),
    ("before_run: [@]", "before_run", "....tt"),
    ("setup: @", "setup", "t....t"),
    ("entrypoint: @", "entrypoint", "t....t"),
    ("entrypoint: [@]", "entrypoint", "t...tt"),
    ("env: @", "env", "tttt.."),
    ("env: [@]", "env", "t..vtt"),
    ("env: {A: @}", "A", "....tt"),
    ("environment: @", "environment", "tttt.."),
    ("working_dir: @", "working_dir", "t...tt"),
    ("home_dir: @", "home_dir", "t...tt"),
    ("artifacts: @", "artifacts", "tttt.t"),
    ("artifacts: [@]", "artifacts", "t...tk"),
    ("artifacts: [{path: @}]", "path", "t...tt"),
    ("artifacts: [{path: a, mount: @}]", "mount", "t.tttt"),
    ("cache: @", "cache", "tttt.t"),
    ("cache: [@]", "cache", "t...tk"),
    ("cache: [{path: @}]", "path", "t...tt"),
    ("deps: @", "deps", "tttt.t"),
    ("deps: [@]", "deps", "t...tk"),
    ("deps: [{workflow: @}]", "workflow", "t...tt"),
    ("deps: [{tag: @}]", "tag", "t...tt"),
    ("ports: @", "ports", "tv.vvt"),
    ("ports: [@]", "ports", "tv.vtt"),
    ("resources: @", "resources", "tttttk"),
    ("resources: {cpu: @}", "cpu", "tv.vtt"),
    ("resources: {memory: @}", "memory", "tv.vtt"),
    ("resources: {shm_size: @}", "shm_size", "tv.vtt"),
    ("resources: {gpu: @}", "gpu", "tv.vtk"),
    ("resources: {gpu: {name: @}}", "name", "t...tt"),
    ("resources: {gpu: {count: @}}", "count", "tv.vtt"),
    ("resources: {gpu: {memory: @}}", "memory", "tv.vtt"),
    ("resources: {interruptible: @}", "interruptible", "t.tttt"),
    ("resources: {local: @}", "local", "t.tttt"),
    ("resources: {remote: @}", "remote", "t.tttt"),
    ("registry_auth: @", "registry_auth", "tttttk"),
    ("registry_auth: {password: x, username: @}", "username", "t...tt"),
    ("registry_auth: {username: x, password: @}", "password", "t...tt"),
    ("file: @", "file", "t...tt"),
    ("requirements: @", "requirements", "t...tt"),
    ("version: @", "version", "t...tt"),
    ("python: @", "python", "t...tt"),
];

#[test]
fn every_key_with_every_kind_of_value() {
    for (template, key, outcomes) in WHOLE_SCHEMA {
        for (kind, outcome) in KINDS.iter().zip(outcomes.chars()) {
            let head = if key == &"name" && *template == "name: @" { "help: x" } else { "name: a" };
            let line = format!("    {}", template.replace('@', kind));
            let found = parse("w.yaml", format!("workflows:\n  - {head}\n{line}\n").as_bytes());
            let Some(mistake) = found.err() else {
                assert_eq!(outcome, '.', "{line} is accepted");
                continue;
            };
            let (text, span) = (mistake.to_string(), mistake.span());
            let letter = match mistake.problem() {
                Problem::WrongType { .. } => 't',
                Problem::BadValue { .. } => 'v',
                Problem::UnknownKey { .. } => 'k',
                other => panic!("{line} gave {other:?}"),
            };
            assert_eq!(letter, outcome, "{line} gave {text}");
            // Nothing has no place of its own, and of a list or a mapping the first item may be what is wrong.
            let value = 5 + template.find('@').unwrap();
            let own = if *kind == "~" { 5..=value } else { value..=value + 1 };
            assert!(span.line == 3 && own.contains(&span.column), "{line} gave {text}");
            assert!(text.starts_with(&format!("w.yaml:3:{}: ", span.column)), "{line} gave {text}");
            let named = if letter == 'k' { "unknown key `x` in ".to_owned() } else { format!(": `{key}` ") };
            assert!(text.contains(&named), "{line} gave {text}");
            let says_what_to_do = ["must be ", "expected ", "hint: "].iter().any(|word| text.contains(word));
            assert!(says_what_to_do, "{line} gave {text}");
        }
    }
}

/// The tables of keys, and a workflow with a key `@` of that table.
const TABLES: &[(&Keys, &str)] = &[
    (&file::WORKFLOW, "@: x"),
    (&file::RESOURCES, "resources: {@: x}"),
    (&file::GPU, "resources: {gpu: {@: x}}"),
    (&file::ARTIFACT, "artifacts: [{@: x}]"),
    (&file::CACHE, "cache: [{@: x}]"),
    (&file::DEPENDENCY, "deps: [{@: x}]"),
    (&file::REGISTRY_AUTH, "registry_auth: {@: x}"),
];

#[test]
fn the_table_above_is_the_whole_schema() {
    let tried = |table: &str, key: &str| {
        WHOLE_SCHEMA.iter().any(|(template, named, _)| {
            *named == key && table.split('@').next().is_some_and(|before| template.starts_with(before))
        })
    };
    for (keys, table) in TABLES {
        for key in keys.known.iter().chain(keys.aliases.iter().map(|(alias, _)| alias)) {
            assert!(tried(table, key), "{key} in {table}");
        }
    }
}

#[test]
fn every_key_is_found_again_when_misspelled() {
    for (keys, table) in TABLES {
        for key in keys.known.iter().chain(keys.aliases.iter().map(|(alias, _)| alias)) {
            let swapped = [&key[1..2], &key[..1], &key[2..]].concat();
            for wrong in [format!("{key}x"), key[1..].to_owned(), swapped, key.to_uppercase()] {
                let text = format!("workflows:\n  - name: a\n    {}\n", table.replace('@', &wrong));
                let mistake = parse("w.yaml", text.as_bytes()).unwrap_err();
                let known =
                    |name: &str| keys.known.contains(&name) || keys.aliases.iter().any(|(alias, _)| *alias == name);
                assert!(!known(&wrong), "{wrong} is another key");
                let hint = mistake.problem().hint().unwrap();
                assert!(hint.starts_with("did you mean `"), "{wrong}: {mistake}");
                let place =
                    format!("w.yaml:3:{}: unknown key `{wrong}` in {}", 5 + table.find('@').unwrap(), keys.context);
                assert!(mistake.to_string().starts_with(&place), "{mistake}");
            }
        }
    }
}

fn message(bytes: &[u8]) -> String {
    parse("w.yaml", bytes).map_or_else(|mistake| mistake.to_string(), |file| format!("parsed: {file:?}"))
}

#[test]
fn files_that_no_editor_makes() {
    let item = |value: &str| format!("workflows:\n  - name: a\n    help: {value}\n").into_bytes();
    let deep = |open: &str, close: &str| item(&(open.repeat(100_000) + &close.repeat(100_000)));
    let rows: [(&str, Vec<u8>, &str); 14] = [
        ("tabs", b"workflows:\n\t- name: a\n".to_vec(), "hint: indent with spaces"),
        ("a tab in an item", b"workflows:\n  - name: a\n\thelp: b\n".to_vec(), "hint: indent with spaces"),
        ("not UTF-8", b"workflows:\n  - name: \xff\n".to_vec(), "w.yaml:2:11: the file is not UTF-8: found byte 0xff"),
        ("UTF-16", b"\xff\xfew\0o\0".to_vec(), "w.yaml:1:1: the file is not UTF-8: found byte 0xff"),
        ("NUL", item("a\0b"), "w.yaml:3:"),
        ("an escaped NUL", item("\"a\\0b\""), "`help` is wrong: the text contains a NUL byte"),
        ("a control character", item("a\u{1b}[2J"), "w.yaml:3:"),
        ("deep lists", deep("[", "]"), "nested too deeply"),
        ("deep mappings", deep("{a: ", "}"), "nested too deeply"),
        (
            "a key twice",
            b"workflows:\n  - name: a\n    help: x\n    help: y\n".to_vec(),
            "w.yaml:4:5: key `help` stands",
        ),
        ("workflows twice", b"workflows: []\nworkflows: []\n".to_vec(), "w.yaml:2:1: key `workflows` stands twice"),
        ("two documents", b"workflows: []\n---\nworkflows: []\n".to_vec(), "a second document starts here"),
        ("text that is too long", item(&"x".repeat(20 << 20)), "too large once its aliases are expanded"),
        ("a list as a key", b"workflows:\n  - {[a]: b}\n".to_vec(), "must be a string, found a list"),
    ];
    for (what, bytes, expected) in rows {
        let started = Instant::now();
        let text = message(&bytes);
        assert!(text.contains(expected), "{what} gave {}", text.chars().take(500).collect::<String>());
        assert!(text.starts_with("w.yaml:") && text.len() < 2000, "{what} gave {text}");
        assert!(!text.contains(['\0', '\u{1b}']), "{what} gave {text}");
        assert!(started.elapsed() < Duration::from_secs(10), "{what} took {:?}", started.elapsed());
    }
}

#[test]
fn marks_and_line_ends_of_windows_are_fine() {
    let text = "\u{feff}workflows:\r\n  - name: a\r\n    help: b # c\r\n    commands: |\r\n      x\r\n      y\r\n";
    let file = parse("w.yaml", text.as_bytes()).unwrap();
    assert_eq!(file.workflows[0].help.as_ref().unwrap().value.literal().unwrap(), "b");
    let wrong = text.replace("help", "hlep");
    assert!(message(wrong.as_bytes()).starts_with("w.yaml:3:5: unknown key `hlep`"), "{}", message(wrong.as_bytes()));
}

#[test]
fn merge_keys_are_what_yaml_says() {
    let names = |text: &str| {
        let file = parse("w.yaml", text.as_bytes()).unwrap_or_else(|mistake| panic!("{text}: {mistake}"));
        let help = |workflow: &file::Workflow| workflow.help.as_ref().unwrap().value.literal().unwrap().clone();
        file.workflows.iter().map(|workflow| format!("{}:{}", workflow.name.value, help(workflow))).collect::<Vec<_>>()
    };
    for rest in [
        // What an item says itself goes first, wherever it stands.
        "  - {<<: *base, name: b, help: own}\n",
        "  - {name: b, help: own, <<: *base}\n",
        "  - <<: [*base, *other]\n    name: b\n    help: own\n",
    ] {
        let text = format!("workflows:\n  - &base {{name: a, help: x}}\n  - &other {{name: o, help: y}}\n{rest}");
        assert_eq!(names(&text), ["a:x", "o:y", "b:own"], "{rest}");
    }
    // Of two that are merged, the first goes first.
    let text = "workflows:\n  - &a {name: a, help: x}\n  - &b {name: b, help: y}\n  - {<<: [*a, *b], name: c}\n";
    assert_eq!(names(text), ["a:x", "b:y", "c:x"]);
    let nested = "workflows:\n  - &a {name: a, help: x}\n  - &b {<<: *a, name: b}\n  - {<<: *b, name: c}\n";
    assert_eq!(names(nested), ["a:x", "b:x", "c:x"]);
    for (text, expected) in [
        ("workflows: [{name: a, <<: 3}]", "`<<` takes a mapping"),
        ("workflows: [{name: a, <<: *no}]", "an anchor that does not exist"),
        ("workflows: [&a {name: a, hlep: x}, {<<: *a, name: b}]", "w.yaml:1:26: unknown key `hlep`"),
        ("workflows: [&a {name: a}, {<<: *a, name: b, name: c}]", "key `name` stands twice"),
    ] {
        assert!(message(text.as_bytes()).contains(expected), "{text} gave {}", message(text.as_bytes()));
    }
}

/// Ten levels of ten aliases each stand for ten billion values.
#[test]
fn ten_levels_of_aliases_are_refused_soon() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        text.extend(["a", &level.to_string(), ": &a", &level.to_string(), " [", &items, "]\n"]);
    }
    let started = Instant::now();
    let mistake = parse("w.yaml", text.as_bytes()).unwrap_err();
    assert!(matches!(mistake.problem(), Problem::TooLarge { .. }), "{mistake}");
    assert!(mistake.to_string().contains("hint: write the repeated parts out"), "{mistake}");
    assert!(started.elapsed() < Duration::from_secs(10), "took {:?}", started.elapsed());
}

#[test]
fn ten_thousand_workflows_take_no_time_to_speak_of() {
    let items = (0..10_000)
        .map(|n| format!("  - name: w{n}\n    image: ubuntu\n    commands: [a, b]\n    artifacts: [{{path: out}}]\n"))
        .collect::<Vec<_>>()
        .concat();
    let text = format!("workflows:\n{items}");
    let started = Instant::now();
    let file = parse("w.yaml", text.as_bytes()).unwrap();
    let took = started.elapsed();
    println!("10,000 workflows, {} KiB: {took:?}", text.len() >> 10);
    assert_eq!(file.workflows.len(), 10_000);
    // A machine that does other things as well may be some times slower.
    assert!(took < Duration::from_secs(10), "took {took:?}");
}

/// Checks what must hold for any bytes.
fn assert_bearable(bytes: &[u8]) -> Result<(), proptest::test_runner::TestCaseError> {
    let started = Instant::now();
    if let Err(mistake) = parse("w.yaml", bytes) {
        let printed = mistake.to_string();
        proptest::prop_assert!(printed.starts_with("w.yaml:") && printed.len() < 4000, "{printed}");
        proptest::prop_assert!(!printed.contains('\u{1b}'), "{printed}");
        let _: &Mistake = &mistake;
    }
    proptest::prop_assert!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
    Ok(())
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_are_borne(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        assert_bearable(&bytes)?;
    }

    /// Pieces of honest files in any order.
    #[test]
    fn arbitrary_pieces_are_borne(pieces in proptest::collection::vec(proptest::sample::select(vec![
        "workflows:", "\n", "  - ", "    ", "name: a", "image: x", "env:", "commands:", "|", ">", "[", "]", "{", "}", ", ",
        "&a ", "*a", "<<: ", "!!str ", "\"", "'", "\\", "#", "---\n", "...\n", "\t", "\r\n", "\u{feff}", "${{", "}}", "$",
        "~", "? ", ": ", "0x1", "1e9", "\u{0}", "\u{85}", "é", "resources: {gpu: ", "%YAML 1.2\n", "artifacts:",
    ]), 0..60)) {
        assert_bearable(pieces.concat().as_bytes())?;
        let file = format!("workflows:\n  - name: a\n    {}", pieces.concat());
        assert_bearable(file.as_bytes())?;
    }
}
