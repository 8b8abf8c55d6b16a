//! Tables on a terminal, which is a real one, and in a pipe.

use std::fs::File;
use std::io::Read;

use nix::pty::{Winsize, openpty};

use crate::support::env::TestEnv;
use crate::support::image::ImageBuilder;

const NAME: &str = "a-rather-long-team-name/with-an-even-longer-project-name/and-an-image:with-a-tag";

/// What `dockless images` shows on a terminal with so many columns.
fn on_terminal(env: &TestEnv, columns: u16) -> String {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(Some(&size), None).unwrap();
    let mut command = env.command(["images"]);
    let mut child = command.stdout(terminal.slave).spawn().unwrap();
    // The command holds the last copy of the terminal's other end, which must go for the output to end.
    drop(command);
    let (mut shown, mut buffer, mut master) = (Vec::new(), [0; 4096], File::from(terminal.master));
    // The end is an error there (EIO).
    while let Ok(read @ 1..) = master.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..read]);
    }
    assert!(child.wait().unwrap().success());
    String::from_utf8(shown).unwrap().replace("\r\n", "\n")
}

#[test]
fn tables_fit_the_terminal_and_are_whole_in_a_pipe() {
    let env = TestEnv::new().image(NAME, || ImageBuilder::new().dir("bin").platform("linux/amd64"));
    let piped = env.run(["images"]).code(0).stdout;
    assert!(piped.contains(NAME) && piped.lines().count() == 2, "{piped}");
    for columns in [20, 40, 60, 80] {
        let shown = on_terminal(&env, columns);
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= usize::from(columns)), "{columns}: {shown}");
        assert!(shown.contains('…'), "{shown}");
    }
    let sixty = on_terminal(&env, 60);
    assert!(sixty.contains("a-rather-") && sixty.contains("linux/amd64"), "only the widest are cut: {sixty}");
    assert_eq!(on_terminal(&env, 300), piped);
    assert_eq!(on_terminal(&env, 0), piped, "a terminal that does not know");
}
