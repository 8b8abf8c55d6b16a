//! A program that embeds the library, and the tests of it. Needs root.
//!
//! Started by cargo it runs the tests; started by one of those, with an empty environment and without a terminal, it is the
//! program of an embedder ([`program`]); started by the engine it is a helper. So it has no test harness but this one.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

#[path = "../host/base.rs"]
#[expect(dead_code, reason = "these tests need one image of it")]
mod base;
mod cases;
mod program;
#[path = "../support/mod.rs"]
mod support;

use std::ffi::OsString;
use std::io::Write;
use std::panic::catch_unwind;
use std::process::ExitCode;

use support::env::say;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let text: Vec<String> = words.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    match program::manners() {
        // Threads before it, as below `#[tokio::main]`.
        Some("late") => drop(std::thread::spawn(std::thread::park)),
        // Its own work again in each helper: what the library must not let happen.
        Some("forgetful") => return program::main(&text),
        Some("careless") => {
            if let Some(code) = dockless::engine::entry(words.into_iter().skip(1)) {
                return code;
            }
            return program::main(&text);
        }
        _ => {}
    }
    if let Some(code) = dockless::engine::entry(words) {
        return code;
    }
    if text.first().is_some_and(|word| word == program::WORD) {
        return program::main(&text);
    }
    tests(&text)
}

/// Runs those tests whose name has one of the words in it, as cargo's own harness does.
fn tests(words: &[String]) -> ExitCode {
    if words.iter().any(|word| word == "--list") {
        for (name, _) in &cases::ALL {
            drop(writeln!(std::io::stdout(), "{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
    let mut failed = 0;
    for (name, case) in cases::ALL.iter().filter(|(name, _)| is_wanted(name)) {
        let result = catch_unwind(case);
        say(&format!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" }));
        failed += u32::from(result.is_err());
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
