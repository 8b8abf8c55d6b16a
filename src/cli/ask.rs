//! Questions to whoever sits at the terminal. Where nobody does, nothing is asked.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};

use super::exit::CliError;

/// What Ctrl-C is without its signal.
const CTRL_C: u8 = 3;
/// More than a terminal gives in one line (`N_TTY_BUF_SIZE`).
const MAX_LINE_BYTES: u64 = 8192;

/// Whether somebody can be asked.
pub(super) fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks a question; anything but `y` and `yes` is a no.
pub(super) fn confirm(question: &str) -> Result<bool, CliError> {
    prompt(&format!("{question} [y/N] "));
    let mut answer = Vec::new();
    io::stdin().lock().take(MAX_LINE_BYTES).read_until(b'\n', &mut answer).map_err(failed)?;
    Ok(matches!(answer.trim_ascii().to_ascii_lowercase().as_slice(), b"y" | b"yes"))
}

/// Reads a line that is not shown, without its end.
pub(super) fn hidden_line(question: &str) -> Result<Vec<u8>, CliError> {
    let _restored = Hidden::begin().map_err(|errno| failed(errno.into()))?;
    prompt(question);
    let (mut line, mut stdin) = (Vec::new(), io::stdin().lock().take(MAX_LINE_BYTES));
    // One byte at a time: a line ends at either of two characters.
    for byte in stdin.by_ref().bytes() {
        match byte.map_err(failed)? {
            b'\n' => return Ok(line),
            CTRL_C => {
                prompt("\n");
                return Err(CliError::Usage("nothing was changed".to_owned()));
            }
            byte => line.push(byte),
        }
    }
    Ok(line)
}

fn prompt(text: &str) {
    let mut stderr = io::stderr().lock();
    drop(stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()));
}

fn failed(source: io::Error) -> CliError {
    CliError::Process("read from the terminal", source)
}

/// A terminal that does not show what is typed, until this is dropped. Ctrl-C ends a line instead of this process, which
/// would leave the terminal as it is.
struct Hidden {
    before: Termios,
}

impl Hidden {
    fn begin() -> nix::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO | LocalFlags::ISIG);
        hidden.local_flags.insert(LocalFlags::ECHONL | LocalFlags::ICANON);
        hidden.control_chars[SpecialCharacterIndices::VEOL as usize] = CTRL_C;
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &hidden)?;
        Ok(Self { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}
