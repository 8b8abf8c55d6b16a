//! Letting a run in: its first record, and whether this machine can give it what it asks for.
//!
//! Who checks holds a lock until the run's own record says what it takes, so that two runs which start at once are not both
//! given the last of something.

use std::path::{Path, PathBuf};

use super::devices::Given;
use super::inputs::{self, InputRequest, Inputs};
use super::places::{directory, recorded};
use super::ports::{self, PortError};
use super::prepare::{self, Admitted};
use super::resources::{Asked, Unmet, check, held};
use super::users;
use super::{EngineError, HostCheck, InputsWanted, RunRequest};
use crate::artifact::ArtifactStore;
use crate::container::{cpu_count, host_resources};
use crate::spec::{Cpus, EnvSetting, HostFacts, MemoryLimit, Network, Users};
use crate::store::{RunRecord, Store};

/// Checks and writes the record. What the machine does not have is told before anything is fetched.
pub(super) fn admit(
    store: &Store,
    request: &mut RunRequest,
    given: Result<Given, EngineError>,
    host: HostFacts,
) -> Result<Admitted, EngineError> {
    let mut warnings = Vec::new();
    let (given, missing) = given_or_missing(request.host_check, given)?;
    if matches!(request.options.network, Network::Host) {
        warnings.extend(ports::warnings(&request.ports));
        insist_or_warn(request.host_check, &mut warnings, ports::check_free(&request.ports), PortError::to_string)?;
    }
    // Held until the record names them.
    let inputs = inputs(store, request)?;
    // Docker lets runs of images promise more memory than there is; of processors it does not.
    let is_checked = request.host_check != HostCheck::None;
    let wants_users = matches!(request.options.namespaces.users, Users::Auto { .. });
    let _held = if is_checked || wants_users { Some(store.lock_resources(|_| ())?) } else { None };
    if is_checked {
        let others = held(&store.live_runs()?, request.reservation.name());
        let found = check(&asked(request), &host_resources(Path::new("/"))?, &others, missing);
        insist_or_warn(request.host_check, &mut warnings, found, Unmet::warning)?;
        // A share of more processors than there are is no limit.
        request.options.cpus = request.options.cpus.filter(|cpus| cpus.check(cpu_count()).is_ok());
    } else {
        request.options.cpus.map_or(Ok(()), |cpus| cpus.check(cpu_count()))?;
    }
    let (name, id) = (request.reservation.name().as_str(), request.id());
    request.options.namespaces.users = users::choose(store, &request.options.namespaces.users, name, &id)?;
    users::probe(store, &request.options.namespaces.users)?;
    warnings.extend(users::warnings(&request.options.namespaces.users));
    // What could not be said before the ids were known.
    request.options.check(&host)?;
    let (deps, caches) = inputs.as_ref().map(|inputs| (inputs.runs(), inputs.cache_keys())).unwrap_or_default();
    if request.origin.workflow.is_some() {
        // Before all others: the workflow's own may say something else.
        request.options.env.insert(0, EnvSetting::set("DOCKLESS_GPUS_NUM", &given.chosen.len().to_string())?);
    }
    // After the machine was asked for all it lacks at once, and before anything is fetched.
    prepare::check_cgroup(request, &host)?;
    let record = prepare::submit(request, given.recorded(request.devices.shared), deps, caches)?;
    let mounts = inputs.as_ref().map_or_else(|| Ok(Vec::new()), Inputs::mounts)?;
    Ok(Admitted { record, host, given, mounted: Vec::new(), mounts, warnings })
}

/// GPUs that cannot be had are one line of several where other resources are checked too; elsewhere they are the error.
fn given_or_missing(
    host_check: HostCheck,
    given: Result<Given, EngineError>,
) -> Result<(Given, Option<String>), EngineError> {
    match given {
        Ok(given) => Ok((given, None)),
        Err(EngineError::Device(error)) if host_check != HostCheck::None && error.unmet().is_some() => {
            Ok((Given::default(), error.unmet()))
        }
        Err(error) => Err(error),
    }
}

/// Finds what the run gets of earlier ones; nothing is looked at for a run that wants none.
fn inputs(store: &Store, request: &RunRequest) -> Result<Option<Inputs>, EngineError> {
    let InputsWanted { deps, caches } = &request.inputs;
    if deps.is_empty() && caches.is_empty() {
        return Ok(None);
    }
    let artifacts: Vec<PathBuf> = request.artifacts.iter().map(|artifact| artifact.container_path.clone()).collect();
    let working_dir = request.options.working_dir.as_deref().map(Path::new);
    let visible: Vec<&Path> = working_dir.into_iter().chain(request.project_place()).collect();
    let wanted = InputRequest {
        project: &request.project_in_words(),
        workflow: request.origin.workflow.as_deref().unwrap_or_default(),
        deps,
        caches,
        artifacts: &artifacts,
        visible: &visible,
        now: &request.created,
    };
    // What is in a bucket was fetched before.
    let mut saved = |record: &RunRecord| {
        let url = recorded(record);
        let artifacts = directory(store, url.as_ref()).unwrap_or_else(|| ArtifactStore::new(store.artifacts()));
        Ok(artifacts.saved(&record.name)?)
    };
    Ok(Some(inputs::resolve(store, &wanted, &mut saved)?))
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
    }
}
