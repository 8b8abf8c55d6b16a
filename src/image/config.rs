//! The image configuration: what an image says about how it wants to be run.

use oci_spec::image as oci;
use serde::Deserialize;
use serde_json::Value;

use super::digest::{Digest, DigestError};
use super::platform::Platform;

/// The parts of a configuration that matter for a run. Everything in it is data from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Program and leading arguments.
    pub entrypoint: Vec<String>,
    /// Default arguments, or the program when there is no entrypoint.
    pub cmd: Vec<String>,
    /// `KEY=VALUE` strings.
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers; empty is root.
    pub user: String,
    /// Working directory; empty is `/`.
    pub working_dir: String,
    /// Directories that hold data apart from the image.
    pub volumes: Vec<String>,
    /// Ports that it listens on, as it says: `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Signal that asks the workload to stop.
    pub stop_signal: Option<String>,
    /// Labels; data only.
    pub labels: Vec<(String, String)>,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// What the image was built for.
    pub platform: Option<Platform>,
    /// When it was built, as it stands in the document.
    pub created: Option<String>,
    /// docker's `Healthcheck` as it stands in the document; [`super::DeclaredCheck`] reads it.
    pub health_check: Option<Value>,
    /// docker's `Shell`: what begins the command of a line, a list of strings if all is well.
    pub shell: Option<Value>,
}

/// What docker's format has and the OCI one has not.
#[derive(Debug, Default, Deserialize)]
struct Extended {
    config: Option<Extensions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Extensions {
    healthcheck: Option<Value>,
    shell: Option<Value>,
}

/// Why bytes are not an image configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON of that shape.
    #[error("`{digest}` is not an image configuration")]
    Json {
        /// Digest of the bytes.
        digest: Digest,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A diff ID is malformed.
    #[error("image configuration `{digest}` has a bad diff ID")]
    DiffId {
        /// Digest of the bytes.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
}

impl ImageConfig {
    /// Parses a configuration; `digest` (of the bytes) only names it in errors.
    ///
    /// # Errors
    /// [`ConfigError`] when the bytes are something else.
    pub fn parse(bytes: &[u8], digest: &Digest) -> Result<Self, ConfigError> {
        let document: oci::ImageConfiguration =
            serde_json::from_slice(bytes).map_err(|source| ConfigError::Json { digest: digest.clone(), source })?;
        let diff_ids = document
            .rootfs()
            .diff_ids()
            .iter()
            .map(|text| text.parse())
            .collect::<Result<Vec<Digest>, DigestError>>()
            .map_err(|source| ConfigError::DiffId { digest: digest.clone(), source })?;
        let config = document.config().clone().unwrap_or_default();
        // Whatever is wrong with these makes no image unusable.
        let extensions = serde_json::from_slice::<Extended>(bytes).unwrap_or_default().config.unwrap_or_default();
        let mut labels: Vec<(String, String)> = config.labels().clone().unwrap_or_default().into_iter().collect();
        labels.sort();
        let mut volumes = config.volumes().clone().unwrap_or_default();
        volumes.sort();
        let mut exposed_ports = config.exposed_ports().clone().unwrap_or_default();
        exposed_ports.sort();
        Ok(Self {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            user: config.user().clone().unwrap_or_default(),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            volumes,
            exposed_ports,
            stop_signal: config.stop_signal().clone().filter(|signal| !signal.is_empty()),
            labels,
            diff_ids,
            platform: Some(Platform::new(
                &document.os().to_string(),
                &document.architecture().to_string(),
                document.variant().as_deref(),
            )),
            created: document.created().clone(),
            health_check: extensions.healthcheck,
            shell: extensions.shell,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &serde_json::Value) -> Result<ImageConfig, ConfigError> {
        let bytes = serde_json::to_vec(value).unwrap();
        ImageConfig::parse(&bytes, &Digest::sha256(&bytes))
    }

    #[test]
    fn reads_what_docker_writes() {
        let layer = Digest::sha256(b"layer").to_string();
        let config = parse(&json!({
            "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": {
                "Hostname": "", "User": "app", "Env": ["PATH=/bin"], "Cmd": ["sh"], "Entrypoint": null,
                "ExposedPorts": { "80/tcp": {} }, "Volumes": { "/data": {} }, "WorkingDir": "/w", "Labels": { "b": "2", "a": "1" },
                "StopSignal": "SIGINT", "OnBuild": null, "Image": "",
                "Healthcheck": { "Test": ["CMD", "true"] }, "Shell": ["/bin/ash", "-c"]
            },
            "rootfs": { "type": "layers", "diff_ids": [layer] },
            "history": [{ "created_by": "x", "empty_layer": true }],
        }))
        .unwrap();
        assert_eq!(config.cmd, ["sh"]);
        assert_eq!(config.volumes, ["/data"]);
        assert_eq!(config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.labels[0].0, "a");
        assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
        assert_eq!(config.diff_ids.len(), 1);
        assert_eq!(config.health_check, Some(json!({ "Test": ["CMD", "true"] })));
        assert_eq!(config.shell, Some(json!(["/bin/ash", "-c"])));
    }

    #[test]
    fn nulls_and_absences_are_empty() {
        let config = parse(&json!({
            "architecture": "arm64", "os": "linux", "variant": "v8",
            "config": { "Env": null, "Cmd": null, "Volumes": null, "Labels": null, "ExposedPorts": null },
            "rootfs": { "type": "layers", "diff_ids": [] },
        }))
        .unwrap();
        assert_eq!(config.env, Vec::<String>::new());
        assert_eq!(config.platform.unwrap().to_string(), "linux/arm64");
        assert!(parse(&json!({ "layers": [] })).is_err());
    }
}
