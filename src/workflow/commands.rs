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
//! * In a shell, a script of several commands writes the number of each into [`STEP_FILE`] before it starts it, so that a
//!   report can name the one that failed. There each command stands in lines of its own, `|| exit` instead of ` && `.
//! * Empty lines and lines of nothing but a comment are dropped as far as no command is left of them.
//!
//! Only what a POSIX shell knows is used (`sh` is dash, busybox or bash).

use super::interpolate::{Command, Filled};
use crate::engine::STEP_FILE;

/// Longest label of a command, in characters.
const MAX_LABEL: usize = 80;

/// Commands as one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Joined {
    /// The argument.
    pub(super) script: Filled,
    /// A label of each command: the start of its first line, with secrets masked.
    pub(super) steps: Vec<String>,
}

/// Who reads the joined text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// A shell: it is told to note which command it is at.
    Shell,
    /// Perhaps a shell, perhaps not: only what the schema promises.
    Unknown,
}

/// The argument for these commands; `None` when there is nothing to run.
pub(super) fn join(commands: &[Command], reader: Reader) -> Option<Joined> {
    let commands: Vec<&Command> = commands.iter().filter(|command| !is_blank(command.text.expose())).collect();
    if commands.is_empty() {
        return None;
    }
    let text = |of: fn(&Filled) -> &str| {
        let commands: Vec<(&str, bool)> =
            commands.iter().map(|command| (of(&command.text).trim_matches('\n'), command.is_script)).collect();
        match (&commands[..], reader) {
            // Not for a shell, one command is nobody's list: `python -c` gets its script as it is written.
            ([(text, true)], Reader::Unknown) => format!("{text}\n"),
            ([_], _) | (_, Reader::Unknown) => joined(&commands),
            (_, Reader::Shell) => marked(&commands),
        }
    };
    let mut script = Filled::plain(text(Filled::expose));
    if commands.iter().any(|command| command.text.is_secret()) {
        script = script.shown_as(text(Filled::masked));
    }
    Some(Joined { script, steps: commands.iter().map(|command| label(command.text.masked())).collect() })
}

/// The commands joined as the schema says.
fn joined(commands: &[(&str, bool)]) -> String {
    let mut steps: Vec<Step> = Vec::new();
    for (command, is_script) in commands {
        match (is_script, steps.last_mut()) {
            (true, _) => steps.push(Step::Script((*command).to_owned())),
            (false, Some(Step::Line(line))) => *line = format!("{line} && {}", grouped(command)),
            (false, _) => steps.push(Step::Line(grouped(command))),
        }
    }
    let last = steps.pop();
    let before: String = steps.iter().map(Step::then_more).collect();
    before + &last.map(Step::at_the_end).unwrap_or_default()
}

/// The same commands, each with its number written down before it.
fn marked(commands: &[(&str, bool)]) -> String {
    let mut text = String::new();
    for (index, (command, is_script)) in commands.iter().enumerate() {
        let step = if *is_script { Step::Script((*command).to_owned()) } else { Step::Line(grouped(command)) };
        text.push_str(&marker(index + 1));
        text.push_str(&if index + 1 < commands.len() { step.then_more() } else { step.at_the_end() });
    }
    text
}

