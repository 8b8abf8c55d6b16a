//! Which GPUs a run asks for: `--gpus` and a workflow's `resources.gpu`. Pure.
//!
//! The forms are docker's (`all`, `2`, `device=0,1`, `count=2,capabilities=utility`, with or without the inner quotes that its CSV
//! wants) and ours (`name=V100,memory=16GB,count=2`, `mig=1g.10gb`).

use std::fmt;
use std::str::FromStr;

use super::{Capabilities, CapabilityError, ModelName, PciAddress};
use crate::image::{ByteSize, ByteSizeError};

/// So many GPUs no machine has; a larger number is a slip.
const MAX_COUNT: u32 = 1024;
const KEYS: &str = "`device`, `count`, `name`, `memory`, `mig`, `capabilities`, `driver`";
/// Memory that no GPU is asked for by; a number without a unit is bytes.
const LEAST_MEMORY: ByteSize = ByteSize(1_000_000);

/// GPUs as they are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuRequest {
    /// How many, or which.
    pub which: Which,
    /// Of this model.
    pub name: Option<ModelName>,
    /// Each sold with at least so much memory.
    pub memory: Option<ByteSize>,
    /// MIG devices of this profile, and no whole GPUs.
    pub mig: Option<MigProfile>,
    /// What the container may do with them, where the request says it.
    pub capabilities: Option<Capabilities>,
}

/// How many, or which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// None: the run goes without.
    None,
    /// Every one that fits.
    All,
    /// So many; not zero.
    Count(u32),
    /// These; not empty.
    Devices(Vec<DeviceName>),
}

/// What one GPU or MIG device is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceName {
    /// Its place in the list, `0`.
    Index(u32),
    /// Its UUID or the beginning of one, with `GPU-` or `MIG-`; in lower case behind that.
    Uuid(String),
    /// Its PCI address.
    Pci(PciAddress),
    /// A MIG device by GPU and place on it, `0:1`.
    Mig(u32, u32),
    /// A MIG device as drivers before 470 named it, `MIG-GPU-…/1/0`: GPU, GPU instance, compute instance.
    OldMig(String, u32, u32),
}

/// A MIG profile, `1g.10gb`, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigProfile(String);

/// Why a text asks for no GPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Nothing there.
    #[error(
        "GPU request is empty, expected e.g. `all`, `2`, `device=0,1`, `name=A100,count=2`\nhint: `none` runs without GPUs"
    )]
    Empty,
    /// A quote without its other half.
    #[error("GPU request `{0}` has a `\"` without the other one")]
    Quote(String),
    /// An unknown key.
    #[error("GPU request has the key `{key}`, expected {KEYS}{}", did_you_mean(.nearest.as_deref()))]
    Key {
        /// The key.
        key: String,
        /// What was meant, perhaps.
        nearest: Option<String>,
    },
    /// A key that is there twice.
    #[error("GPU request has `{0}` twice")]
    Twice(&'static str),
    /// Not a number of GPUs.
    #[error(
        "`{0}` is not a number of GPUs, expected `all` or 0 to {MAX_COUNT}\nhint: a model is asked for by `name={0}`"
    )]
    Count(String),
    /// Not what a device is called.
    #[error(
        "`{0}` is not the name of a GPU, expected an index `0`, a UUID `GPU-8f2d0b6e…` or `MIG-…`, a PCI address `0000:41:00.0` or a \
         MIG device `0:1`\nhint: `dockless gpu list` shows them"
    )]
    Device(String),
    /// A CDI name.
    #[error("`{0}` is the name of a CDI device, which `--gpus` does not take\nhint: `--device {0}`")]
    Cdi(String),
    /// Not a model.
    #[error("`name={0}` names no model of a GPU, expected e.g. `A100`, `RTX 4090`")]
    Name(String),
    /// Not a size.
    #[error(transparent)]
    Memory(#[from] ByteSizeError),
    /// A size that is too small to be meant.
    #[error("`memory={0}` asks for less than a megabyte, expected e.g. `16GB`")]
    LittleMemory(String),
    /// Not a profile.
    #[error(
        "`mig={0}` is not a MIG profile, expected e.g. `1g.10gb`\nhint: `dockless gpu list` shows those of this machine"
    )]
    Mig(String),
    /// Not a capability.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// Somebody else's devices.
    #[error("`driver={0}` is unknown, expected `nvidia`\nhint: devices of others are given with `--device`")]
    Driver(String),
    /// Keys that contradict each other.
    #[error("GPU request has both `{0}` and `{1}`\nhint: {2}")]
    Both(&'static str, &'static str, &'static str),
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("\nhint: did you mean `{nearest}`?"))
}

