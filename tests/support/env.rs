//! A place of its own for each test: a store, a state directory, a home, and the program run in them.
//!
//! Nothing here is shared between tests, so that they may run side by side; the machine's own store is never touched.
//! [`TestEnv::assert_clean`] is what "nothing left behind" means.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place of the tests that starts programs and reads the environment"
)]

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::image::{BuiltImage, ImageBuilder};

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_dockless");

/// After this long a command counts as hanging.
const PATIENCE: Duration = Duration::from_secs(120);
/// A process that was told to end needs a moment to be gone.
const LEAVING: Duration = Duration::from_secs(5);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// See the module.
#[derive(Debug)]
pub(crate) struct TestEnv {
    dir: TempDir,
    prefix: String,
    next_name: AtomicU32,
}

impl TestEnv {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("dockless-test-").tempdir().expect("a directory for the test");
        for name in ["home", "work"] {
            fs::create_dir(dir.path().join(name)).expect("a directory for the test");
        }
        let prefix = format!("t{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { dir, prefix, next_name: AtomicU32::new(0) }
    }

    /// A directory that holds all others, and is entered by nobody but its owner.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir().join("root")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir().join("state")
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.dir().join("home")
    }

    /// Where GPUs are leased.
    pub(crate) fn leases(&self) -> PathBuf {
        self.dir().join("gpus")
    }

    /// Where addresses are leased.
    pub(crate) fn network(&self) -> PathBuf {
        self.dir().join("network")
    }

    /// Where commands are run, and for the files of the test.
    pub(crate) fn work(&self) -> PathBuf {
        self.dir().join("work")
    }

    /// Writes a file below [`TestEnv::work`], with its directories; returns its path.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.work().join(path);
        fs::create_dir_all(path.parent().expect("a path with a parent")).expect("a directory for the file");
        fs::write(&path, content).expect("a file of the test");
        path.into_os_string().into_string().expect("a path in UTF-8")
    }

    /// A name for a run that nobody else on this machine has.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.prefix, self.next_name.fetch_add(1, Ordering::Relaxed))
    }

    /// Puts an image into the store as another tool would: with its blobs, not unpacked.
    pub(crate) fn store_image(&self, name: &str, image: &BuiltImage) {
        image.write_layout(&self.root(), name);
    }

    /// The same with an image made on the spot.
    pub(crate) fn image(self, name: &str, make: impl FnOnce() -> ImageBuilder) -> Self {
        self.store_image(name, &make().build());
        self
    }

    /// The program with `--root` and `--state`, and nothing of our own environment.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        // A test binary that was carried to another machine is told where the program is there.
        let binary = std::env::var_os("DOCKLESS_TEST_BINARY").unwrap_or_else(|| BINARY.into());
        let mut command = Command::new(binary);
        command.arg("--root").arg(self.root()).arg("--state").arg(self.state()).args(arguments);
        // Not this machine's own, which other tests and real runs lease from.
        command
            .env_clear()
            .env("DOCKLESS_GPU_LEASES", self.leases())
            .env("DOCKLESS_NETWORK", self.network())
            .env("HOME", self.home())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.current_dir(self.work()).stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    #[track_caller]
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        finish(&mut self.command(arguments))
    }

    /// `run --rm --name NAME ARGUMENTS…` to its end.
    #[track_caller]
    pub(crate) fn container(&self, arguments: &[&str]) -> Output {
        let name = self.name();
        self.run(["run", "--rm", "--name", &name].iter().chain(arguments))
    }

    /// What a shell script prints in a container of the image `app`, and its exit code; `flags` are those of `run`.
    #[track_caller]
    pub(crate) fn script(&self, flags: &[&str], script: &str) -> Output {
        self.container(&[flags, &["app", "sh", "-c", script]].concat())
    }

    /// Starts the program.
    #[track_caller]
    pub(crate) fn spawn<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Running {
        Running::start(&mut self.command(arguments))
    }

    /// The record of a run as it stands on disk.
    #[track_caller]
    pub(crate) fn record(&self, run: &str) -> Value {
        let path = self.root().join("runs").join(run).join("run.json");
        serde_json::from_slice(&fs::read(&path).expect("the record of the run")).expect("a record in json")
    }

    /// Fails unless nothing of any run is left: no process, mount, cgroup, lock, half-written file or runtime state.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        self.assert_clean_but(&[]);
    }

    /// The same with processes that may go on.
    #[track_caller]
    pub(crate) fn assert_clean_but(&self, expected: &[i32]) {
        let until = Instant::now() + LEAVING;
        let is_left = |line: &String| !expected.iter().any(|pid| line.starts_with(&format!("process {pid}:")));
        let look = || self.left_behind().into_iter().filter(is_left).collect::<Vec<_>>();
        let mut left = look();
        while !left.is_empty() && Instant::now() < until {
            sleep(Duration::from_millis(20));
            left = look();
        }
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }

    /// Fails unless the store is as empty as a new one, apart from what [`TestEnv::assert_clean`] looks at.
    #[track_caller]
    pub(crate) fn assert_nothing_stored(&self) {
        let mut found = Vec::new();
        for dir in ["blobs/sha256", "blobs/sha512", "layers/sha256", "layers/sha512", "runs", "artifacts"] {
            found.extend(entries(&self.root().join(dir)));
        }
        assert!(found.is_empty(), "stored: {found:?}");
        let index = fs::read_to_string(self.root().join("index.json")).unwrap_or_default();
        assert!(!index.contains("digest"), "an image was named: {index}");
    }

    /// Names of the blobs and unpacked layers in the store.
    pub(crate) fn stored(&self) -> Vec<PathBuf> {
        ["blobs/sha256", "layers/sha256"].iter().flat_map(|dir| entries(&self.root().join(dir))).collect()
    }

    fn left_behind(&self) -> Vec<String> {
        let mut left = Vec::new();
        for dir in [self.state(), self.root().join("tmp"), self.root().join("trash"), self.root().join("active")] {
            // The journal of what happened outlives runs.
            let others = entries(&dir).into_iter().filter(|path| !path.ends_with("events.jsonl"));
            left.extend(others.map(|path| format!("file {}", path.display())));
        }
        let is_note =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("holder."));
        left.extend(
            entries(&self.leases()).iter().filter(|path| is_note(path)).map(|path| format!("note {}", path.display())),
        );
        left.extend(entries(&self.network().join("leases")).iter().map(|path| format!("lease {}", path.display())));
        let mounts = fs::read_to_string("/proc/mounts").expect("the mounts of this machine");
        let here = self.dir().to_str().expect("a path in UTF-8");
        left.extend(mounts.lines().filter(|line| line.contains(here)).map(|line| format!("mount {line}")));
        left.extend(self.cgroups().iter().map(|path| format!("cgroup {}", path.display())));
        left.extend(self.processes().iter().map(|(pid, words)| format!("process {pid}: {words}")));
        left
    }

    /// Cgroups of this test's runs, in all hierarchies.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let recorded: Vec<String> = entries(&self.root().join("runs"))
            .iter()
            .filter_map(|run| serde_json::from_slice::<Value>(&fs::read(run.join("run.json")).ok()?).ok())
            .filter_map(|record| Some(record["id"].as_str()?.to_owned()))
            .collect();
        let named = format!("{}-", self.prefix);
        let all = cgroup_mounts().into_iter().flat_map(|mount| entries(&mount.join("dockless")));
        all.filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.is_dir() && (name.starts_with(&named) || recorded.iter().any(|id| *id == name))
        })
        .collect()
    }

    /// Processes that name this test's directory in their arguments, descriptors or mounts.
    fn processes(&self) -> Vec<(i32, String)> {
        let here = self.dir().to_str().expect("a path in UTF-8");
        let mut found = Vec::new();
        for process in entries(Path::new("/proc")) {
            let Some(pid) = process.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok()) else { continue };
            let read = |name: &str| fs::read(process.join(name)).unwrap_or_default();
            let words = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            let mounts = String::from_utf8_lossy(&read("mountinfo")).contains(here);
            let holds =
                || entries(&process.join("fd")).iter().any(|fd| fs::read_link(fd).is_ok_and(|it| it.starts_with(here)));
            // A process between fork and exec, of a test beside this one, still has all of our own.
            let is_ours = u32::try_from(pid).is_ok_and(|pid| pid == std::process::id());
            if !is_ours && !words.starts_with(OWN_BINARY.as_str()) && (words.contains(here) || mounts || holds()) {
                found.push((pid, words));
            }
        }
        found
    }
}

