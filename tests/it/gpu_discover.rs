//! What there is, asked of made-up drivers through the real program: NVML in a process of its own, nvidia-smi, `/proc`.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use dockless::gpu::{Facts, Inventory, Platform, Source, UsagePeaks, WatchEvent, Watcher, ask_from, discover};
use dockless::image::ByteSize;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::support::driver::nvml::mig_mebibytes;
use crate::support::driver::{DriverTree, TreeBuilder};
use crate::support::env::{have_root, skip, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_dockless");
/// Long for a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// An error is told at once; a sample takes a second.
const SOON: Duration = Duration::from_millis(700);

fn ask(tree: &DriverTree) -> Facts {
    ask_within(tree, PATIENCE)
}

fn ask_within(tree: &DriverTree, patience: Duration) -> Facts {
    let (library, smi) = (tree.nvml_library(), tree.smi());
    let there = |path: &Path| path.exists().then(|| path.to_owned());
    ask_from(Path::new(BINARY), patience, there(&library).as_deref(), there(&smi).as_deref())
}

fn inventory(tree: &DriverTree) -> Inventory {
    let root = tree.path();
    discover(&root.join("proc"), &root.join("dev"), &root.join("sys"), |_| ask(tree)).unwrap()
}

fn uuids(inventory: &Inventory) -> Vec<String> {
    inventory.gpus.iter().map(|gpu| gpu.uuid.to_string()).collect()
}

/// As it is told.
#[expect(clippy::unnecessary_wraps, reason = "what is told may be missing")]
const fn mebibytes(count: u64) -> Option<ByteSize> {
    Some(ByteSize(count << 20))
}

#[test]
fn gpu_nvml_tells_what_the_tree_has() {
    let tree = DriverTree::debian().gpus(&["H100", "T4", "K80"]).nvml().build();
    tree.set_utilisation(1, 93, 4096);
    let found = inventory(&tree);
    assert_eq!((found.source, found.notes.as_slice()), (Source::Nvml, [].as_slice()));
    assert_eq!(found.driver.as_ref().unwrap().cuda, Some((12, 8)));
    assert_eq!(uuids(&found), tree.uuids());
    let [h100, t4, k80] = found.gpus.as_slice() else { panic!("{found:#?}") };
    assert_eq!((h100.model.as_str(), h100.memory), ("NVIDIA H100 80GB HBM3", mebibytes(81559)));
    assert_eq!((h100.compute_capability, h100.brand.as_deref()), (Some((9, 0)), Some("nvidia")));
    assert_eq!((t4.utilisation.compute_percent, t4.utilisation.memory_used), (Some(93), mebibytes(4096)));
    assert_eq!((k80.index, k80.minor, k80.brand.as_deref()), (2, Some(0), Some("tesla")));
    assert_eq!(k80.pci.to_string(), DriverTree::address(2));
    assert!(found.gpus.iter().all(|gpu| !gpu.mig_enabled && gpu.unusable.is_none()));
}

#[test]
fn gpu_old_nvml_tells_of_memory() {
    let tree = DriverTree::debian().gpus(&["V100"]).version("470.256.02").old_nvml().build();
    let found = inventory(&tree);
    assert_eq!(found.source, Source::Nvml);
    assert_eq!(found.gpus[0].memory, mebibytes(16160));
    assert_eq!(found.driver.unwrap().cuda, Some((11, 4)));
}

#[test]
fn gpu_mig_devices_have_their_nodes() {
    let profiles = ["3g.20gb", "1g.5gb"];
    let builder = DriverTree::debian().gpus(&["T4", "A100", "A100"]).mig(1, &["7g.40gb"]).mig(2, &profiles).nvml();
    // The list of all nodes, and the directories of what exists, say the same.
    for left_out in ["capabilities", "mig-minors"] {
        let tree = builder.clone().without(left_out).build();
        let found = inventory(&tree);
        let gpu = &found.gpus[2];
        assert!(gpu.mig_enabled && !found.gpus[0].mig_enabled);
        assert_eq!(gpu.mig.len(), 2, "{gpu:#?}");
        for ((index, part), profile) in (0..).zip(&gpu.mig).zip(profiles) {
            assert_eq!(part.uuid.as_str(), tree.mig_uuid(2, index as usize));
            assert_eq!((part.index, part.profile.as_str()), (index, profile));
            assert_eq!(part.memory, mebibytes(mig_mebibytes(profile).into()));
            assert_eq!((part.minors.gpu_instance, part.minors.compute_instance), (7 + index, 0));
            // 1 and 2 are the driver's own, 3 and 4 of the GPU before.
            let minors = (part.minors.gpu_instance_minor, part.minors.compute_instance_minor);
            assert_eq!(minors, (Some(5 + 2 * index), Some(6 + 2 * index)));
        }
        assert_eq!(found.gpus[1].mig[0].minors.gpu_instance_minor, Some(3));
    }
    assert_eq!(inventory(&builder.build()).gpus[2].mig[1].minors.gpu_instance_minor, Some(7));
    let bare = builder.without("mig-minors").without("capabilities").build();
    assert_eq!(inventory(&bare).gpus[2].mig[1].minors.gpu_instance_minor, None);
}

#[test]
fn gpu_every_layout_is_discovered() {
    let layouts = [
        ("debian", DriverTree::debian()),
        ("debian, alternatives", DriverTree::debian_current()),
        ("rhel", DriverTree::rhel()),
        ("local", DriverTree::local()),
        ("wsl", DriverTree::wsl()),
    ];
    for (name, layout) in layouts {
        let tree = layout.gpus(&["A100", "H200"]).nvml().build();
        let found = inventory(&tree);
        assert_eq!((found.source, uuids(&found).as_slice()), (Source::Nvml, tree.uuids()), "{name}: {found:#?}");
        let driver = found.driver.unwrap();
        assert_eq!(driver.version.as_str(), "570.86.10", "{name}");
        let is_wsl = name == "wsl";
        assert_eq!(driver.platform == Platform::Wsl, is_wsl, "{name}");
        assert_eq!(found.gpus.iter().all(|gpu| gpu.minor.is_none()), is_wsl, "{name}");
    }
}

#[test]
fn gpu_smi_is_asked_when_nvml_is_of_no_use() {
    let without_library =
        |layout: TreeBuilder| layout.gpus(&["K80", "A100"]).mig(1, &["1g.5gb"]).without("libnvidia-ml");
    for (tree, note) in [
        // The file has nothing in it.
        (DriverTree::debian().gpus(&["K80", "A100"]).mig(1, &["1g.5gb"]).build(), "NVML does not answer"),
        (without_library(DriverTree::rhel()).build(), "the driver has no libnvidia-ml"),
        (without_library(DriverTree::wsl()).build(), "the driver has no libnvidia-ml"),
    ] {
        let found = inventory(&tree);
        if !have_root() {
            skip("nvidia-smi that does not belong to root is not executed");
            return;
        }
        assert_eq!((found.source, uuids(&found).as_slice()), (Source::Smi, tree.uuids()), "{found:#?}");
        assert!(found.notes[0].contains(note), "{:?}", found.notes);
        let a100 = &found.gpus[1];
        assert_eq!((a100.memory, a100.utilisation.memory_used), (mebibytes(40960), mebibytes(2)));
        assert_eq!((a100.compute_capability, a100.utilisation.compute_percent), (Some((8, 0)), Some(10)));
        // Its parts are not known, but it is not whole.
        assert!(a100.mig_enabled && a100.mig.is_empty() && !found.gpus[0].mig_enabled);
    }
}

#[test]
fn gpu_old_smi_is_asked_for_less() {
    if !have_root() {
        skip("nvidia-smi that does not belong to root is not executed");
        return;
    }
    for unknown in ["*compute_cap*", "*compute_cap*|*mig.mode*"] {
        let tree = DriverTree::debian().gpus(&["V100"]).without("libnvidia-ml").build();
        let script = fs::read_to_string(tree.smi()).unwrap();
        let refuse =
            format!("#!/bin/sh\ncase $1 in {unknown}) echo 'Field is not a valid field to query.'; exit 2 ;; esac\n");
        fs::write(tree.smi(), script.replacen("#!/bin/sh\n", &refuse, 1)).unwrap();
        let found = inventory(&tree);
        assert_eq!((found.source, found.gpus[0].memory), (Source::Smi, mebibytes(16160)), "{unknown}: {found:#?}");
        assert_eq!(found.gpus[0].compute_capability, None);
    }
}

#[test]
fn gpu_smi_of_anybody_is_not_executed() {
    use std::os::unix::fs::PermissionsExt;
    let tree = DriverTree::debian().without("libnvidia-ml").build();
    fs::set_permissions(tree.smi(), fs::Permissions::from_mode(0o777)).unwrap();
    let found = inventory(&tree);
    assert_eq!(found.source, Source::Proc);
    assert!(found.notes.iter().any(|note| note.contains("does not belong to root alone")), "{:?}", found.notes);
}

#[test]
fn gpu_proc_alone_lists_gpus() {
    let tree = DriverTree::debian().gpus(&["T4", "H100"]).without("libnvidia-ml").without("nvidia-smi").build();
    let found = inventory(&tree);
    assert_eq!((found.source, uuids(&found).as_slice()), (Source::Proc, tree.uuids()));
    assert_eq!((found.gpus[0].model.as_str(), found.gpus[0].memory), ("Tesla T4", None));
    assert!(found.gpus.iter().all(|gpu| gpu.unusable.is_none()), "{found:#?}");
    assert_eq!(found.notes.len(), 2, "{:?}", found.notes);
}

#[test]
fn gpu_no_driver_is_told_from_a_driver_that_is_not_loaded() {
    let never = |_: &_| -> Facts { panic!("nobody is there to be asked") };
    let tree = DriverTree::debian().gpus(&["T4"]).without("driver/nvidia").build();
    let root = tree.path();
    let at = |sys: &str| discover(&root.join("proc"), &root.join("dev"), &root.join(sys), never).unwrap();
    assert_eq!(at("nothing"), Inventory::default());
    let not_loaded = at("sys");
    assert_eq!((not_loaded.driver, not_loaded.gpus), (None, Vec::new()));
    let [note] = not_loaded.notes.as_slice() else { panic!("one note") };
    assert!(note.contains(&DriverTree::address(0)) && note.contains("hint: `modprobe nvidia`"), "{note}");
    // The network card is not named.
    assert!(!note.contains("0000:01:00.0"), "{note}");
}

#[test]
fn gpu_nvml_that_hangs_is_killed() {
    let tree = DriverTree::debian().nvml().without("nvidia-smi").build();
    tree.hang_nvml();
    let start = Instant::now();
    let facts = ask_within(&tree, Duration::from_millis(300));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(facts.notes[0].contains("did not end within 300ms and was killed"), "{:?}", facts.notes);
    assert_eq!(facts.source, Source::Proc);
}

#[test]
fn gpu_nvml_that_crashes_or_refuses_is_told_of() {
    let tree = DriverTree::debian().nvml().without("nvidia-smi").build();
    tree.crash_nvml();
    assert!(ask(&tree).notes[0].contains("ended with signal: 11"), "{:?}", ask(&tree).notes);
    let tree = DriverTree::debian().nvml().without("nvidia-smi").build();
    tree.fail_nvml(18);
    assert!(ask(&tree).notes[0].contains("of another version than the driver in the kernel"), "{:?}", ask(&tree).notes);
}

#[test]
fn gpu_that_fell_off_the_bus_is_not_given_to_anybody() {
    let tree = DriverTree::debian().gpus(&["T4", "T4"]).nvml().build();
    tree.lose(0);
    let found = inventory(&tree);
    assert_eq!(found.gpus[0].unusable.as_deref(), Some("NVML cannot reach it"));
    assert_eq!(found.gpus[1].unusable, None);
    assert!(found.notes.iter().any(|note| note.contains("NVML's GPU 0 has fallen off the bus")), "{:?}", found.notes);
}

/// What a watcher tells until `is_enough`, and how long that took.
fn events_until(watcher: &mut Watcher, is_enough: impl Fn(&[WatchEvent]) -> bool) -> (Vec<WatchEvent>, Duration) {
    let start = Instant::now();
    let mut events = Vec::new();
    while !is_enough(&events) {
        assert!(start.elapsed() < PATIENCE, "only {events:?}");
        let mut fds = [PollFd::from_borrowed_fd(watcher.fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).unwrap();
        events.extend(watcher.read_events().unwrap());
    }
    (events, start.elapsed())
}

/// Before the next sample; a machine that is busy may take longer for it.
fn is_at_once(events: &[WatchEvent], took: Duration) -> bool {
    took < SOON || !events.iter().any(|event| matches!(event, WatchEvent::Sample { .. }))
}

fn watch(tree: &DriverTree, uuids: &[String]) -> Watcher {
    let uuids: Vec<_> = uuids.iter().map(|uuid| uuid.parse().unwrap()).collect();
    let mut watcher = Watcher::start_from(Path::new(BINARY), &tree.nvml_library(), &uuids).unwrap();
    // Once everybody has been looked at they are registered too, but for a moment.
    events_until(&mut watcher, |events| events.len() >= uuids.len());
    std::thread::sleep(Duration::from_millis(100));
    watcher
}

fn xid(uuid: &str, number: u64) -> WatchEvent {
    WatchEvent::Xid { uuid: uuid.parse().unwrap(), number }
}

#[test]
fn gpu_use_is_sampled() {
    let tree = DriverTree::debian().gpus(&["T4", "A100"]).nvml().build();
    let mut watcher = watch(&tree, &tree.uuids()[1..]);
    tree.set_utilisation(1, 90, 2048);
    let seen = |percent| {
        move |events: &[WatchEvent]| {
            events.iter().any(|event| {
                matches!(event, WatchEvent::Sample { utilisation, .. } if utilisation.compute_percent == Some(percent))
            })
        }
    };
    let (first, _) = events_until(&mut watcher, seen(90));
    tree.set_utilisation(1, 40, 1024);
    let (second, _) = events_until(&mut watcher, seen(40));
    let mut peaks = UsagePeaks::default();
    first.iter().chain(&second).for_each(|event| peaks.add(event));
    let [usage] = peaks.usage().try_into().unwrap();
    assert_eq!((usage.uuid, usage.compute_percent_max), (tree.uuids()[1].clone(), Some(90)));
    assert_eq!(usage.memory_peak, mebibytes(2048));
    assert!(usage.compute_percent_mean.is_some_and(|mean| mean > 30.0 && mean < 90.0));
}

#[test]
fn gpu_errors_are_told_at_once_and_of_watched_gpus_only() {
    let tree = DriverTree::debian().gpus(&["T4", "A100"]).nvml().build();
    let mut watcher = watch(&tree, &tree.uuids()[1..]);
    tree.raise_xid(0, 13);
    tree.raise_xid(1, 31);
    let told = xid(&tree.uuids()[1], 31);
    let (events, took) = events_until(&mut watcher, |events| events.contains(&told));
    assert!(is_at_once(&events, took), "{took:?}");
    assert!(!events.contains(&xid(&tree.uuids()[0], 13)), "{events:?}");
}

#[test]
fn gpu_that_is_lost_is_told_once_and_others_are_watched_on() {
    let tree = DriverTree::debian().gpus(&["T4", "A100"]).nvml().build();
    let mut watcher = watch(&tree, tree.uuids());
    let lost = WatchEvent::Lost { uuid: tree.uuids()[0].parse().unwrap() };
    tree.raise_xid(0, 79);
    tree.lose(0);
    let (events, took) = events_until(&mut watcher, |events| events.contains(&lost));
    assert!(events.contains(&xid(&tree.uuids()[0], 79)), "the error comes first: {events:?}");
    assert!(is_at_once(&events, took), "{took:?}");
    // Of the one that is left: its errors at once, and a sample a second.
    std::thread::sleep(Duration::from_millis(100));
    tree.raise_xid(1, 48);
    let (events, took) = events_until(&mut watcher, |events| events.contains(&xid(&tree.uuids()[1], 48)));
    assert!(is_at_once(&events, took), "{took:?}: {events:?}");
    let (events, took) = events_until(&mut watcher, |events| events.len() >= 3);
    assert!(took > Duration::from_millis(1500), "{took:?}: {events:?}");
    assert!(!events.contains(&lost), "{events:?}");
}

#[test]
fn gpu_lost_without_an_error_is_told_soon() {
    let tree = DriverTree::debian().gpus(&["T4"]).nvml().build();
    let mut watcher = watch(&tree, tree.uuids());
    tree.lose(0);
    let (events, took) =
        events_until(&mut watcher, |events| events.iter().any(|e| matches!(e, WatchEvent::Lost { .. })));
    assert!(is_at_once(&events, took), "{took:?}: {events:?}");
    // One that is lost already can be asked for all the same.
    let uuids = [tree.uuids()[0].parse().unwrap()];
    let mut late = Watcher::start_from(Path::new(BINARY), &tree.nvml_library(), &uuids).unwrap();
    let (events, _) = events_until(&mut late, |events| !events.is_empty());
    assert_eq!(events, [WatchEvent::Lost { uuid: uuids[0].clone() }]);
}

#[test]
fn gpu_errors_of_mig_devices_concern_their_part() {
    let tree = DriverTree::debian().gpus(&["T4", "A100"]).mig(1, &["3g.20gb", "3g.20gb"]).nvml().build();
    let parts = [tree.mig_uuid(1, 0), tree.mig_uuid(1, 1)];
    let mut watcher = watch(&tree, &parts);
    tree.raise_mig_xid(1, 1, 31);
    tree.raise_xid(1, 79);
    let (events, _) = events_until(&mut watcher, |events| parts.iter().all(|part| events.contains(&xid(part, 79))));
    assert!(events.contains(&xid(&parts[1], 31)) && !events.contains(&xid(&parts[0], 31)), "{events:?}");
    // What a part computes is not known, its memory is.
    let (events, _) = events_until(&mut watcher, |events| !events.is_empty());
    let WatchEvent::Sample { utilisation, .. } = &events[0] else { panic!("{events:?}") };
    assert_eq!((utilisation.compute_percent, utilisation.memory_used), (None, mebibytes(1)));
}

#[test]
fn gpu_that_reports_no_errors_leaves_those_of_others() {
    let tree = DriverTree::debian().gpus(&["T4", "A100"]).nvml().build();
    tree.no_events(0);
    let mut watcher = watch(&tree, tree.uuids());
    tree.raise_xid(1, 94);
    events_until(&mut watcher, |events| events.contains(&xid(&tree.uuids()[1], 94)));
}

#[test]
fn gpu_watcher_that_fails_says_why() {
    let tree = DriverTree::debian().build();
    let uuids = [tree.uuids()[0].parse().unwrap()];
    let last_words = |tree: &DriverTree| {
        let mut watcher = Watcher::start_from(Path::new(BINARY), &tree.nvml_library(), &uuids).unwrap();
        let mut words = String::new();
        let ended = wait_until(|| match watcher.read_events() {
            Ok(events) => {
                assert_eq!(events, []);
                false
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
                words = error.to_string();
                true
            }
        });
        assert!(ended);
        words
    };
    assert!(!last_words(&tree).is_empty());
    let other = DriverTree::debian().nvml().build();
    assert!(last_words(&other).contains(&format!("`{}` cannot be watched", uuids[0])));
}

#[test]
fn gpu_watcher_ends_with_who_reads_it() {
    let tree = DriverTree::debian().nvml().build();
    let watcher = watch(&tree, tree.uuids());
    let pid = watcher.pid();
    let runs = move || File::open(format!("/proc/{pid}/stat")).is_ok();
    assert!(runs());
    tree.hang_nvml();
    std::thread::sleep(Duration::from_millis(50));
    drop(watcher);
    assert!(wait_until(|| !runs()));
}

/// A supervisor that is killed kills nobody.
#[test]
#[expect(clippy::disallowed_methods, reason = "the process itself, without the watcher that would end it")]
fn gpu_watcher_without_a_reader_ends_even_with_nothing_to_tell() {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    let tree = DriverTree::debian().nvml().build();
    let mut child = std::process::Command::new(BINARY)
        .arg0(dockless::gpu::NVML_ARGV0)
        .arg("watch")
        .arg(tree.nvml_library())
        .args(tree.uuids())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    tree.lose(0);
    let mut line = String::new();
    while !line.contains("lost") {
        line.clear();
        assert_ne!(stdout.read_line(&mut line).unwrap(), 0);
    }
    assert!(child.try_wait().unwrap().is_none());
    drop(stdout);
    let ended = wait_until(|| child.try_wait().unwrap().is_some());
    drop(child.kill());
    assert!(ended);
}