impl GpuRequest {
    /// No GPUs.
    #[must_use]
    pub fn none() -> Self {
        Self::of(Which::None)
    }

    /// Every GPU.
    #[must_use]
    pub fn all() -> Self {
        Self::of(Which::All)
    }

    /// So many; none for 0.
    #[must_use]
    pub fn count(count: u32) -> Self {
        Self::of(if count == 0 { Which::None } else { Which::Count(count) })
    }

    /// What a workflow's `resources.gpu` asks for.
    pub fn from_workflow(count: u32, name: Option<&str>, memory: Option<ByteSize>) -> Result<Self, RequestError> {
        if count > MAX_COUNT {
            return Err(RequestError::Count(count.to_string()));
        }
        Ok(Self { name: name.map(model).transpose()?, memory, ..Self::count(count) })
    }

    /// Whether no GPU is asked for.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.which == Which::None
    }

    fn of(which: Which) -> Self {
        Self { which, name: None, memory: None, mig: None, capabilities: None }
    }
}

impl FromStr for GpuRequest {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut said = Said::default();
        for field in fields(text.trim())? {
            said.read(&field)?;
        }
        said.finish()
    }
}

/// Splits at commas outside of quotes, and drops the quotes; a comma inside of them is kept.
fn fields(text: &str) -> Result<Vec<String>, RequestError> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => fields.last_mut().into_iter().for_each(|field| field.push(c)),
        }
    }
    if quoted {
        return Err(RequestError::Quote(text.to_owned()));
    }
    fields.retain(|field| !field.trim().is_empty());
    if fields.is_empty() { Err(RequestError::Empty) } else { Ok(fields) }
}

/// A list that words without a key may go on with: docker wants it quoted, people forget.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    Nothing,
    Devices,
    Capabilities,
}

/// The fields that were read so far.
struct Said {
    count: Option<Which>,
    devices: Option<Vec<String>>,
    name: Option<ModelName>,
    memory: Option<ByteSize>,
    mig: Option<MigProfile>,
    capabilities: Option<Vec<String>>,
    driver: Option<()>,
    open: Open,
}

impl Default for Said {
    fn default() -> Self {
        Self {
            count: None,
            devices: None,
            name: None,
            memory: None,
            mig: None,
            capabilities: None,
            driver: None,
            open: Open::Nothing,
        }
    }
}

impl Said {
    fn read(&mut self, field: &str) -> Result<(), RequestError> {
        let Some((key, value)) = field.split_once('=') else { return self.word(field.trim()) };
        let (key, value) = (key.trim(), value.trim());
        if key.contains('/') {
            return Err(RequestError::Cdi(field.trim().to_owned()));
        }
        self.open = Open::Nothing;
        match key {
            "count" => once(&mut self.count, "count", count(value)?),
            "device" => {
                self.open = Open::Devices;
                once(&mut self.devices, "device", list(value, ','))
            }
            "capabilities" => {
                self.open = Open::Capabilities;
                once(&mut self.capabilities, "capabilities", list(value, ','))
            }
            "name" => once(&mut self.name, "name", model(value)?),
            "memory" => once(&mut self.memory, "memory", memory(value)?),
            "mig" => once(&mut self.mig, "mig", value.parse()?),
            "driver" if value == "nvidia" => once(&mut self.driver, "driver", ()),
            "driver" => Err(RequestError::Driver(value.to_owned())),
            _ => Err(unknown_key(key)),
        }
    }

    fn word(&mut self, word: &str) -> Result<(), RequestError> {
        match (self.open, &mut self.devices, &mut self.capabilities) {
            (Open::Devices, Some(devices), _) => devices.push(word.to_owned()),
            (Open::Capabilities, _, Some(capabilities)) => capabilities.push(word.to_owned()),
            _ => return once(&mut self.count, "count", count(word)?),
        }
        Ok(())
    }