impl Drop for TestEnv {
    /// A test that fails must not leave runs behind that others stumble over; its store goes with it.
    fn drop(&mut self) {
        if std::thread::panicking() && self.root().join("runs").exists() {
            let runs = self.command(["ps", "-q"]).output().map(|output| output.stdout).unwrap_or_default();
            let runs = String::from_utf8_lossy(&runs);
            let runs: Vec<&str> = runs.lines().collect();
            if !runs.is_empty() {
                drop(self.command([&["rm", "-f"], &runs[..]].concat()).output());
            }
        }
    }
}

static OWN_BINARY: std::sync::LazyLock<String> =
    std::sync::LazyLock::new(|| std::env::args().next().expect("the name of this program"));

/// How a command ended.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// Its exit code; 128+n when signal n killed it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    fn new(status: ExitStatus, stdout: String, stderr: String) -> Self {
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Self { code, stdout, stderr }
    }

    /// Fails unless the command ended with `code`.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Standard output of a command that succeeded, without white space around it.
    #[track_caller]
    pub(crate) fn text(self) -> String {
        self.code(0).stdout.trim().to_owned()
    }

    /// Standard output of a command that succeeded, as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.text()).expect("json on standard output")
    }

    /// Fails unless dockless said one message, with these words in it, and ended with `code`.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, words: &[&str]) -> Self {
        let this = self.code(code);
        assert_eq!(this.stderr.matches("dockless: ").count(), 1, "one message: {}", this.stderr);
        for word in words {
            assert!(this.stderr.contains(word), "`{word}` is not in: {}", this.stderr);
        }
        this
    }
}

