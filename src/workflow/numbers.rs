//! Numbers and sizes of a workflow file: `ports` and `resources`.

use super::fields::Entry;
use super::file::{GPU, Gpu, MAX_FREE_PORTS, MIN_CPUS, Port, RESOURCES, Resources};
use super::mistake::{Mistake, shown};
use super::source::{At, Text};
use crate::image::ByteSize;

const PORTS: &str = "a list of ports such as `8080` or `\"8080:80\"`, or how many free ports";

pub(super) fn ports(entry: Entry<'_>) -> Result<At<Vec<At<Text<Port>>>>, Mistake> {
    let value = entry
        .items(PORTS)?
        .map(|item| item.parsed("a port such as `8080` or `\"8080:80\"`", port))
        .collect::<Result<_, _>>()?;
    Ok(At { value, span: entry.key_span() })
}

/// A number of free ports.
pub(super) fn free_ports_text(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|count| *count <= MAX_FREE_PORTS).ok_or_else(|| {
        let text = shown(text);
        format!(
            "`{text}` is not a number of free ports, expected 0 to {MAX_FREE_PORTS}\nhint: for port `{text}` itself write \
             `ports: [{text}]`"
        )
    })
}

/// `ports: 1` asks for one free port.
pub(super) fn free_ports(entry: Entry<'_>) -> Result<At<Text<u16>>, Mistake> {
    let parsed = entry.parsed(PORTS, free_ports_text)?;
    Ok(At { value: parsed.value, span: entry.key_span() })
}

pub(super) fn port(text: &str) -> Result<Port, String> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|number| *number != 0);
    let parsed = match text.split_once(':') {
        Some((host, container)) => {
            number(host).zip(number(container)).map(|(host, container)| Port { host: Some(host), container })
        }
        None => number(text).map(|container| Port { host: None, container }),
    };
    parsed
        .ok_or_else(|| format!("`{}` is not a port, expected `PORT` or `HOST:CONTAINER`, each 1 to 65535", shown(text)))
}

pub(super) fn resources(entry: Entry<'_>) -> Result<Resources, Mistake> {
    let fields = entry.fields(&RESOURCES, "a mapping with `cpu`, `memory`, `shm_size`, …")?;
    Ok(Resources {
        cpu: fields.read("cpu", |entry| entry.parsed("a number of cores", cpus))?,
        memory: fields.read("memory", size)?,
        shm_size: fields.read("shm_size", size)?,
        gpu: fields.read("gpu", gpu)?,
        interruptible: fields.read("interruptible", |entry| entry.boolean())?,
        local: fields.read("local", |entry| entry.boolean())?,
        remote: fields.read("remote", |entry| entry.boolean())?,
    })
}

pub(super) fn cpus(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= MIN_CPUS);
    number.ok_or_else(|| {
        format!("`{}` is not a number of cores, expected {MIN_CPUS} or more, e.g. `0.5`, `4`", shown(text))
    })
}

fn size(entry: Entry<'_>) -> Result<At<Text<ByteSize>>, Mistake> {
    entry.parsed("a size such as `512MB`, `16GB`, `8GiB`", size_text)
}

/// A size above zero, in the dialect of workflow files.
pub(super) fn size_text(text: &str) -> Result<ByteSize, String> {
    match ByteSize::from_workflow(text) {
        Ok(ByteSize(0)) => Err("the size is zero\nhint: leave the key away for no limit".to_owned()),
        Ok(size) => Ok(size),
        Err(error) => Err(error.to_string()),
    }
}

fn gpu(entry: Entry<'_>) -> Result<At<Gpu>, Mistake> {
    const EXPECTED: &str = "a number of GPUs or `{name, count, memory}`";
    let value = if entry.is_mapping() {
        let fields = entry.fields(&GPU, EXPECTED)?;
        let count = fields.read("count", |entry| entry.parsed("a number of GPUs", gpu_count))?;
        Gpu {
            count: count.map_or(Text::Literal(1), |count| count.value),
            name: fields.read("name", |entry| entry.string("the name of a GPU model"))?,
            memory: fields.read("memory", size)?,
        }
    } else {
        Gpu { count: entry.parsed(EXPECTED, gpu_count)?.value, name: None, memory: None }
    };
    Ok(At { value, span: entry.key_span() })
}

pub(super) fn gpu_count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("`{}` is not a number of GPUs, expected e.g. `1`", shown(text)))
}
