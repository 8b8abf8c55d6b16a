//! From the flags of limits, security and labels to the options of a container: checked before anything is fetched.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::{major, minor};

use super::args::{LimitArgs, RunKeepingArgs, SecurityArgs};
use super::exit::CliError;
use crate::spec::{
    self, CapabilityName, IdList, MAX_PROFILE_BYTES, Profile, ResourceOptions, SeccompChoice, SecurityOpt,
    SecurityOptions, SpecError, Sysctl, Throttle, ThrottleKind, Ulimit,
};

/// The most that is read of a file with labels.
const MAX_LABEL_FILE_BYTES: u64 = 1 << 20;

pub(super) fn resources(args: &LimitArgs) -> Result<ResourceOptions, CliError> {
    if args.oom_kill_disable {
        let reason = "a container that runs out of memory would hang instead of ending";
        return Err(CliError::Usage(format!("`--oom-kill-disable` is not supported: {reason}\nhint: leave it out")));
    }
    let list = |flag, text: &Option<String>| text.as_deref().map(|text| IdList::parse(flag, text)).transpose();
    Ok(ResourceOptions {
        cpu_shares: read(args.cpu_shares.as_ref(), spec::cpu_shares)?,
        cpu_period_us: read(args.cpu_period.as_ref(), spec::cpu_period)?,
        cpu_quota_us: read(args.cpu_quota.as_ref(), spec::cpu_quota)?,
        cpuset_cpus: list("--cpuset-cpus", &args.cpuset_cpus)?,
        cpuset_mems: list("--cpuset-mems", &args.cpuset_mems)?,
        memory_swap: read(args.memory_swap.as_ref(), spec::memory_swap)?,
        memory_reservation: read(args.memory_reservation.as_ref(), spec::memory_reservation)?,
        memory_swappiness: read(args.memory_swappiness.as_ref(), spec::memory_swappiness)?,
        pids: args.pids_limit.as_deref().map(spec::pids).transpose()?,
        blkio_weight: read(args.blkio_weight.as_ref(), spec::blkio_weight)?,
        throttles: throttles(args)?,
        ulimits: args.ulimit.iter().map(|text| Ulimit::parse(text)).collect::<Result<_, _>>()?,
        oom_score_adj: args.oom_score_adj.as_deref().map(spec::oom_score_adj).transpose()?,
    })
}

/// What the reader of a flag makes of it, when it was given.
fn read<T>(text: Option<&String>, read: fn(&str) -> Result<Option<T>, SpecError>) -> Result<Option<T>, SpecError> {
    text.map_or(Ok(None), |text| read(text))
}

fn throttles(args: &LimitArgs) -> Result<Vec<Throttle>, CliError> {
    let flags = [
        (ThrottleKind::ReadBps, &args.device_read_bps),
        (ThrottleKind::WriteBps, &args.device_write_bps),
        (ThrottleKind::ReadIops, &args.device_read_iops),
        (ThrottleKind::WriteIops, &args.device_write_iops),
    ];
    flags.into_iter().flat_map(|(kind, texts)| texts.iter().map(move |text| throttle(kind, text))).collect()
}

fn throttle(kind: ThrottleKind, text: &str) -> Result<Throttle, CliError> {
    let (path, rate) = kind.parse(text)?;
    let metadata = std::fs::metadata(&path).map_err(|source| CliError::Read { path: path.clone().into(), source })?;
    if !metadata.file_type().is_block_device() {
        return Err(CliError::Usage(format!("`{} {text}`: `{path}` is no block device", kind.flag())));
    }
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let (major, minor) = (number(major(metadata.rdev())), number(minor(metadata.rdev())));
    Ok(Throttle { kind, major, minor, rate })
}

pub(super) fn security(args: &SecurityArgs) -> Result<SecurityOptions, CliError> {
    let mut options = SecurityOptions {
        cap_add: args.cap_add.iter().map(|text| CapabilityName::to_add(text)).collect::<Result<_, _>>()?,
        cap_drop: args.cap_drop.iter().map(|text| CapabilityName::to_drop(text)).collect::<Result<_, _>>()?,
        privileged: args.privileged,
        group_add: args.group_add.clone(),
        sysctls: args.sysctl.iter().map(|text| Sysctl::parse(text)).collect::<Result<_, _>>()?,
        ..SecurityOptions::default()
    };
    for text in &args.security_opt {
        match SecurityOpt::parse(text)? {
            SecurityOpt::SeccompUnconfined => options.seccomp = SeccompChoice::Unconfined,
            SecurityOpt::SeccompBuiltin => options.seccomp = SeccompChoice::Builtin,
            SecurityOpt::SeccompFile(path) => options.seccomp = SeccompChoice::Profile(Box::new(profile(&path)?)),
            SecurityOpt::NoNewPrivileges(wanted) => options.no_new_privileges = wanted,
            SecurityOpt::AppArmor(profile) => options.apparmor = profile,
            SecurityOpt::NoLabel => {}
            SecurityOpt::UnconfinedPaths => options.unconfined_paths = true,
        }
    }
    Ok(options)
}

fn profile(path: &str) -> Result<Profile, CliError> {
    let path = Path::new(path);
    Ok(Profile::parse(path, &read_bounded(path, MAX_PROFILE_BYTES)?)?)
}

/// A little more than `most` bytes at most, so that the reader sees that it was too much.
fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.map_err(|source| CliError::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

pub(super) fn annotations(texts: &[String]) -> Result<BTreeMap<String, String>, SpecError> {
    texts.iter().map(|text| spec::pair("--annotation", text)).collect()
}

/// Files first, so that single labels win over them.
pub(super) fn labels(args: &RunKeepingArgs) -> Result<BTreeMap<String, String>, CliError> {
    let mut labels = BTreeMap::new();
    for path in &args.label_file {
        let bytes = read_bounded(path, MAX_LABEL_FILE_BYTES)?;
        if bytes.len() as u64 > MAX_LABEL_FILE_BYTES {
            let shown = path.display();
            return Err(CliError::Usage(format!("`--label-file {shown}` has more than {MAX_LABEL_FILE_BYTES} bytes")));
        }
        labels.extend(spec::label_file(&path.to_string_lossy(), &bytes)?);
    }
    for text in &args.label {
        labels.extend([spec::pair("--label", text)?]);
    }
    Ok(labels)
}

/// `--stop-timeout` in milliseconds.
pub(super) fn grace_ms(args: &RunKeepingArgs) -> Result<Option<u64>, CliError> {
    let Some(text) = &args.stop_timeout else { return Ok(None) };
    match text.parse::<i64>() {
        // No clock comes that far.
        Ok(-1) => Ok(Some(u64::MAX)),
        Ok(seconds @ 0..) => Ok(Some(seconds.unsigned_abs().saturating_mul(1000))),
        _ => {
            let expected = "expected a number of seconds, or -1 for no end";
            Err(CliError::Usage(format!("`--stop-timeout {}`: {expected}", text.escape_debug())))
        }
    }
}