/// A command that goes on. What is left of it is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: Collected,
    stderr: Collected,
}

impl Running {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command starts");
        let stdout = Collected::from(child.stdout.take().expect("a pipe"));
        let stderr = Collected::from(child.stderr.take().expect("a pipe"));
        Self { child, stdout, stderr }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("the number of a process")
    }

    /// Its standard input, if it is a pipe.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("a pipe")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("a process that goes on");
    }

    /// Waits until `text` was written to standard output.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        let written = wait_until(|| self.stdout.text().contains(text));
        assert!(written, "no `{text}` in: {}\nstderr: {}", self.stdout.text(), self.stderr.text());
    }

    /// Waits until `text` was said.
    #[track_caller]
    pub(crate) fn wait_for_stderr(&self, text: &str) {
        let written = wait_until(|| self.stderr.text().contains(text));
        assert!(written, "no `{text}` in: {}", self.stderr.text());
    }

    /// The supervisor that this command line has started.
    #[track_caller]
    pub(crate) fn supervisor(&self) -> Pid {
        let children = format!("/proc/{0}/task/{0}/children", self.pid());
        let mut found = None;
        wait_until(|| {
            let children = fs::read_to_string(&children).unwrap_or_default();
            found = children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid| {
                fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.starts_with(b"dockless-supervisor"))
            });
            found.is_some()
        });
        Pid::from_raw(found.expect("a supervisor"))
    }

    /// Waits until everybody who writes to its standard output and error is gone.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Output {
        let mut status = None;
        let ended = wait_until(|| {
            status = self.child.try_wait().expect("a child of ours");
            status.is_some() && self.stdout.ended() && self.stderr.ended()
        });
        assert!(ended, "it hangs; stdout: {}\nstderr: {}", self.stdout.text(), self.stderr.text());
        Output::new(status.expect("it has ended"), self.stdout.text(), self.stderr.text())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a pipe brings, collected by a thread.
#[derive(Debug)]
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Collected {
    fn from(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&bytes);
        let thread = spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                collected.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..read]);
            }
        });
        Self { bytes, thread }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    fn ended(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Waits for something to become true; false when it takes too long.
pub(crate) fn wait_until(mut is_true: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if is_true() {
            return true;
        }
        sleep(Duration::from_millis(10));
    }
    false
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Output {
    Running::start(command).finish()
}

/// Runs a command to its end with `input` as its standard input.
#[track_caller]
pub(crate) fn finish_with(command: &mut Command, input: &[u8]) -> Output {
    let mut running = Running::start(command.stdin(Stdio::piped()));
    // Who refuses before it has read everything is judged by what it says.
    if let Err(error) = running.stdin().write_all(input) {
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "{error}");
    }
    running.finish()
}

/// A program of this machine, with its usual environment and no input.
pub(crate) fn program<S: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a program of this machine that must succeed; returns its standard output.
#[track_caller]
pub(crate) fn tool<S: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = S>) -> String {
    finish(&mut program(name, arguments)).text()
}

/// Where a program of this machine is.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.exists())
}

/// Whether all these programs are here; if not, says that the test is skipped.
pub(crate) fn have(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|name| find_program(name).is_none());
    missing.is_none_or(|name| skip(&format!("`{name}` is not installed; scripts/setup does that")))
}

/// Whether we are root; if not, says that the test is skipped.
pub(crate) fn have_root() -> bool {
    nix::unistd::geteuid().is_root() || skip("it needs root")
}

/// Says why a test does not run here; in CI, which has everything, that is a failure. Returns false.
pub(crate) fn skip(why: &str) -> bool {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "skipped in CI: {why}");
    say(&format!("skipped: {why}"));
    false
}

/// Whether the long form of tests that have one was asked for.
pub(crate) fn is_thorough() -> bool {
    std::env::var_os("DOCKLESS_TEST_THOROUGH").is_some()
}

/// What whoever runs the tests has set in the environment.
pub(crate) fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Says something to whoever runs the tests.
pub(crate) fn say(text: &str) {
    // Not `eprintln!`, which the harness hides from whoever does not ask for it.
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Makes a file executable for everybody.
pub(crate) fn make_executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a file of ours");
}

/// The directories in which cgroup hierarchies are mounted.
pub(crate) fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").expect("the mounts of this machine");
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter(|fields| fields[2].starts_with("cgroup")).map(|fields| PathBuf::from(fields[1])).collect()
}

/// The entries of a directory; none when it is not there.
pub(crate) fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).collect()
}
