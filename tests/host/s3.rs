//! Artifacts in a bucket of a real S3 server: what comes back, what is seen meanwhile, what a fault leaves.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use dockless::artifact::{
    ArtifactError, ArtifactStore, Declared, Finish, Outcome, Patience, Prepared, Remote, RemoteError, RemoteSettings,
    Saved, UPLOADER_ARGV0, UploadEvent, UploadRequest, Uploader, Warning, prepare_remote, prepared_remote, save_remote,
};
use dockless::store::RunName;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tempfile::TempDir;

use crate::support::env::{BINARY, have_root, program, wait_until};
use crate::support::s3::{BUCKET, Line, S3Server, SECRET_KEY};

const MIB: usize = 1 << 20;

/// A run that has artifacts, on a machine that reaches a server.
struct Fixture {
    server: S3Server,
    dir: TempDir,
    address: String,
    run: RunName,
}

impl Fixture {
    fn new() -> Option<Self> {
        if !have_root() {
            return None;
        }
        let server = S3Server::start()?;
        let address = server.address().to_owned();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        Some(Self { server, dir, address, run: "clever-otter-1".parse().unwrap() })
    }

    fn settings(&self) -> RemoteSettings {
        let variables = S3Server::variables(&self.address);
        let lookup = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        let mut settings = RemoteSettings::from_variables(lookup).unwrap();
        settings.patience = Patience { give_up_after_ms: 1_500, longest_pause_ms: 300, request_timeout_ms: 60_000 };
        settings
    }

