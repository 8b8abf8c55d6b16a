//! Records of runs for tests that need no container.

use super::{Exit, ExitReason, RunName, RunRecord, RunState, Store};
use crate::image::Digest;

/// The record of a run that ended with 0 a while ago.
pub(crate) fn record(name: &str) -> RunRecord {
    let mut record: RunRecord = serde_json::from_value(serde_json::json!({
        "schema": 1,
        "name": name,
        "id": format!("{name}-0"),
        "image": "docker.io/library/app:latest",
        "manifest": Digest::sha256(b"manifest"),
        "layers": [],
        "command": ["true"],
        "state": "done",
        "rootfs": "overlay",
        "boot_id": "boot",
        "created": "2024-05-01T12:00:00Z",
        "finished": "2024-05-01T12:01:00Z",
        "remove": false,
        "keep": false,
        "detached": false,
        "interruptible": false,
        "limits": {},
        "ports": [],
        "deps": [],
        "caches": []
    }))
    .expect("the record of a test");
    record.state = RunState::Done;
    record.exit = Some(exit(0));
    record
}

/// An end with a code of the workload's own.
pub(crate) fn exit(code: i32) -> Exit {
    let json = serde_json::json!({ "exit_code": code, "reason": ExitReason::Exited, "oom_kills": 0 });
    serde_json::from_value(json).expect("the end of a test's run")
}

/// Puts an ended run into the store, as `change` makes it.
pub(crate) fn ended_run(store: &Store, name: &str, change: impl FnOnce(&mut RunRecord)) -> RunName {
    let mut written = record(name);
    change(&mut written);
    let reserved = store.create_run(&written.name).expect("a free name");
    reserved.dir().write_record(&written).expect("a record");
    reserved.dir().finish().expect("a run that has ended");
    reserved.keep();
    written.name
}
