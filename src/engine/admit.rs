//! Letting a run in: its first record, and whether this machine can give it what it asks for.
//!
//! Who checks holds a lock until the run's own record says what it takes, so that two runs which start at once are not both
//! given the last of something.

use std::path::Path;

use super::ports::{self, PortError};
use super::resources::{Asked, check, held};
use super::{EngineError, HostCheck, RunRequest, prepare};
use crate::container::{cpu_count, host_resources};
use crate::spec::{Cpus, MemoryLimit, Network};
use crate::store::{RunRecord, Store};

/// A run that was let in.
pub(super) struct Admitted {
    pub(super) record: RunRecord,
    /// What was not there and not insisted on, in words.
    pub(super) warnings: Vec<String>,
}

/// Checks and writes the record. What the machine does not have is told before anything is fetched.
pub(super) fn admit(store: &Store, request: &mut RunRequest) -> Result<Admitted, EngineError> {
    let mut warnings = Vec::new();
    if request.options.network == Network::Host {
        warnings.extend(ports::warnings(&request.ports));
        insist_or_warn(request.host_check, &mut warnings, ports::check_free(&request.ports), PortError::to_string)?;
    }
    // Docker lets runs of images promise more memory than there is; of processors it does not.
    if request.host_check == HostCheck::None {
        request.options.cpus.map_or(Ok(()), |cpus| cpus.check(cpu_count()))?;
        let record = prepare::submit(request)?;
        return Ok(Admitted { record, warnings });
    }
    let _held = store.lock_resources(|_| ())?;
    let found = check(
        &asked(request),
        &host_resources(Path::new("/"))?,
        &held(&store.live_runs()?, request.reservation.name()),
    );
    insist_or_warn(request.host_check, &mut warnings, found, |unmet| unmet.warning())?;
    // A share of more processors than there are is no limit.
    request.options.cpus = request.options.cpus.filter(|cpus| cpus.check(cpu_count()).is_ok());
    let record = prepare::submit(request)?;
    Ok(Admitted { record, warnings })
}

fn insist_or_warn<E: Into<EngineError>>(
    insists: HostCheck,
    warnings: &mut Vec<String>,
    found: Result<(), E>,
    in_words: impl Fn(&E) -> String,
) -> Result<(), EngineError> {
    match found {
        Err(error) if insists == HostCheck::Warn => {
            let words = in_words(&error);
            warnings.push(words.split("\nhint:").next().unwrap_or_default().to_owned());
            Ok(())
        }
        found => found.map_err(Into::into),
    }
}

fn asked(request: &RunRequest) -> Asked {
    Asked {
        cpus: request.options.cpus.map(Cpus::as_f64),
        memory: request.options.memory.map(MemoryLimit::size),
        shm_size: Some(request.options.shm_size),
        gpus: request.gpus.clone(),
    }
}
