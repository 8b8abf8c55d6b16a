//! nvidia-smi, asked when NVML cannot be loaded.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::facts::{Facts, GpuFacts};
use super::inventory::{GpuUuid, Source, Utilisation, Version};
use super::process::{OutputError, output};
use crate::image::ByteSize;

const COLUMNS: &str = "uuid,pci.bus_id,name,driver_version,memory.total,memory.used,utilization.gpu";
/// What newer ones know beside that: programs fail for a column that they do not know.
/// `mig.mode.current` came with driver 450, `compute_cap` with 510.
const MORE_COLUMNS: [&str; 3] = [",mig.mode.current,compute_cap", ",mig.mode.current", ""];
/// A GPU that has to be woken first takes seconds.
const PATIENCE: Duration = Duration::from_secs(20);
const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// Why it did not tell.
#[derive(Debug, thiserror::Error)]
pub(super) enum SmiError {
    /// Somebody else than root could have put it there.
    #[error("`{0}` is not executed: it does not belong to root alone")]
    Untrusted(PathBuf),
    /// It cannot be looked at.
    #[error("cannot look at `{path}`")]
    Stat {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Asks the program at `path`.
pub(super) fn ask(path: &Path) -> Result<Facts, SmiError> {
    let stat = |source| SmiError::Stat { path: path.to_owned(), source };
    let metadata = path.metadata().map_err(stat)?;
    if metadata.uid() != 0 || metadata.permissions().mode() & 0o022 != 0 {
        return Err(SmiError::Untrusted(path.to_owned()));
    }
    let [newest, older @ ..] = MORE_COLUMNS;
    let mut text = question(path, newest);
    for more in older {
        // Only one that says no is asked again, not one that hangs.
        if !matches!(text, Err(OutputError::Failed { .. })) {
            break;
        }
        text = question(path, more);
    }
    Ok(facts(&text?))
}

fn question(path: &Path, more_columns: &str) -> Result<String, OutputError> {
    #[expect(clippy::disallowed_methods, reason = "the driver's own program, with nothing of anybody's environment")]
    let mut command = Command::new(path);
    command
        .arg(format!("--query-gpu={COLUMNS}{more_columns}"))
        .arg("--format=csv,noheader,nounits")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null());
    let bytes = output(&mut command, "nvidia-smi", PATIENCE, MAX_OUTPUT_BYTES)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn facts(text: &str) -> Facts {
    let mut version = None;
    let mut gpus = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let cell = |index: usize| cells.get(index).copied().filter(|cell| !cell.is_empty() && !cell.starts_with('['));
        let (Some(Ok(uuid)), Some(Ok(pci))) = (cell(0).map(str::parse::<GpuUuid>), cell(1).map(str::parse)) else {
            continue;
        };
        let mebibytes = |index| Some(ByteSize(cell(index)?.parse::<u64>().ok()?.checked_mul(1 << 20)?));
        version = version.or_else(|| cell(3).map(Version::new));
        let found = GpuFacts {
            model: cell(2).map(str::to_owned),
            pci,
            memory: mebibytes(4),
            utilisation: Utilisation {
                compute_percent: cell(6).and_then(|cell| cell.parse().ok()),
                memory_used: mebibytes(5),
            },
            brand: None,
            compute_capability: cell(8)
                .and_then(|cell| cell.split_once('.'))
                .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?))),
            // Its parts are not known, but it cannot be used whole.
            mig_enabled: cell(7) == Some("Enabled"),
            mig: Vec::new(),
        };
        gpus.insert(uuid, found);
    }
    Facts { source: Source::Smi, version, cuda: None, gpus, notes: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_all_drivers_are_read() {
        let text = "GPU-1, 00000000:41:00.0, NVIDIA H200, 570.86.10, 143771, 4, 17, Disabled, 9.0\n\
                    GPU-2, 00000000:42:00.0, Tesla K80, 470.256.02, 11441, [N/A], [Not Supported]\n\
                    GPU-3, 00000000:43:00.0, NVIDIA A100-SXM4-40GB, 470.256.02, 40536, 0, [N/A], Enabled\n\
                    No devices were found\n";
        let facts = facts(text);
        assert_eq!(facts.version, Some(Version::new("570.86.10")));
        let gpu = |uuid: &str| facts.gpus[&uuid.parse::<GpuUuid>().unwrap()].clone();
        let h200 = gpu("GPU-1");
        assert_eq!((h200.memory, h200.compute_capability), (Some(ByteSize(143_771 << 20)), Some((9, 0))));
        assert_eq!(h200.utilisation.compute_percent, Some(17));
        let k80 = gpu("GPU-2");
        assert_eq!((k80.model.as_deref(), k80.utilisation), (Some("Tesla K80"), Utilisation::default()));
        assert!(gpu("GPU-3").mig_enabled && !gpu("GPU-1").mig_enabled);
        assert_eq!(facts.gpus.len(), 3);
    }
}