    fn finish(self) -> Result<GpuRequest, RequestError> {
        let Self { count, devices, name, memory, mig, capabilities, .. } = self;
        let chosen = "leave `device` away to have GPUs chosen";
        let which = match (count, devices) {
            (Some(_), Some(_)) => return Err(RequestError::Both("count", "device", chosen)),
            (_, Some(_)) if name.is_some() => return Err(RequestError::Both("name", "device", chosen)),
            (_, Some(_)) if memory.is_some() => return Err(RequestError::Both("memory", "device", chosen)),
            (_, Some(_)) if mig.is_some() => return Err(RequestError::Both("mig", "device", chosen)),
            (_, Some(list)) if list == ["all"] => Which::All,
            (_, Some(list)) => Which::Devices(devices_of(&list)?),
            (Some(count), None) => count,
            (None, None) => Which::Count(1),
        };
        let kind = [("name", name.is_some()), ("memory", memory.is_some()), ("mig", mig.is_some())];
        if let (Which::None, Some((key, _))) = (&which, kind.into_iter().find(|(_, is_there)| *is_there)) {
            return Err(RequestError::Both("count=0", key, "`--gpus none` runs without GPUs"));
        }
        let capabilities = capabilities.map(|list| capabilities_of(&list)).transpose()?;
        Ok(GpuRequest { which, name, memory, mig, capabilities })
    }
}

fn once<T>(place: &mut Option<T>, key: &'static str, value: T) -> Result<(), RequestError> {
    if place.is_some() {
        return Err(RequestError::Twice(key));
    }
    *place = Some(value);
    Ok(())
}

fn unknown_key(key: &str) -> RequestError {
    let known = ["device", "count", "name", "memory", "mig", "capabilities", "driver"];
    let nearest = crate::words::nearest(key, known.into_iter()).map(str::to_owned);
    RequestError::Key { key: crate::words::printable(key), nearest }
}

fn list(value: &str, separator: char) -> Vec<String> {
    value.split(separator).map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

/// docker's `-1` is all as well.
fn count(text: &str) -> Result<Which, RequestError> {
    match text {
        "all" | "-1" => return Ok(Which::All),
        "none" => return Ok(Which::None),
        _ if text.contains('/') => return Err(RequestError::Cdi(text.to_owned())),
        _ => {}
    }
    match number(text) {
        Some(0) => Ok(Which::None),
        Some(number @ 1..=MAX_COUNT) => Ok(Which::Count(number)),
        _ => Err(RequestError::Count(crate::words::printable(text))),
    }
}

fn model(text: &str) -> Result<ModelName, RequestError> {
    ModelName::new(text).ok_or_else(|| RequestError::Name(crate::words::printable(text)))
}

fn memory(text: &str) -> Result<ByteSize, RequestError> {
    let size = ByteSize::from_workflow(text)?;
    if size < LEAST_MEMORY { Err(RequestError::LittleMemory(text.to_owned())) } else { Ok(size) }
}

fn devices_of(list: &[String]) -> Result<Vec<DeviceName>, RequestError> {
    if list.is_empty() {
        return Err(RequestError::Device(String::new()));
    }
    list.iter().map(|text| text.parse()).collect()
}

/// `compute+utility` as well as commas. docker's own word `gpu` says nothing more.
fn capabilities_of(list: &[String]) -> Result<Capabilities, RequestError> {
    let words: Vec<&str> = list.iter().flat_map(|word| word.split('+')).filter(|word| *word != "gpu").collect();
    Ok(words.join(",").parse()?)
}

impl FromStr for DeviceName {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || RequestError::Device(crate::words::printable(text));
        if let Some((gpu, instances)) = text.strip_prefix("MIG-").and_then(|rest| rest.split_once('/')) {
            let numbers = instances.split_once('/').and_then(|(gi, ci)| Some((number(gi)?, number(ci)?)));
            let (gpu_instance, compute_instance) = numbers.ok_or_else(bad)?;
            return Ok(Self::OldMig(uuid(gpu).ok_or_else(bad)?, gpu_instance, compute_instance));
        }
        if text.contains('/') {
            return Err(RequestError::Cdi(text.to_owned()));
        }
        let pair = text.split_once(':').and_then(|(gpu, device)| Some(Self::Mig(number(gpu)?, number(device)?)));
        let pci = || text.contains(':').then(|| text.parse().ok()).flatten().map(Self::Pci);
        let name = number(text).map(Self::Index).or_else(|| uuid(text).map(Self::Uuid)).or(pair).or_else(pci);
        name.ok_or_else(bad)
    }
}

/// `u32::from_str` takes a sign too.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// At least one digit of it, so that `GPU-` alone is not every GPU.
fn uuid(text: &str) -> Option<String> {
    let (kind, digits) = text.split_at_checked(4)?;
    let kind = kind.to_ascii_uppercase();
    let good = matches!(kind.as_str(), "GPU-" | "MIG-") && !digits.is_empty() && digits.len() <= 76;
    let good = good && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    good.then(|| kind + &digits.to_ascii_lowercase())
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Uuid(uuid) => f.write_str(uuid),
            Self::Pci(address) => write!(f, "{address}"),
            Self::Mig(gpu, device) => write!(f, "{gpu}:{device}"),
            Self::OldMig(gpu, gpu_instance, compute_instance) => {
                write!(f, "MIG-{gpu}/{gpu_instance}/{compute_instance}")
            }
        }
    }
}

