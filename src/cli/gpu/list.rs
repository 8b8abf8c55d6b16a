//! `gpu list`.

use serde::Serialize;

use super::{lease_dir, roots};
use crate::cli::args::{Format, GpuListArgs, TalkArgs};
use crate::cli::context::Context;
use crate::cli::exit::CliError;
use crate::cli::printer::print_list;
use crate::gpu::lease::taken;
use crate::gpu::{Chosen, Gpu, Inventory, Machine, Taken};
use crate::image::ByteSize;
use crate::words::describe;

/// A GPU or a part of one.
#[derive(Debug, Serialize)]
struct Line {
    /// `0`; `0:1` is the second part of the first.
    index: String,
    model: String,
    /// The profile of a part.
    profile: Option<String>,
    memory_bytes: Option<u64>,
    memory_used_bytes: Option<u64>,
    compute_percent: Option<u32>,
    uuid: String,
    pci: String,
    driver: String,
    cuda: Option<String>,
    /// It is partitioned, and can be had in parts only.
    mig_enabled: bool,
    /// Runs that have it.
    holders: Vec<Who>,
    /// Why nobody can have it.
    unusable: Option<String>,
}

#[derive(Debug, Serialize)]
struct Who {
    run: String,
    store: String,
    since: String,
    shared: bool,
}

/// An empty list is no failure: what is missing is told beside it.
pub(in crate::cli) fn list(context: &Context, args: &GpuListArgs) -> Result<u8, CliError> {
    let printer = context.printer(TalkArgs { quiet: false, verbose: 0 });
    let inventory = Machine::look(&roots(&args.driver)?)?.inventory;
    // Who is not root sees the GPUs all the same.
    let taken = taken(&lease_dir(), &inventory).unwrap_or_else(|error| {
        printer.detail(&describe(&error));
        Vec::new()
    });
    let lines: Vec<Line> = inventory.gpus.iter().flat_map(|gpu| of_gpu(gpu, &inventory, &taken)).collect();
    let header = ["INDEX", "MODEL", "MEMORY", "USED", "BUSY", "UUID", "DRIVER", "HOLDER"];
    print_list(args.list.format, header, &lines, row);
    for note in &inventory.notes {
        printer.warn(note);
    }
    if inventory.driver.is_none() && args.list.format == Format::Table && inventory.notes.is_empty() {
        printer.warn("no NVIDIA driver runs on this machine, and no NVIDIA device is on its bus");
    }
    Ok(0)
}

fn of_gpu(gpu: &Gpu, inventory: &Inventory, taken: &[Taken]) -> Vec<Line> {
    let parts = gpu.mig.iter().map(|device| Chosen::Mig { gpu: gpu.clone(), device: device.clone() });
    std::iter::once(Chosen::Gpu(gpu.clone())).chain(parts).map(|chosen| line(&chosen, inventory, taken)).collect()
}

fn line(chosen: &Chosen, inventory: &Inventory, taken: &[Taken]) -> Line {
    let (gpu, driver) = (chosen.gpu(), inventory.driver.as_ref());
    let part = match chosen {
        Chosen::Gpu(_) => None,
        Chosen::Mig { device, .. } => Some(device),
    };
    let of_gpu = part.is_none();
    let bytes = |size: Option<ByteSize>| size.map(|size| size.0);
    let holders = taken.iter().filter(|taken| taken.uuid == *chosen.uuid()).filter_map(|taken| taken.by.as_ref());
    Line {
        index: part.map_or_else(|| gpu.index.to_string(), |part| format!("{}:{}", gpu.index, part.index)),
        model: gpu.model.clone(),
        profile: part.map(|part| part.profile.clone()),
        memory_bytes: part.map_or_else(|| bytes(gpu.memory), |part| bytes(part.memory)),
        memory_used_bytes: bytes(gpu.utilisation.memory_used).filter(|_| of_gpu),
        compute_percent: gpu.utilisation.compute_percent.filter(|_| of_gpu),
        uuid: chosen.uuid().to_string(),
        pci: gpu.pci.to_string(),
        driver: driver.map(|driver| driver.version.to_string()).unwrap_or_default(),
        cuda: driver.and_then(|driver| driver.cuda).map(|(major, minor)| format!("{major}.{minor}")),
        mig_enabled: gpu.mig_enabled && of_gpu,
        holders: holders
            .map(|holder| Who {
                run: holder.run.to_string(),
                store: holder.store.display().to_string(),
                since: holder.since.clone(),
                shared: holder.shared,
            })
            .collect(),
        unusable: gpu.unusable.clone(),
    }
}

fn row(line: &Line) -> [String; 8] {
    let none = || "-".to_owned();
    let size = |bytes: Option<u64>| bytes.map_or_else(none, |bytes| format!("{} MiB", bytes >> 20));
    let who = |who: &Who| format!("{}{}", who.run, if who.shared { " (shared)" } else { "" });
    let holder = match (&line.unusable, line.holders.as_slice()) {
        (Some(why), _) => format!("nobody: {why}"),
        (None, []) if line.mig_enabled => "in parts".to_owned(),
        (None, []) => none(),
        (None, holders) => holders.iter().map(who).collect::<Vec<_>>().join(", "),
    };
    [
        line.index.clone(),
        line.profile.as_ref().map_or_else(|| line.model.clone(), |profile| format!("  part {profile}")),
        size(line.memory_bytes),
        size(line.memory_used_bytes),
        line.compute_percent.map_or_else(none, |percent| format!("{percent} %")),
        line.uuid.clone(),
        line.driver.clone(),
        holder,
    ]
}
