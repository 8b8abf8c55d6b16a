//! The commands of a workflow as one argument of `sh -c`.
//!
//! All commands run in one shell, so that `cd` and variables carry over, and one that fails stops the rest:
//!
//! * Commands of one line are joined with ` && `. One with more than a plain command in it (`a; b`, `a || b`, `a # why`)
//!   is put in braces, or its parts would bind to its neighbours: `x && a || b` runs `b` when `x` fails. One that ends in
//!   `&` becomes `{ cmd & }`.
//! * A command of several lines (the multi-line string, or an item `- |`) is a script: loops, functions and here-documents
//!   cannot be joined line by line. It runs as written under `set -e`, so that the first line that fails ends it, with the
//!   exceptions a shell makes: `test -f x && y` as a line of a script does not end it, and of a pipe the last part counts.
//! * Empty lines and lines of nothing but a comment are dropped as far as no command is left of them.
//!
//! Only what a POSIX shell knows is used (`sh` is dash, busybox or bash).

/// The script for these commands; `None` when there is nothing to run.
pub(super) fn join<'a>(commands: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut steps: Vec<Step> = Vec::new();
    for command in commands.into_iter().map(|command| command.trim_matches('\n')).filter(|command| !is_blank(command)) {
        match (command.contains('\n'), steps.last_mut()) {
            (true, _) => steps.push(Step::Script(command.to_owned())),
            (false, Some(Step::Line(line))) => *line = format!("{line} && {}", grouped(command)),
            (false, _) => steps.push(Step::Line(grouped(command))),
        }
    }
    let last = steps.pop()?;
    let before: String = steps.iter().map(Step::then_more).collect();
    Some(before + &last.at_the_end())
}

enum Step {
    /// Commands of one line each, joined.
    Line(String),
    /// A command of several lines.
    Script(String),
}

impl Step {
    /// The step with what stops the rest when it fails.
    fn then_more(&self) -> String {
        match self {
            Self::Line(line) => format!("{line} || exit\n"),
            // In `{ …; } && next` a shell would ignore `set -e`, so the status is looked at afterwards.
            Self::Script(script) => format!("set -e\n{script}\ncase $? in 0) ;; *) exit $? ;; esac\nset +e\n"),
        }
    }

    fn at_the_end(self) -> String {
        match self {
            Self::Line(line) => line,
            Self::Script(script) => format!("set -e\n{script}\n"),
        }
    }
}