impl MigProfile {
    /// Whether a device of `profile` is meant. The profile's marks (`1g.10gb+me`) must be asked for.
    #[must_use]
    pub fn matches(&self, profile: &str) -> bool {
        let profile = profile.to_ascii_lowercase();
        // Without compute instances of their own, `1c.1g.10gb` is not what is asked for by `1g.10gb`.
        profile.strip_prefix("mig ").unwrap_or(&profile) == self.0
    }
}

impl FromStr for MigProfile {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        let profile = lower.strip_prefix("mig ").or(lower.strip_prefix("mig-")).unwrap_or(&lower);
        let plain = profile.split_once('+').map_or(profile, |(plain, _)| plain);
        let mut parts = plain.rsplit('.');
        let good = parts.next().is_some_and(|memory| memory.strip_suffix("gb").and_then(number).is_some())
            && parts.next().is_some_and(|slices| slices.strip_suffix('g').and_then(number).is_some())
            && parts.next().is_none_or(|compute| compute.strip_suffix('c').and_then(number).is_some())
            && parts.next().is_none()
            && profile.len() <= 32;
        if good { Ok(Self(profile.to_owned())) } else { Err(RequestError::Mig(crate::words::printable(text))) }
    }
}

impl fmt::Display for MigProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// In words: `2 × A100 with 40 GB`, `all GPUs`, `GPU 0 and 1`.
impl fmt::Display for GpuRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match (&self.name, &self.mig) {
            (Some(name), Some(mig)) => Some(format!("MIG {mig} of {name}")),
            (Some(name), None) => Some(name.to_string()),
            (None, Some(mig)) => Some(format!("MIG {mig}")),
            (None, None) => None,
        };
        match (&self.which, kind) {
            (Which::None, _) => f.write_str("no GPUs")?,
            (Which::All, Some(kind)) => write!(f, "every {kind}")?,
            (Which::All, None) => f.write_str("all GPUs")?,
            (Which::Count(count), Some(kind)) => write!(f, "{count} × {kind}")?,
            (Which::Count(1), None) => f.write_str("1 GPU")?,
            (Which::Count(count), None) => write!(f, "{count} GPUs")?,
            (Which::Devices(devices), _) => write!(f, "GPU {}", listed(devices))?,
        }
        let each = if matches!(&self.which, Which::Count(1)) { "" } else { " each" };
        match self.memory {
            Some(memory) if self.name.is_some() => write!(f, " with {}", memory.in_words()),
            Some(memory) => write!(f, " with {}{each}", memory.in_words()),
            None => Ok(()),
        }
    }
}

