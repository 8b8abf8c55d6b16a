//! A real S3 server (s3s-fs) on loopback with its files in a temporary directory, and a line to it that can be cut.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{sleep, spawn};
use std::time::Duration;

use tempfile::TempDir;

use super::env::{Running, have, program, wait_until};

pub(crate) const ACCESS_KEY: &str = "AKIATESTTESTTEST";
pub(crate) const SECRET_KEY: &str = "a-secret-that-is-in-no-output";
pub(crate) const BUCKET: &str = "the-bucket";

/// A server with one bucket that ends with this value.
pub(crate) struct S3Server {
    dir: TempDir,
    address: String,
    _process: Running,
}

impl S3Server {
    /// `None`, and a word about it, where the server is not installed.
    pub(crate) fn start() -> Option<Self> {
        if !have(&["s3s-fs"]) {
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory for the server");
        fs::create_dir_all(dir.path().join("data").join(BUCKET)).expect("a bucket");
        // The kernel picks the port, and the log tells which.
        let script = "exec s3s-fs --host 127.0.0.1 --port 0 --access-key \"$1\" --secret-key \"$2\" \"$0\"/data >\"$0\"/log 2>&1";
        let mut command = program("sh", ["-c", script]);
        command.arg(dir.path()).args([ACCESS_KEY, SECRET_KEY]).env("RUST_LOG", "s3s_fs=info").env("NO_COLOR", "1");
        let process = Running::start(&mut command);
        let mut address = None;
        wait_until(|| {
            let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
            address = log.lines().find_map(|line| Some(line.split_once("running at http://")?.1.trim().to_owned()));
            address.is_some()
        });
        Some(Self { address: address.expect("a port in the server's log"), dir, _process: process })
    }

    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Where the server keeps an object, as it is.
    pub(crate) fn object(&self, key: &str) -> PathBuf {
        self.dir.path().join("data").join(BUCKET).join(key)
    }

    /// The variables that lead to it, or to a line to it.
    pub(crate) fn variables(address: &str) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", format!("http://{address}")),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ]
    }
}

/// A line to a server.
pub(crate) struct Line {
    address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Bytes that went to the server.
    sent: AtomicU64,
    /// After that many it is cut.
    limit: AtomicU64,
    is_cut: AtomicBool,
    /// Pause after each 64 KiB.
    pause_ms: AtomicU64,
    ended: AtomicBool,
}

impl Line {
    pub(crate) fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("its address").to_string();
        let state = Arc::new(State { limit: AtomicU64::new(u64::MAX), ..State::default() });
        let (shared, server) = (Arc::clone(&state), server.to_owned());
        spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(upstream) = TcpStream::connect(&server) else { continue };
                if shared.is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                relay(&client, &upstream, &shared);
            }
        });
        Self { address, state }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Bytes that went to the server so far.
    pub(crate) fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }

    /// Waits until nothing travels any more that was on its way; then as [`Line::sent`].
    pub(crate) fn quiet(&self) -> u64 {
        let mut sent = self.sent();
        loop {
            sleep(Duration::from_millis(300));
            if sent == self.sent() {
                return sent;
            }
            sent = self.sent();
        }
    }

    /// Cuts it once that many more bytes went through.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.state.limit.store(self.sent() + bytes, Ordering::SeqCst);
    }

    pub(crate) fn mend(&self) {
        self.state.limit.store(u64::MAX, Ordering::SeqCst);
        self.state.is_cut.store(false, Ordering::SeqCst);
    }

    /// Makes it slow: so many milliseconds for each 64 KiB of a connection.
    pub(crate) fn slow_down(&self, pause_ms: u64) {
        self.state.pause_ms.store(pause_ms, Ordering::SeqCst);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(&self.address));
    }
}

fn relay(client: &TcpStream, upstream: &TcpStream, state: &Arc<State>) {
    let pair = || (client.try_clone().expect("a socket"), upstream.try_clone().expect("a socket"));
    let (mut from, mut to) = pair();
    let state = Arc::clone(state);
    spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let sent = state.sent.fetch_add(count as u64, Ordering::SeqCst) + count as u64;
            if sent > state.limit.load(Ordering::SeqCst) {
                state.is_cut.store(true, Ordering::SeqCst);
            }
            if state.is_cut.load(Ordering::SeqCst) || to.write_all(&buffer[..count]).is_err() {
                break;
            }
            sleep(Duration::from_millis(state.pause_ms.load(Ordering::SeqCst)));
        }
        drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
    });
    let (mut to, mut from) = pair();
    spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
    });
}