/// Whether nothing would run.
fn is_blank(command: &str) -> bool {
    command.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

/// A command of one line that can stand between two ` && `.
fn grouped(command: &str) -> String {
    let trimmed = command.trim();
    // `&&` binds as the join does, and `2>&1` is no list; what is quoted is put in braces for nothing, which is harmless.
    let rest = trimmed.replace("&&", "").replace(">&", "").replace("<&", "");
    if trimmed.ends_with('&') && !trimmed.contains('#') {
        format!("{{ {trimmed} }}")
    } else if trimmed.ends_with('\\') {
        // The backslash takes one line end with it.
        format!("{{ {trimmed}\n\n}}")
    } else if rest.contains([';', '&', '#']) || rest.contains("||") {
        format!("{{ {trimmed}\n}}")
    } else {
        trimmed.to_owned()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests ask a real shell what the joined text does")]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// Exit code and standard output of the joined commands, as the first process of a container would run them: the same
    /// in each shell that is here.
    fn run(commands: &[&str]) -> (i32, String) {
        let joined = join(commands.iter().copied()).unwrap();
        let shells = [vec!["/bin/sh"], vec!["/bin/dash"], vec!["/bin/bash"], vec!["/bin/busybox", "sh"]];
        let mut results = shells.iter().filter(|shell| Path::new(shell[0]).exists()).map(|shell| {
            let directory = tempfile::tempdir().unwrap();
            let mut command = Command::new(shell[0]);
            let output = command.args(&shell[1..]).args(["-c", &joined]).current_dir(&directory).output().unwrap();
            (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).trim_end().replace('\n', " "))
        });
        let first = results.next().unwrap();
        assert!(results.all(|other| other == first), "{joined:?} differs between shells, /bin/sh says {first:?}");
        first
    }

    #[test]
    fn plain_commands_are_joined_as_the_page_says() {
        let joined = |commands: &[&str]| join(commands.iter().copied());
        assert_eq!(
            joined(&["mkdir -p output", "echo 'Hello, world!' > output/hello.txt"]).unwrap(),
            "mkdir -p output && echo 'Hello, world!' > output/hello.txt"
        );
        assert_eq!(joined(&["a", "", "\n", "  ", "# c", "b"]).unwrap(), "a && b");
        assert_eq!(joined(&["server -p 80 &", "client"]).unwrap(), "{ server -p 80 & } && client");
        assert_eq!(joined(&["a && b 2>&1 | tee x", "c"]).unwrap(), "a && b 2>&1 | tee x && c");
        assert_eq!(joined(&["a\nb\n"]).unwrap(), "set -e\na\nb\n");
        assert_eq!(joined(&["a\n"]).unwrap(), "a");
        assert_eq!(joined(&[]), None);
        assert_eq!(joined(&["", "# only\n\n  # comments\n"]), None);
    }

    #[test]
    fn a_failing_command_stops_the_rest_with_its_code() {
        for (commands, code, output) in [
            (&["echo 1", "echo 2"][..], 0, "1 2"),
            (&["echo 1", "(exit 7)", "echo 2"], 7, "1"),
            (&["(exit 7)", "echo a; echo b"], 7, ""),
            (&["(exit 7)", "echo a || echo b"], 7, ""),
            (&["(exit 7)", "echo a && echo b"], 7, ""),
            (&["false || echo a", "echo b"], 0, "a b"),
            (&["false; echo a", "echo b"], 0, "a b"),
            (&["test -f none && echo a", "echo b"], 1, ""),
            (&["echo a # why", "echo b"], 0, "a b"),
            (&["(exit 7) # why", "echo b"], 7, ""),
            (&["echo 'a;b' \"c && d\" # '", "echo e"], 0, "a;b c && d e"),
            (&["echo a \\", "echo b"], 0, "a b"),
            (&["echo 'a\\'", "echo b\\\\"], 0, "a\\ b\\"),
            (&["if true; then echo a; fi", "for i in 1 2; do echo $i; done"], 0, "a 1 2"),
            (&["f() { echo $1; }", "f x"], 0, "x"),
            (&["cd /tmp", "X=1", "export Y=2", "echo $PWD $X $Y"], 0, "/tmp 1 2"),
            (&["exit 3", "echo a"], 3, ""),
            (&["no-such-command-here 2>/dev/null", "echo a"], 127, ""),
        ] {
            assert_eq!(run(commands), (code, output.to_owned()), "{commands:?}: {:?}", join(commands.iter().copied()));
        }
    }

    #[test]
    fn a_background_command_does_not_hold_the_next_one() {
        assert_eq!(run(&["{ sleep 0.1; echo late; } &", "echo first", "wait"]), (0, "first late".to_owned()));
        assert_eq!(run(&["echo a & # why", "wait", "echo b"]), (0, "a b".to_owned()));
        assert_eq!(run(&["sleep 0.1 && echo late &", "echo first; wait"]), (0, "first late".to_owned()));
        assert_eq!(run(&["echo 'x &'", "echo b"]), (0, "x & b".to_owned()));
        assert_eq!(run(&["sleep 0.1 &\necho a\nwait"]), (0, "a".to_owned()));
    }

    #[test]
    fn a_multi_line_string_is_a_script_that_stops_at_a_failure() {
        for (script, code, output) in [
            ("echo a\necho b\n", 0, "a b"),
            ("echo a\n(exit 7)\necho b\n", 7, "a"),
            ("for i in 1 2\ndo\n  echo $i\ndone\necho 3\n", 0, "1 2 3"),
            ("for i in 1 2\ndo\n  echo $i\n  (exit 7)\ndone\necho 3\n", 7, "1"),
            ("if false\nthen\n  echo a\nelse\n  echo b\nfi\n", 0, "b"),
            ("cat <<END\none && two\n\n# three\nEND\necho four\n", 0, "one && two  # three four"),
            ("case x in\n  x) echo a ;;\nesac\n", 0, "a"),
            ("echo a \\\n  b \\\n  c\necho d\n", 0, "a b c d"),
            ("echo a &&\n  echo b ||\n  echo c\n", 0, "a b"),
            ("echo 'a\n\nb'\n", 0, "a  b"),
            ("f() {\n  echo $1\n}\n\n# comment\nf x # more\n", 0, "x"),
            ("test -f none && echo a\necho b\n", 0, "b"),
            ("if true; then\n  false\nfi\necho b\n", 1, ""),
            ("\n\n# only one\n\n  echo a\n\n", 0, "a"),
        ] {
            assert_eq!(run(&[script]), (code, output.to_owned()), "{script:?}");
        }
    }

    #[test]
    fn scripts_and_lines_mix() {
        for (commands, code, output) in [
            (&["echo a", "echo b\necho c", "echo d"][..], 0, "a b c d"),
            (&["(exit 7)", "echo b\necho c", "echo d"], 7, ""),
            (&["echo a", "echo b\n(exit 7)\necho c", "echo d"], 7, "a b"),
            (&["echo a", "echo b\n(exit 7)", "echo d"], 7, "a b"),
            (&["echo a\ntest -f none && echo b", "echo c"], 1, "a"),
            (&["true\ntrue", "test -f none && echo a", "echo b"], 1, ""),
            (&["true\ntrue", "false || echo a", "echo b"], 0, "a b"),
            (&["cat <<END\nx\nEND", "cat <<END\ny\nEND", "echo z"], 0, "x y z"),
            (&["X=1\ncd /tmp", "echo $X $PWD"], 0, "1 /tmp"),
            (&["echo a\necho b # why", "echo c # why"], 0, "a b c"),
        ] {
            assert_eq!(run(commands), (code, output.to_owned()), "{commands:?}: {:?}", join(commands.iter().copied()));
        }
    }
}