/// `0`, `0 and 1`, `0, 1 and 2`.
fn listed(devices: &[DeviceName]) -> String {
    let words: Vec<String> = devices.iter().map(ToString::to_string).collect();
    match words.as_slice() {
        [most @ .., last] if !most.is_empty() => format!("{} and {last}", most.join(", ")),
        words => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_told() {
        for (text, told) in [
            ("all", "all GPUs"),
            ("-1", "all GPUs"),
            ("count=all", "all GPUs"),
            ("device=all", "all GPUs"),
            ("2", "2 GPUs"),
            ("1", "1 GPU"),
            (" count=2 ", "2 GPUs"),
            ("0", "no GPUs"),
            ("none", "no GPUs"),
            ("count=0", "no GPUs"),
            ("device=0", "GPU 0"),
            ("device=0,1", "GPU 0 and 1"),
            ("\"device=0,2\"", "GPU 0 and 2"),
            ("device=\"0,2\"", "GPU 0 and 2"),
            ("device=0,2,driver=nvidia", "GPU 0 and 2"),
            ("device=GPU-8F2D,0000:C1:00.0,1:2", "GPU GPU-8f2d, 0000:c1:00.0 and 1:2"),
            ("device=mig-8f2d", "GPU MIG-8f2d"),
            ("device=MIG-GPU-8f2d0b6e/1/0", "GPU MIG-GPU-8f2d0b6e/1/0"),
            ("driver=nvidia", "1 GPU"),
            ("driver=nvidia,3", "3 GPUs"),
            ("capabilities=utility", "1 GPU"),
            ("name=V100,memory=16GB,count=2", "2 × V100 with 16 GB"),
            ("name=V100", "1 × V100"),
            ("name=RTX 4090,count=all", "every RTX 4090"),
            ("memory=24GiB,count=2", "2 GPUs with 24 GiB each"),
            ("memory=24GB", "1 GPU with 24 GB"),
            ("mig=1g.10gb", "1 × MIG 1g.10gb"),
            ("mig=MIG 1g.10gb+me,name=A100,2", "2 × MIG 1g.10gb+me of A100"),
        ] {
            assert_eq!(text.parse::<GpuRequest>().unwrap().to_string(), told, "{text}");
        }
    }

    #[test]
    fn capabilities_are_dockers() {
        for (text, expected) in [
            ("all,capabilities=compute+utility", "compute,utility"),
            ("all,\"capabilities=compute,utility\"", "compute,utility"),
            ("all,capabilities=video,graphics", "video,graphics"),
            ("\"capabilities=gpu,utility\",count=2", "utility"),
            ("capabilities=gpu", "compute,utility"),
            ("capabilities=all", "compute,utility,video,graphics,display,ngx,compat32"),
        ] {
            let request: GpuRequest = text.parse().unwrap();
            assert_eq!(request.capabilities.unwrap().to_string(), expected, "{text}");
        }
        assert_eq!("all".parse::<GpuRequest>().unwrap().capabilities, None);
    }

    #[test]
    fn what_asks_for_nothing_is_told_so() {
        for (text, message) in [
            ("", "GPU request is empty"),
            (",", "GPU request is empty"),
            ("\"device=0", "has a `\"` without"),
            (
                "V100",
                "`V100` is not a number of GPUs, expected `all` or 0 to 1024\nhint: a model is asked for by `name=V100`",
            ),
            ("-2", "`-2` is not a number"),
            ("+2", "`+2` is not a number"),
            ("1025", "`1025` is not a number"),
            ("count=x", "`x` is not a number"),
            ("1,2", "has `count` twice"),
            ("count=1,2", "has `count` twice"),
            ("device=0,device=1", "has `device` twice"),
            ("devices=0", "has the key `devices`, expected `device`, `count`"),
            ("devices=0", "hint: did you mean `device`?"),
            ("options=a=b", "has the key `options`"),
            ("device=", "`` is not the name of a GPU"),
            ("device=x", "`x` is not the name of a GPU"),
            ("device=GPU-", "`GPU-` is not the name"),
            ("device=8f2d0b6e", "`8f2d0b6e` is not the name"),
            ("device=GPU-../..", "is the name of a CDI device"),
            ("device=0,count=2", "has both `count` and `device`"),
            ("device=0,name=A100", "has both `name` and `device`"),
            ("device=0,memory=1GB", "has both `memory` and `device`"),
            ("count=0,name=A100", "has both `count=0` and `name`"),
            (
                "nvidia.com/gpu=0",
                "`nvidia.com/gpu=0` is the name of a CDI device, which `--gpus` does not take\nhint: `--device nvidia.com/gpu=0`",
            ),
            ("device=nvidia.com/gpu=0", "hint: `--device nvidia.com/gpu=0`"),
            ("name=NVIDIA", "`name=NVIDIA` names no model"),
            ("memory=16", "`memory=16` asks for less than a megabyte"),
            ("memory=x", "size `x` is malformed"),
            ("mig=10gb", "`mig=10gb` is not a MIG profile"),
            ("mig=1g", "is not a MIG profile"),
            ("mig=x.1g.10gb", "is not a MIG profile"),
            ("capabilities=fly", "driver capability `fly` is unknown"),
            ("driver=amd", "`driver=amd` is unknown"),
        ] {
            let error = text.parse::<GpuRequest>().unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn a_workflow_asks_by_name() {
        let size = ByteSize(16_000_000_000);
        let request = GpuRequest::from_workflow(2, Some("A100"), Some(size)).unwrap();
        assert_eq!(request, "name=A100,memory=16GB,count=2".parse().unwrap());
        assert!(GpuRequest::from_workflow(0, None, None).unwrap().is_none());
        assert!(GpuRequest::from_workflow(1, Some("GPU"), None).is_err());
        assert!(GpuRequest::from_workflow(5000, None, None).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[ -~é]{0,40}", tail in "[a-z0-9=,:\"./+-]{0,20}") {
            for text in [&text, &format!("device={tail}"), &format!("mig={tail}"), &format!("name={tail}"), &tail] {
                if let Ok(request) = text.parse::<GpuRequest>() {
                    let _ = request.to_string();
                }
            }
        }
    }
}
