//! `gpu explain`.

use std::path::Path;

use super::roots;
use crate::cli::args::{Format, GpuExplainArgs};
use crate::cli::context::Context;
use crate::cli::exit::CliError;
use crate::cli::printer::{print_data, print_json};
use crate::gpu::edits::{ChosenGpu, Ingredients, Node, edits};
use crate::gpu::explain::Report;
use crate::gpu::files::{Arch, Places, find};
use crate::gpu::proc_view::ProcView;
use crate::gpu::{Capabilities, Inventory, Platform, Roots, wishes};

/// Stands for the run's directory, as there is no run.
const NO_RUN: &str = "/run/dockless/gpu";

pub(in crate::cli) fn explain(context: &Context, args: &GpuExplainArgs) -> Result<u8, CliError> {
    let _ = context;
    let wish = wishes::capabilities(args.gpu_capabilities.as_deref(), &[], &[])?;
    let roots = roots(&args.driver);
    // Discovery, selection (`args.gpus`) and nodes come in here.
    let (inventory, chosen, nodes) = (Inventory::default(), Vec::new(), Vec::new());
    let report = report(&roots, &inventory, &chosen, &nodes, wish.capabilities)?;
    match args.format {
        Format::Json => print_json(&report),
        Format::Table => print_data(&report.text()),
    }
    Ok(0)
}

/// What a run with these GPUs would be given.
fn report(
    roots: &Roots,
    inventory: &Inventory,
    chosen: &[ChosenGpu],
    nodes: &[Node],
    capabilities: Capabilities,
) -> Result<Report, CliError> {
    let mut remarks = inventory.notes.clone();
    let Some(driver) = &inventory.driver else {
        remarks.push("no NVIDIA driver runs on this machine, so a container can be given no GPU".to_owned());
        return Ok(Report { driver: None, capabilities, entries: Vec::new(), notes: remarks });
    };
    // The paths of `ld.so.cache` come in here.
    let user = nix::unistd::geteuid().as_raw();
    let places = Places { roots, cache_paths: &[], arch: Arch::native(), user };
    let files = find(&places, driver, &capabilities)?;
    let view = match driver.platform {
        Platform::Linux => Some(ProcView::read(&roots.proc, Path::new("/proc"), chosen)?),
        Platform::Wsl => None,
    };
    remarks.extend(files.notes.iter().cloned());
    let injection = edits(&Ingredients {
        files: &files,
        gpus: chosen,
        nodes,
        capabilities: &capabilities,
        proc_view: view.as_ref(),
        proc_directory: Path::new(NO_RUN),
    });
    Ok(Report { driver: Some(driver.version.clone()), capabilities, entries: injection.lines, notes: remarks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_driver_is_told() {
        let report = report(&Roots::host(), &Inventory::default(), &[], &[], Capabilities::default()).unwrap();
        assert!(report.text().contains("Driver: none runs"));
        assert!(report.text().ends_with("so a container can be given no GPU\n"));
    }
}