    fn remote(&self) -> Remote {
        Remote::new(&format!("s3://{BUCKET}/a/b").parse().unwrap(), &self.settings()).unwrap()
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    fn prepare(&self, paths: &[(&str, bool)]) -> Vec<Prepared> {
        let declare = |(path, mount): &(&str, bool)| {
            Declared::new(path.parse().unwrap(), *mount, Path::new("/workflow"), Some(Path::new("/root"))).unwrap()
        };
        let declared: Vec<Declared> = paths.iter().map(declare).collect();
        prepare_remote(&self.run, &self.run_dir(), &declared).unwrap()
    }

    fn request(&self) -> UploadRequest {
        UploadRequest {
            url: format!("s3://{BUCKET}/a/b").parse().unwrap(),
            settings: self.settings(),
            run: self.run.clone(),
            run_id: "clever-otter-1-x7".to_owned(),
            run_dir: self.run_dir(),
            prepared: prepared_remote(&self.run_dir()).unwrap(),
        }
    }

    fn start(&self) -> Uploader {
        Uploader::start_from(Path::new(BINARY), &self.request()).unwrap()
    }

    fn save(&self) -> Result<Saved, ArtifactError> {
        self.start().finish(&finish(), drop)
    }

    fn object(&self, rest: &str) -> PathBuf {
        self.server.object(&format!("a/b/clever-otter-1/{rest}"))
    }

    fn listed(&self) -> Vec<String> {
        let files = block_on(self.remote().list(&self.run)).unwrap().files;
        files.iter().map(|file| file.path.display().to_string()).collect()
    }
}

fn finish() -> Finish {
    Finish { outcome: Outcome::Failed, owner: Some((1234, 2345)), saved_at: "2024-05-01T12:00:00Z".parse().unwrap() }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn random(path: &Path, mib: usize) {
    let mut bytes = vec![0; mib * MIB];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    fs::write(path, bytes).unwrap();
}

fn said(error: &ArtifactError) -> String {
    dockless::words::describe(error)
}

/// Everything below a directory: mode, owner, time, and what it holds or says.
fn tree(top: &Path) -> BTreeMap<PathBuf, (u32, u32, i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![top.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if metadata.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else if metadata.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let mode = if metadata.is_symlink() { 0 } else { metadata.mode() };
        let relative = path.strip_prefix(top).unwrap().to_owned();
        found.insert(relative, (mode, metadata.uid(), metadata.mtime(), metadata.mtime_nsec(), content));
    }
    found
}

/// What a hostile and a diligent workload may leave.
fn fill(top: &Path) {
    fs::write(top.join("hello.txt"), "Hello").unwrap();
    fs::write(top.join("empty"), "").unwrap();
    fs::create_dir_all(top.join("deep/er")).unwrap();
    fs::create_dir(top.join("nothing in it")).unwrap();
    fs::write(top.join("deep/er/100% wörk?&+#.txt"), "odd").unwrap();
    fs::write(top.join(OsStr::from_bytes(b"deep/\xff\xfe\n")), "bytes").unwrap();
    fs::write(top.join("tool"), "#!").unwrap();
    fs::set_permissions(top.join("tool"), Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(top.join("hello.txt"), Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(top.join("hello.txt"), top.join("same")).unwrap();
    symlink("hello.txt", top.join("link")).unwrap();
    symlink("/etc/shadow", top.join("out")).unwrap();
    symlink("/etc", top.join("dir-out")).unwrap();
    mkfifo(&top.join("fifo"), Mode::S_IRUSR).unwrap();
    let long = ["x".repeat(200), "y".repeat(200), "z".repeat(200), "w".repeat(200)].join("/");
    fs::create_dir_all(top.join(&long)).unwrap();
    fs::write(top.join(&long).join("far"), "long").unwrap();
    let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789));
    File::options().write(true).open(top.join("hello.txt")).unwrap().set_times(old).unwrap();
}

#[test]
fn what_is_saved_in_a_bucket_comes_back_as_it_was() {
    let Some(fixture) = Fixture::new() else { return };
    let prepared = fixture.prepare(&[("output", false), ("logs", true), ("/models", false)]);
    let output = &prepared[0].host_dir;
    fill(output);
    random(&output.join("large"), 40);
    fs::write(prepared[1].host_dir.join("log"), "line").unwrap();
    let before = tree(output);
    let saved = fixture.save().unwrap();
    assert_eq!((saved.files, saved.bytes.0), (12, 5 + 3 + 5 + 2 + 4 + 4 + 40 * MIB as u64));
    assert!(
        matches!(
            &saved.warnings[..],
            [Warning::LeftOut { count: 1, .. }, Warning::Disarmed { count: 1, .. }, Warning::NeverWritten { .. }]
        ),
        "{:?}",
        saved.warnings
    );
    assert!(!fixture.run_dir().join("artifacts").exists() && !fixture.run_dir().join("upload.jsonl").exists());
    assert!(!fixture.object("unfinished.json").exists());
    assert_eq!(fs::read(fixture.object("files/output/hello.txt")).unwrap(), b"Hello");

    let local = ArtifactStore::new(fixture.dir.path().join("cache"));
    let remote = fixture.remote();
    let manifest = block_on(remote.fetch(&fixture.run, &local)).unwrap();
    assert_eq!(manifest.outcome, Some(Outcome::Failed));
    assert_eq!(local.manifest(&fixture.run).unwrap(), manifest);
    let fetched = fixture.dir.path().join("cache/clever-otter-1/saved/files/output");
    let mut after = tree(&fetched);
    let mut expected = before;
    expected.remove(Path::new("fifo"));
    for (path, (mode, uid, ..)) in &mut expected {
        *uid = 1234;
        if path == Path::new("tool") {
            *mode = 0o10_0755;
        }
    }
    // The top was open to every user of the container, and lost a FIFO.
    let (top, closed) = (expected.remove(Path::new("")).unwrap(), after.remove(Path::new("")).unwrap());
    assert_eq!((top.0 & 0o777, closed.0 & 0o777), (0o777, 0o755));
    assert!(after == expected, "{:?}", after.keys().collect::<Vec<_>>());
    assert_eq!(
        fs::metadata(fetched.join("same")).unwrap().ino(),
        fs::metadata(fetched.join("hello.txt")).unwrap().ino()
    );

    assert_eq!(block_on(remote.list(&fixture.run)).unwrap(), local.list(&fixture.run).unwrap());
    let out = fixture.dir.path().join("out");
    assert_eq!(block_on(remote.copy_out(&fixture.run, None, &out)).unwrap().files, 12);
    assert_eq!(fs::read_to_string(out.join("logs/log")).unwrap(), "line");
    assert_eq!(fs::read_dir(out.join("models")).unwrap().count(), 0);
    let again = block_on(remote.copy_out(&fixture.run, None, &out));
    assert!(matches!(again, Err(ArtifactError::Exists { .. })), "{again:?}");
    let one = fixture.dir.path().join("one");
    assert_eq!(block_on(remote.copy_out(&fixture.run, Some("output/deep/er"), &one)).unwrap().files, 1);
    let none = block_on(remote.copy_out(&fixture.run, Some("output/none"), &one));
    assert!(matches!(none, Err(ArtifactError::NoSuchPath { .. })), "{none:?}");
    let left: Vec<_> = fs::read_dir(fixture.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");

    assert_eq!(block_on(remote.runs()).unwrap(), std::slice::from_ref(&fixture.run));
    assert!(block_on(remote.remove(&fixture.run)).unwrap());
    assert!(!block_on(remote.remove(&fixture.run)).unwrap());
    assert!(block_on(remote.runs()).unwrap().is_empty());
    assert!(matches!(block_on(remote.list(&fixture.run)), Err(ArtifactError::NoArtifacts { .. })));
}

#[test]
fn many_small_files_in_a_bucket() {
    let Some(fixture) = Fixture::new() else { return };
    let prepared = fixture.prepare(&[("output", false)]);
    for number in 0..2_000 {
        let dir = prepared[0].host_dir.join(format!("{}", number % 20));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("{number}")), format!("number {number}")).unwrap();
    }
    assert_eq!(fixture.save().unwrap().files, 2_000);
    let out = fixture.dir.path().join("out");
    assert_eq!(block_on(fixture.remote().copy_out(&fixture.run, None, &out)).unwrap().files, 2_000);
    assert_eq!(fs::read_to_string(out.join("output/19/1999")).unwrap(), "number 1999");
}

#[test]
fn a_bucket_that_goes_away_in_mid_save_loses_nothing_and_the_rest_is_sent_later() {
    let Some(mut fixture) = Fixture::new() else { return };
    let line = Line::to(&fixture.address);
    line.address().clone_into(&mut fixture.address);
    let prepared = fixture.prepare(&[("output", false)]);
    random(&prepared[0].host_dir.join("large"), 96);
    fs::write(prepared[0].host_dir.join("small"), "small").unwrap();
    line.cut_after(80 << 20);
    let error = said(&fixture.save().unwrap_err());
    let kept_in = fixture.run_dir().join("artifacts");
    assert!(error.contains("the artifacts of run `clever-otter-1` are not saved: "), "{error}");
    assert!(error.contains(&format!("hint: they stay in `{}`", kept_in.display())), "{error}");
    assert!(error.contains("`dockless artifacts save clever-otter-1`") && error.contains("does not answer"), "{error}");
    assert_eq!(fs::metadata(prepared[0].host_dir.join("large")).unwrap().len(), 96 << 20);
    assert!(!fixture.object("manifest.json").exists());
    let server = Fixture { address: fixture.server.address().to_owned(), ..fixture };
    assert!(block_on(server.remote().runs()).unwrap().is_empty(), "nothing half-made is listed");
    let fixture = Fixture { address: line.address().to_owned(), ..server };

    line.mend();
    let before = line.quiet();
    let saved = block_on(save_remote(fixture.request(), &finish())).unwrap();
    assert_eq!((saved.files, saved.bytes.0), (2, 96 * MIB as u64 + 5));
    let sent = line.sent() - before;
    assert!((16 << 20..=80 << 20).contains(&sent), "{sent} bytes were sent again");
    // Asked once more, it says what is there.
    let again = block_on(save_remote(fixture.request(), &finish())).unwrap();
    assert_eq!((again.files, again.bytes), (saved.files, saved.bytes));
    let out = fixture.dir.path().join("out");
    block_on(fixture.remote().copy_out(&fixture.run, None, &out)).unwrap();
    assert_eq!(fs::metadata(out.join("output/large")).unwrap().len(), 96 << 20);
}

#[test]
fn an_uploader_that_is_killed_leaves_what_another_goes_on_with() {
    let Some(mut fixture) = Fixture::new() else { return };
    let line = Line::to(&fixture.address);
    line.address().clone_into(&mut fixture.address);
    let prepared = fixture.prepare(&[("output", false)]);
    random(&prepared[0].host_dir.join("large"), 128);
    line.slow_down(10);
    let uploader = fixture.start();
    uploader.order_finish(&finish()).unwrap();
    let journal = fixture.run_dir().join("upload.jsonl");
    let parts = || fs::read_to_string(&journal).unwrap_or_default().matches(r#""what":"part""#).count();
    assert!(wait_until(|| parts() >= 8));
    kill(Pid::from_raw(i32::try_from(uploader.pid()).unwrap()), Signal::SIGKILL).unwrap();
    let error = said(&uploader.finish(&finish(), drop).unwrap_err());
    assert!(error.contains("uploader"), "{error}");
    line.slow_down(0);
    let (before, kept) = (line.quiet(), parts() as u64);
    assert_eq!(fixture.save().unwrap().files, 1);
    let sent = line.sent() - before;
    assert!(sent < (128 << 20) - (kept - 1) * (8 << 20), "{sent} bytes were sent again, {kept} parts were there");
    let local = ArtifactStore::new(fixture.dir.path().join("cache"));
    block_on(fixture.remote().fetch(&fixture.run, &local)).unwrap();
}

#[test]
fn a_file_that_changed_between_two_attempts_is_sent_as_it_is_now() {
    let Some(mut fixture) = Fixture::new() else { return };
    let line = Line::to(&fixture.address);
    line.address().clone_into(&mut fixture.address);
    let prepared = fixture.prepare(&[("output", false)]);
    random(&prepared[0].host_dir.join("large"), 32);
    fs::write(prepared[0].host_dir.join("small"), "old").unwrap();
    line.slow_down(2);
    line.cut_after(20 << 20);
    fixture.save().unwrap_err();
    line.mend();
    random(&prepared[0].host_dir.join("large"), 24);
    fs::write(prepared[0].host_dir.join("small"), "new").unwrap();
    assert_eq!(fixture.save().unwrap().bytes.0, 24 * MIB as u64 + 3);
    let out = fixture.dir.path().join("out");
    block_on(fixture.remote().copy_out(&fixture.run, None, &out)).unwrap();
    assert_eq!(fs::read_to_string(out.join("output/small")).unwrap(), "new");
    assert_eq!(fs::metadata(out.join("output/large")).unwrap().len(), 24 << 20);
}

#[test]
fn a_bucket_that_lets_nobody_in_says_why() {
    let Some(fixture) = Fixture::new() else { return };
    let url = |bucket: &str| format!("s3://{bucket}").parse().unwrap();
    let with = |name: &str, value: &str| {
        let variables = S3Server::variables(&fixture.address);
        let lookup = |wanted: &str| {
            let known = variables.iter().find(|(key, _)| *key == wanted).map(|(_, value)| value.clone());
            if wanted == name { Some(value.to_owned()) } else { known }
        };
        RemoteSettings::from_variables(lookup).unwrap()
    };
    let claim = |bucket: &str, settings: &RemoteSettings| {
        let remote = Remote::new(&url(bucket), settings).unwrap();
        said(&block_on(remote.claim(&fixture.run, "id", &[])).unwrap_err())
    };
    for (settings, code) in [
        (with("AWS_SECRET_ACCESS_KEY", "another-secret"), "SignatureDoesNotMatch"),
        (with("AWS_ACCESS_KEY_ID", "AKIAOTHER"), ""),
    ] {
        let error = claim(BUCKET, &settings);
        assert!(error.contains("refuses to look into `s3://the-bucket/clever-otter-1`: 403"), "{error}");
        assert!(error.contains(code) && error.contains("\nhint: "), "{error}");
        assert!(!error.contains(SECRET_KEY) && !error.contains("another-secret"), "{error}");
    }
    let error = claim("no-such-bucket", &fixture.settings());
    assert!(error.contains("NoSuchBucket") && error.contains("hint: create the bucket"), "{error}");
    let mut gone = with("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    gone.patience = fixture.settings().patience;
    let begun = Instant::now();
    let error = claim(BUCKET, &gone);
    assert!(error.contains("`http://127.0.0.1:1` does not answer") && error.contains("refused"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_name_of_a_run_is_one_runs_only() {
    let Some(fixture) = Fixture::new() else { return };
    let remote = fixture.remote();
    let claim = |id: &str| block_on(remote.claim(&fixture.run, id, &[]));
    claim("one").unwrap();
    claim("one").unwrap();
    let taken =
        |result: Result<(), ArtifactError>| matches!(result, Err(ArtifactError::Remote(RemoteError::Taken { .. })));
    assert!(taken(claim("other")));
    assert!(!block_on(remote.discard(&fixture.run, "other")).unwrap());
    assert!(block_on(remote.discard(&fixture.run, "one")).unwrap());
    fixture.prepare(&[("output", false)]);
    fixture.save().unwrap();
    assert!(taken(claim("other")));
}

#[test]
fn files_are_in_the_bucket_while_the_run_goes_on() {
    let Some(fixture) = Fixture::new() else { return };
    let prepared = fixture.prepare(&[("logs", true), ("output", false)]);
    let logs = prepared[0].host_dir.clone();
    fs::write(prepared[1].host_dir.join("later"), "later").unwrap();
    let mut uploader = fixture.start();
    let within_5_s = |what: &str, is_so: &dyn Fn() -> bool| {
        let begun = Instant::now();
        assert!(wait_until(is_so), "{what} never");
        assert!(begun.elapsed() < Duration::from_secs(5), "{what} after {:?}", begun.elapsed());
    };
    within_5_s("the claim", &|| fixture.object("unfinished.json").exists());
    fs::write(logs.join("events"), "first").unwrap();
    let content = || fs::read_to_string(fixture.object("files/logs/events")).unwrap_or_default();
    within_5_s("a new file", &|| content() == "first");
    within_5_s("its name", &|| fixture.listed() == ["logs/events"]);
    // Of the same length, and appended to.
    fs::write(logs.join("events"), "other").unwrap();
    within_5_s("a change", &|| content() == "other");
    File::options().append(true).open(logs.join("events")).unwrap().write_all(b" and more").unwrap();
    within_5_s("what was appended", &|| content() == "other and more");
    fs::write(logs.join("events.new"), "renamed").unwrap();
    fs::rename(logs.join("events.new"), logs.join("events")).unwrap();
    within_5_s("what was renamed", &|| content() == "renamed");
    fs::write(logs.join("short-lived"), "x").unwrap();
    within_5_s("another file", &|| fixture.listed().len() == 2);
    fs::remove_file(logs.join("short-lived")).unwrap();
    within_5_s("its end", &|| {
        fixture.listed() == ["logs/events"] && !fixture.object("files/logs/short-lived").exists()
    });
    assert!(block_on(fixture.remote().runs()).unwrap().is_empty(), "it is not saved yet");
    let out = fixture.dir.path().join("out");
    block_on(fixture.remote().copy_out(&fixture.run, Some("logs/events"), &out)).unwrap();
    assert_eq!(fs::read_to_string(&out).unwrap(), "renamed");
    let events = uploader.read_events().unwrap();
    assert!(events.iter().all(|event| matches!(event, UploadEvent::Uploaded { .. })), "{events:?}");
    // The last words before the end are in as well.
    File::options().append(true).open(logs.join("events")).unwrap().write_all(b", the end").unwrap();
    assert_eq!(uploader.finish(&finish(), drop).unwrap().files, 2);
    assert_eq!(fixture.listed(), ["logs/events", "output/later"]);
    assert_eq!(content(), "renamed, the end");
}

#[test]
fn a_bucket_that_is_away_for_a_while_gets_what_was_written_meanwhile() {
    let Some(mut fixture) = Fixture::new() else { return };
    let line = Line::to(&fixture.address);
    line.address().clone_into(&mut fixture.address);
    let prepared = fixture.prepare(&[("logs", true)]);
    line.cut_after(0);
    let mut uploader = fixture.start();
    fs::write(prepared[0].host_dir.join("log"), "line").unwrap();
    let mut events = Vec::new();
    assert!(wait_until(|| {
        events.extend(uploader.read_events().unwrap());
        !events.is_empty()
    }));
    assert!(matches!(&events[0], UploadEvent::Warning { text } if text.contains("does not answer")), "{events:?}");
    line.mend();
    assert!(wait_until(|| fixture.object("files/logs/log").exists()));
    assert_eq!(uploader.finish(&finish(), drop).unwrap().files, 1);
}

#[test]
fn an_uploader_ends_with_whoever_started_it() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.prepare(&[("logs", true)]);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut command = program(BINARY, [""; 0]);
    command.arg0(UPLOADER_ARGV0).stdin(Stdio::from(OwnedFd::from(theirs)));
    let mut process = command.spawn().unwrap();
    drop(command);
    serde_json::to_writer(&mut ours, &fixture.request()).unwrap();
    ours.write_all(b"\n").unwrap();
    assert!(wait_until(|| fixture.object("unfinished.json").exists()));
    drop(ours);
    assert!(wait_until(|| process.try_wait().unwrap().is_some()));
}

#[test]
fn what_was_changed_in_the_bucket_is_not_taken() {
    let Some(fixture) = Fixture::new() else { return };
    let prepared = fixture.prepare(&[("output", false)]);
    fs::write(prepared[0].host_dir.join("file"), "right").unwrap();
    fixture.save().unwrap();
    fs::write(fixture.object("files/output/file"), "wrong").unwrap();
    let local = ArtifactStore::new(fixture.dir.path().join("cache"));
    let error = said(&block_on(fixture.remote().fetch(&fixture.run, &local)).unwrap_err());
    assert!(error.contains("files/output/file` is damaged: expected 5 bytes with the sha256"), "{error}");
    assert!(matches!(local.manifest(&fixture.run), Err(ArtifactError::NoArtifacts { .. })));
    assert_eq!(fs::read_dir(local.directory()).unwrap().count(), 0);
}