/// Writes the number of a step down, in decimal from 1 on; leaves `$?` 0 as it was, whether that works or not.
///
/// `command`, because a script may have an `echo` of its own; `>|`, because it may have said `set -C`; in braces, so that
/// neither a complaint nor the trace of `set -x` comes into the log.
fn marker(number: usize) -> String {
    format!("{{ command echo {number} >|{STEP_FILE}; }} 2>/dev/null || :\n")
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

/// What a command is called in reports.
fn label(command: &str) -> String {
    let mut lines = command.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = lines.next().unwrap_or_default();
    let mut label: String = first.chars().take(MAX_LABEL).collect();
    if label.len() < first.len() || lines.next().is_some() {
        label.push_str(" …");
    }
    label
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
    if trimmed.contains('\n') {
        // From a value that was filled in, perhaps within quotes.
        format!("{{ {trimmed}\n}}")
    } else if trimmed.ends_with('&') && !trimmed.contains('#') {
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
    use std::process;

    use super::*;

    fn commands(texts: &[&str]) -> Vec<Command> {
        let command =
            |text: &&str| Command { text: Filled::plain(*text), is_script: text.trim_matches('\n').contains('\n') };
        texts.iter().map(command).collect()
    }

    fn joined_for(reader: Reader, texts: &[&str]) -> Option<String> {
        join(&commands(texts), reader).map(|joined| joined.script.expose().to_owned())
    }

    const SHELLS: [&[&str]; 4] = [&["/bin/sh"], &["/bin/dash"], &["/bin/bash"], &["/bin/busybox", "sh"]];

    /// Exit code, standard output and the step file of a script, as the first process of a container would run it: the
    /// same in each shell that is here.
    fn run_script(script: &str) -> (i32, String, String) {
        let mut results = SHELLS.iter().filter(|shell| Path::new(shell[0]).exists()).map(|shell| {
            let directory = tempfile::tempdir().unwrap();
            let step = directory.path().join("step");
            let script = script.replace(STEP_FILE, step.to_str().unwrap());
            let mut command = process::Command::new(shell[0]);
            let output = command.args(&shell[1..]).args(["-c", &script]).current_dir(&directory).output().unwrap();
            let stdout = String::from_utf8_lossy(&output.stdout).trim_end().replace('\n', " ");
            let step = std::fs::read_to_string(step).unwrap_or_default().trim().to_owned();
            assert!(!String::from_utf8_lossy(&output.stderr).contains("step"), "{shell:?}: {output:?}");
            (output.status.code().unwrap(), stdout, step)
        });
        let first = results.next().unwrap();
        assert!(results.all(|other| other == first), "{script:?} differs between shells, /bin/sh says {first:?}");
        first
    }

    /// Exit code and standard output of commands: the same with and without steps, and where none can be written.
    fn run(texts: &[&str]) -> (i32, String) {
        let (code, output, step) = run_script(&joined_for(Reader::Shell, texts).unwrap());
        let last = commands(texts).iter().filter(|command| !is_blank(command.text.expose())).count();
        assert!(code != 0 || last == 1 || step == last.to_string(), "{texts:?} ended at step {step:?} of {last}");
        let nowhere = joined_for(Reader::Shell, texts).unwrap().replace(STEP_FILE, "/no/such/directory");
        let without = joined(
            &commands(texts)
                .iter()
                .filter(|command| !is_blank(command.text.expose()))
                .map(|command| (command.text.expose().trim_matches('\n'), command.is_script))
                .collect::<Vec<_>>(),
        );
        for other in [nowhere, without] {
            let (other_code, other_output, _) = run_script(&other);
            assert_eq!((other_code, &other_output), (code, &output), "{other:?}");
        }
        (code, output)
    }

    #[test]
    fn plain_commands_are_joined_as_the_page_says() {
        let joined = |commands: &[&str]| joined_for(Reader::Unknown, commands);
        assert_eq!(
            joined(&["mkdir -p output", "echo 'Hello, world!' > output/hello.txt"]).unwrap(),
            "mkdir -p output && echo 'Hello, world!' > output/hello.txt"
        );
        assert_eq!(joined(&["a", "", "\n", "  ", "# c", "b"]).unwrap(), "a && b");
        assert_eq!(joined(&["server -p 80 &", "client"]).unwrap(), "{ server -p 80 & } && client");
        assert_eq!(joined(&["a && b 2>&1 | tee x", "c"]).unwrap(), "a && b 2>&1 | tee x && c");
        assert_eq!(joined(&["a\nb\n"]).unwrap(), "a\nb\n");
        assert_eq!(joined_for(Reader::Shell, &["a\nb\n"]).unwrap(), "set -e\na\nb\n");
        assert_eq!(joined(&["a\nb\n", "c"]).unwrap(), "set -e\na\nb\ncase $? in 0) ;; *) exit $? ;; esac\nset +e\nc");
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
            assert_eq!(run(commands), (code, output.to_owned()), "{commands:?}");
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
            assert_eq!(run(commands), (code, output.to_owned()), "{commands:?}");
        }
    }

    #[test]
    fn a_script_for_a_shell_notes_its_steps() {
        let script = joined_for(Reader::Shell, &["mkdir -p output", "server &", "", "a\nb", "c; d"]).unwrap();
        assert_eq!(
            script,
            "{ command echo 1 >|/run/dockless/step; } 2>/dev/null || :\n\
             mkdir -p output || exit\n\
             { command echo 2 >|/run/dockless/step; } 2>/dev/null || :\n\
             { server & } || exit\n\
             { command echo 3 >|/run/dockless/step; } 2>/dev/null || :\n\
             set -e\na\nb\ncase $? in 0) ;; *) exit $? ;; esac\nset +e\n\
             { command echo 4 >|/run/dockless/step; } 2>/dev/null || :\n\
             { c; d\n}"
        );
        assert_eq!(joined_for(Reader::Shell, &["python train.py"]).unwrap(), "python train.py");
    }

    #[test]
    fn the_step_of_a_failure_is_noted() {
        for (texts, code, step) in [
            (&["true", "false", "true"][..], 1, "2"),
            (&["true", "true", "(exit 9)"], 9, "3"),
            (&["true", "# nothing", "(exit 9)"], 9, "2"),
            (&["true\ntrue", "true\n(exit 4)\ntrue", "true"], 4, "2"),
            (&["set -C", "set -u", "echo() { exit 3; }", "set -e", "(exit 5)"], 5, "5"),
            (&["sleep 0.01 &", "exit 6", "true"], 6, "2"),
            (&["set -x", "exit 7"], 7, "2"),
            (&["no-such-command-here 2>/dev/null", "true"], 127, "1"),
        ] {
            let (found, _, noted) = run_script(&joined_for(Reader::Shell, texts).unwrap());
            assert_eq!((found, noted.as_str()), (code, step), "{texts:?}");
        }
    }

    #[test]
    fn steps_change_nothing_that_a_command_sees() {
        for (commands, code, output) in [
            (&["true", "echo $?"][..], 0, "0"),
            (&["sleep 0.01 & x=$!", "test $! = $x && wait $! && echo $?"], 0, "0"),
            (&["set -C", "echo a > f", "echo b"], 0, "b"),
            (&["echo() { printf 'mine %s\\n' \"$1\"; }", "echo a", "echo b"], 0, "mine a mine b"),
            (&["set -e", "set -u", "echo a"], 0, "a"),
            (&["trap 'echo bye' EXIT", "echo a", "exit 3"], 3, "a bye"),
            (&["exec 3>&1", "echo a >&3", "echo b"], 0, "a b"),
            (&["set -- 1 2 3", "shift", "echo $# $1"], 0, "2 2"),
            (&["cd /", "PATH=", "echo a"], 0, "a"),
            (&["umask 777", "echo a"], 0, "a"),
            (&["readonly X=1", "echo $X"], 0, "1"),
            (&["echo a | tr a b", "! false", "echo c"], 0, "b c"),
        ] {
            assert_eq!(run(commands), (code, output.to_owned()), "{commands:?}");
        }
    }

    #[test]
    fn labels_are_short_and_hold_no_secret() {
        let labels = |texts: &[&str]| join(&commands(texts), Reader::Shell).unwrap().steps;
        assert_eq!(labels(&["  a b ", "# c\n\nd\ne", "f\n"]), ["a b", "d …", "f"]);
        assert_eq!(labels(&["x".repeat(200).as_str()])[0].chars().count(), MAX_LABEL + 2);
        let secret = Command { text: Filled::secret("hunter2"), is_script: false };
        let joined = join(&[secret.clone(), secret], Reader::Shell).unwrap();
        assert_eq!(joined.steps, ["****", "****"]);
        assert!(joined.script.expose().contains("hunter2 || exit") && !format!("{joined:?}").contains("hunter2"));
    }

    #[test]
    fn a_value_of_several_lines_stays_in_its_command() {
        let texts = ["false", "printf '%s ' 'a\n&& b'; echo c", "echo d"];
        let mut commands = commands(&texts);
        commands[1].is_script = false;
        assert_eq!(run_script(join(&commands, Reader::Shell).unwrap().script.expose()).0, 1);
        commands.remove(0);
        let (code, output, _) = run_script(join(&commands, Reader::Shell).unwrap().script.expose());
        assert_eq!((code, output.as_str()), (0, "a && b c d"));
    }

    /// Where the shell does that (dash does not), the last command is the process itself and gets its signals.
    #[test]
    fn the_shell_is_replaced_by_its_last_command() {
        let pid = "sh -c 'echo $$'";
        for commands in [&[pid][..], &["echo $$", pid]] {
            let script = joined_for(Reader::Shell, commands).unwrap();
            for shell in SHELLS[2..].iter().filter(|shell| Path::new(shell[0]).exists()) {
                let mut command = process::Command::new(shell[0]);
                let command = command.args(&shell[1..]).args(["-c", &script]).stdout(process::Stdio::piped());
                let child = command.spawn().unwrap();
                let pid = child.id().to_string();
                let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
                assert!(output.lines().all(|line| line == pid), "{shell:?}: {output} and {pid}");
            }
        }
    }
}
