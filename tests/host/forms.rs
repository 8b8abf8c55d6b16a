//! Images of every shape that builders make, at the edges of what can be: each pulled or unpacked, and run.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::base::{app_with, base_image, empty};
use crate::registry_service::RegistryService;
use crate::support::env::{Output, TestEnv, entries, finish, have, program, tool, wait_until};
use crate::support::image::{Entry, ImageBuilder, Packing, descriptor, pack};

/// The program with a bound on its open files.
fn with_files(env: &TestEnv, limit: &str, arguments: &[&str]) -> Output {
    let command = env.command(arguments);
    let mut limited = program("prlimit", [format!("--nofile={limit}")]);
    limited.arg(command.get_program()).args(command.get_args()).env_clear().current_dir(env.work());
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    finish(&mut limited)
}

fn stack(layers: u32) -> ImageBuilder {
    // Whiteouts, implicit parents and hard links into the layer below, so that each layer is mended too.
    (0..layers).fold(base_image().dir("many").packing(Packing::Plain), |image, number| {
        let image =
            image.layer().file(&format!("many/{number}"), format!("{number}")).file("many/last", number.to_string());
        match number % 50 {
            49 => image.whiteout(&format!("many/{}", number - 1)),
            48 => image.hardlink(&format!("many/link{number}"), &format!("many/{}", number - 1)),
            _ => image,
        }
    })
}

#[test]
fn an_image_of_127_layers_runs_with_few_open_files() {
    let Some(env) = empty() else { return };
    env.store_image("app", &stack(125).build());
    let output = with_files(
        &env,
        "256:512",
        &["run", "--rm", "--name", &env.name(), "app", "sh", "-c", "ls /many | wc -l; cat /many/last"],
    );
    assert_eq!(output.text(), "126\n124");
    env.assert_clean();
}

#[test]
fn an_image_of_300_layers_runs() {
    let Some(env) = empty() else { return };
    env.store_image("app", &stack(298).build());
    // Of 298 files six are hidden, and six have a second name; one more tells who was last.
    let script = "cd /many; ls | wc -l; cat last link248 247; ls 248";
    for how in ["overlay", "copy"] {
        let words = ["run", "--rm", "--rootfs", how, "--name", &env.name(), "app", "sh", "-c", script];
        let output = with_files(&env, "256:1024", &words);
        assert_eq!(output.code, 1, "{how}: {} {}", output.stdout, output.stderr);
        assert_eq!(output.stdout, "299\n297247247", "{how}");
    }
    env.assert_clean();
}
