//! Libraries made with the real compiler and linker, for tests.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Compiles a library without libc; `options` come last.
pub(in crate::gpu) fn library(path: &Path, soname: &str, code: &str, options: &[&str]) {
    let source = path.with_extension("made.c");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&source, code).unwrap();
    let name = format!("-Wl,-soname,{soname}");
    #[expect(clippy::disallowed_methods, reason = "the real compiler makes what is read")]
    let mut command = Command::new("cc");
    command.args(["-shared", "-nostdlib", "-fPIC", "-Wl,--no-as-needed", &name, "-o"]);
    let output = command.arg(path).arg(&source).args(options).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    fs::remove_file(source).unwrap();
}

/// A library that offers one function for each of these versions, as glibc's do; oldest first.
pub(in crate::gpu) fn versioned(path: &Path, soname: &str, versions: &[&str]) {
    let (mut code, mut script, mut before) = (String::new(), String::new(), String::new());
    for version in versions {
        let function = function(version);
        writeln!(code, "int {function}(void) {{ return 1; }}").unwrap();
        writeln!(script, "{version} {{ global: {function}; }}{before};").unwrap();
        before = format!(" {version}");
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let map = path.with_extension("map");
    fs::write(&map, script).unwrap();
    library(path, soname, &code, &[&format!("-Wl,--version-script={}", map.display())]);
    fs::remove_file(map).unwrap();
}

/// A library that calls those functions of the libraries at the paths.
pub(in crate::gpu) fn user(path: &Path, soname: &str, versions: &[&str], libraries: &[&Path]) {
    let mut code = String::from("int user(void) { int sum = 0;\n");
    for version in versions {
        let function = function(version);
        writeln!(code, "extern int {function}(void); sum += {function}();").unwrap();
    }
    code.push_str("return sum; }\n");
    let libraries = libraries.iter().map(|path| path.to_str().unwrap()).collect::<Vec<_>>();
    library(path, soname, &code, &libraries);
}

fn function(version: &str) -> String {
    format!("f_{}", version.replace('.', "_"))
}

/// Code that puts a note into a section of its own, as `NVIDIA`'s compiler does.
pub(in crate::gpu) fn note_code(section: &str, owner: &str, content: &str) -> String {
    let quoted = content.replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        "__asm__(\".pushsection {section}, \\\"a\\\", %note\\n.balign 4\\n.long 1f - 0f, 3f - 2f, 0\\n\"\n\
         \"0: .asciz \\\"{owner}\\\"\\n1: .balign 4\\n2: .ascii \\\"{}\\\"\\n3: .balign 4\\n.popsection\\n\");\n",
        quoted.replace('\\', "\\\\").replace('"', "\\\""),
    )
}
