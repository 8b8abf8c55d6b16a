//! Keeps an eye on the GPUs of a run: what they do, for the record, and whether one is lost, for the exit report.
//!
//! NVML tells, in a process of its own, and the kernel's log, where it can be read; either alone will do.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::gpu::{GpuUuid, KernelLog, KernelXid, PciAddress, UsagePeaks, WatchEvent, Watcher, is_lost, xid_words};
use crate::store::{Exit, ExitReason, GpuUsage};

/// What is to be watched, and how.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuWatch {
    /// The driver's NVML, if it has one.
    pub library: Option<PathBuf>,
    /// The kernel's log.
    pub kernel_log: PathBuf,
    /// The GPUs of the run, and parts of GPUs.
    pub gpus: Vec<WatchedGpu>,
}

/// A GPU of a run, or a part of one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchedGpu {
    /// Its name for ever.
    pub uuid: GpuUuid,
    /// Where it is.
    pub pci: PciAddress,
    /// For a part: the GPU instance that it is in.
    pub gpu_instance: Option<u32>,
    /// For people.
    pub model: String,
}

/// The eye; without anything to watch it is closed.
#[derive(Debug, Default)]
pub(super) struct GpuEye {
    gpus: Vec<WatchedGpu>,
    watcher: Option<Watcher>,
    kernel_log: Option<KernelLog>,
    peaks: UsagePeaks,
    /// Errors that were told, by GPU and number; both sources tell of the same.
    told: BTreeSet<(GpuUuid, u64)>,
    /// The first GPU that was lost, in words.
    lost: Option<String>,
}

impl GpuEye {
    /// Starts to watch. What cannot be watched is not, and says nothing: a run is not worse for it.
    pub(super) fn open(watch: Option<&GpuWatch>) -> Self {
        let Some(watch) = watch.filter(|watch| !watch.gpus.is_empty()) else { return Self::default() };
        let uuids: Vec<GpuUuid> = watch.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        Self {
            gpus: watch.gpus.clone(),
            watcher: watch.library.as_deref().and_then(|library| Watcher::start(library, &uuids).ok()),
            kernel_log: KernelLog::open(&watch.kernel_log).ok(),
            ..Self::default()
        }
    }

    /// Readable when there is something to be heard.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.watcher.iter().map(Watcher::fd).chain(self.kernel_log.iter().map(KernelLog::fd))
    }

    /// Hears what there is, without waiting; returns what is worth telling at once.
    pub(super) fn look(&mut self) -> Vec<String> {
        let mut events = Vec::new();
        if let Some(watcher) = &mut self.watcher {
            match watcher.read_events() {
                Ok(found) => events = found,
                // It has ended, as it does when NVML does not work.
                Err(_) => self.watcher = None,
            }
        }
        let mut words = Vec::new();
        for event in events {
            self.peaks.add(&event);
            match event {
                WatchEvent::Sample { .. } => {}
                WatchEvent::Xid { uuid, number } => words.extend(self.xid(&uuid, number)),
                WatchEvent::Lost { uuid } => words.extend(self.lose(&uuid)),
            }
        }
        let records = match self.kernel_log.as_mut().map(KernelLog::read_events) {
            Some(Ok(records)) => records,
            Some(Err(_)) => {
                self.kernel_log = None;
                Vec::new()
            }
            None => Vec::new(),
        };
        for record in records {
            for uuid in self.concerned(record) {
                words.extend(self.xid(&uuid, record.number));
            }
        }
        words
    }

    /// Which of the run's GPUs a record of the kernel's log is about.
    fn concerned(&self, record: KernelXid) -> Vec<GpuUuid> {
        let is_meant = |gpu: &&WatchedGpu| {
            let same_part = gpu.gpu_instance.is_none() || record.gpu_instance.is_none();
            gpu.pci == record.pci && (same_part || gpu.gpu_instance == record.gpu_instance)
        };
        self.gpus.iter().filter(is_meant).map(|gpu| gpu.uuid.clone()).collect()
    }

    fn name(&self, uuid: &GpuUuid) -> String {
        let model = self.gpus.iter().find(|gpu| gpu.uuid == *uuid).map_or("GPU", |gpu| gpu.model.as_str());
        format!("{model} ({uuid})")
    }

    fn xid(&mut self, uuid: &GpuUuid, number: u64) -> Option<String> {
        if !self.told.insert((uuid.clone(), number)) {
            return None;
        }
        let meaning = xid_words(number).map_or_else(String::new, |words| format!(": {words}"));
        let text = format!("{}: Xid {number}{meaning}", self.name(uuid));
        if is_lost(number) {
            self.lost.get_or_insert_with(|| text.clone());
        }
        Some(text)
    }

    fn lose(&mut self, uuid: &GpuUuid) -> Option<String> {
        if self.lost.is_some() {
            return None;
        }
        let text = format!("{}: it cannot be reached any more", self.name(uuid));
        self.lost = Some(text.clone());
        Some(text)
    }

    /// Puts into the report what was seen: what the GPUs did, and a loss as the reason of a bad end.
    pub(super) fn report(&self, exit: &mut Exit) {
        exit.gpus = self.usage();
        let Some(lost) = &self.lost else { return };
        let ended_badly = exit.code != 0 && matches!(exit.reason, ExitReason::Exited | ExitReason::Signalled);
        if ended_badly {
            exit.reason = ExitReason::GpuLost;
        }
        let words = format!("a GPU was lost: {lost}");
        exit.message = Some(match exit.message.take() {
            Some(message) => format!("{words}; {message}"),
            None => words,
        });
    }

    fn usage(&self) -> Vec<GpuUsage> {
        self.peaks.usage()
    }
}
