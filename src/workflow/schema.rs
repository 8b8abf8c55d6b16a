//! The JSON Schema (draft 2020-12) of workflow files, by which editors complete, explain and check them.
//!
//! Which keys there are comes from the tables that the parser reads with; forms and meanings stand here. A schema cannot
//! say all that the parser checks (names that stand twice, paths), so it is never stricter and sometimes more lenient.

use serde_json::{Map, Value, json};

use super::fields::Keys;
use super::file::{ARTIFACT, CACHE, DEPENDENCY, FILE, GPU, MAX_FREE_PORTS, MAX_NAME_LEN, MIN_CPUS, REGISTRY_AUTH};
use super::file::{RESOURCES, WORKFLOW};

/// What is said of one key.
struct Key {
    name: &'static str,
    /// Its form, a name in `$defs`.
    form: &'static str,
    meaning: &'static str,
    /// A JSON list.
    examples: &'static str,
}

const fn key(name: &'static str, form: &'static str, meaning: &'static str, examples: &'static str) -> Key {
    Key { name, form, meaning, examples }
}

const FILE_DOCS: &[Key] = &[key("workflows", "workflows", "The workflows of this file.", "[]")];

const WORKFLOW_DOCS: &[Key] = &[
    key("name", "name", "What it is called: `dockless workflow run NAME`. Required.", r#"["train"]"#),
    key("help", "text", "One line for `dockless workflow list`.", r#"["Trains the model"]"#),
    key("provider", "provider", "`docker`, the only one; may be left out.", r#"["docker"]"#),
    key("image", "image", "The image to run.", r#"["ubuntu", "python:3.12"]"#),
    key(
        "commands",
        "commands",
        "Shell commands, run one after the other in one shell; the first that fails ends the run. A multi-line string is \
         a script. Without them the image runs what it runs by itself.",
        r#"[["python train.py"]]"#,
    ),
    key("before_run", "commands", "Commands that run before `commands`.", r#"[["pip install -r requirements.txt"]]"#),
    key(
        "entrypoint",
        "entrypoint",
        "Replaces the image's entrypoint; the joined commands become its last argument. A string is split as a shell \
         splits words.",
        r#"["/bin/bash -c", ["/bin/bash", "-c"]]"#,
    ),
    key(
        "env",
        "env",
        "Environment variables. A name without a value takes the value of whoever starts the run.",
        r#"[["EPOCHS=10", "WANDB_API_KEY"], {"EPOCHS": 10}]"#,
    ),
    key(
        "working_dir",
        "text",
        "Where the commands run: a path relative to the project, which is at `/workflow`, or an absolute path in the image.",
        r#"["src"]"#,
    ),
    key("home_dir", "text", "The home directory: sets `HOME`, and is what `~/` means in paths.", r#"["/root"]"#),
    key(
        "artifacts",
        "artifacts",
        "Directories that are saved when the run ends, however it ends.",
        r#"[["output"], [{"path": "checkpoints", "mount": true}]]"#,
    ),
    key("cache", "paths", "Directories that are kept between the runs of this workflow.", r#"[["~/.cache/pip"]]"#),
    key(
        "deps",
        "deps",
        "Runs whose artifacts are mounted read-only where they were written.",
        r#"[[{"workflow": "prepare"}, {"tag": "v1"}], ["prepare", ":v1"]]"#,
    ),
    key(
        "ports",
        "ports",
        "Ports that the run listens on, or how many free ports it wants: `PORT_0`, `PORT_1`, …",
        r#"[[8080, "9090:80"], 1]"#,
    ),
    key("resources", "resources", "What the run needs and may use.", r#"[{"cpu": 2, "memory": "8GB", "gpu": 1}]"#),
    key("registry_auth", "registry_auth", "Credentials for the image's registry.", "[]"),
    key("file", "text", "A Python file: without `commands`, `python FILE` is run.", r#"["train.py"]"#),
    key(
        "requirements",
        "text",
        "A file that `pip install -r` installs before anything else runs.",
        r#"["requirements.txt"]"#,
    ),
    key(
        "version",
        "text",
        "The version of Python that runs `file`. Without `image`, the image is `python:VERSION`, 3.10 when left out.",
        r#"["3.12"]"#,
    ),
];

const RESOURCES_DOCS: &[Key] = &[
    key("cpu", "cpu", "Number of cores, in fractions if need be.", "[4, 0.5]"),
    key("memory", "size", "Memory: the machine must have it, and the run gets no more.", r#"["16GB", "512MiB"]"#),
    key("shm_size", "size", "Size of `/dev/shm`; 64 MiB when left out.", r#"["8GB"]"#),
    key(
        "gpu",
        "gpu",
        "GPUs: a number, or what they must be.",
        r#"[1, {"name": "A100", "count": 2, "memory": "40GB"}]"#,
    ),
    key(
        "interruptible",
        "boolean",
        "The machine may be taken away: on SIGTERM the run stops in order and its artifacts are saved.",
        "[true]",
    ),
    key("local", "boolean", "Accepted and without effect: every run is local.", "[true]"),
    key("remote", "boolean", "Accepted and without effect: every run is local.", "[false]"),
];

const GPU_DOCS: &[Key] = &[
    key("name", "text", "Model, without vendor: `V100` is any Tesla V100.", r#"["V100", "K80"]"#),
    key("count", "count", "How many; 1 when left out.", "[1]"),
    key("memory", "size", "Memory that each has at least.", r#"["16GB"]"#),
];

const ARTIFACT_DOCS: &[Key] = &[
    key("path", "text", "Relative to the working directory, absolute, or `~/…`.", r#"["output"]"#),
    key("mount", "boolean", "Whether files are saved as they are written, and not only at the end.", "[true]"),
];

const CACHE_DOCS: &[Key] =
    &[key("path", "text", "Relative to the working directory, absolute, or `~/…`.", r#"[".venv"]"#)];

const DEPENDENCY_DOCS: &[Key] = &[
    key("workflow", "text", "A workflow: its last run that was done.", r#"["prepare"]"#),
    key("tag", "text", "A tag.", r#"["v1"]"#),
];

const REGISTRY_AUTH_DOCS: &[Key] = &[
    key("username", "text", "Who logs in.", r#"["${{ secrets.REGISTRY_USER }}"]"#),
    key("password", "text", "A secret, never the password itself.", r#"["${{ secrets.REGISTRY_TOKEN }}"]"#),
];

/// The schema.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = object(&FILE, FILE_DOCS, &["workflows"]);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Workflow file of dockless");
    schema["description"] = json!(
        "Stands at .dstack/workflows.yaml, .dstack/workflows/*.yaml or dockless.yaml in the project's directory."
    );
    schema["examples"] = json!([{ "workflows": [{
        "name": "train",
        "image": "python:3.12",
        "commands": ["pip install -r requirements.txt", "python train.py"],
        "artifacts": [{ "path": "output" }],
    }] }]);
    let mut forms = scalars();
    forms.extend(lists());
    forms.extend(objects());
    schema["$defs"] = Value::Object(forms);
    schema
}

fn objects() -> Map<String, Value> {
    let mut workflow = object(&WORKFLOW, WORKFLOW_DOCS, &["name"]);
    // What runs a Python file has an image of its own.
    workflow["anyOf"] = ["image", "file"].map(|key| json!({ "required": [key] })).into();
    let mut dependency = object(&DEPENDENCY, DEPENDENCY_DOCS, &[]);
    dependency["minProperties"] = json!(1);
    dependency["maxProperties"] = json!(1);
    [
        ("workflow", workflow),
        ("resources", object(&RESOURCES, RESOURCES_DOCS, &[])),
        ("gpu_wanted", object(&GPU, GPU_DOCS, &[])),
        ("artifact", object(&ARTIFACT, ARTIFACT_DOCS, &["path"])),
        ("kept_path", object(&CACHE, CACHE_DOCS, &["path"])),
        ("dependency", dependency),
        ("registry_auth", object(&REGISTRY_AUTH, REGISTRY_AUTH_DOCS, &["username", "password"])),
    ]
    .map(|(name, form)| (name.to_owned(), form))
    .into_iter()
    .collect()
}

/// A mapping with the keys of the parser's table, of which a key and its other name exclude each other.
fn object(keys: &Keys, docs: &[Key], required: &[&str]) -> Value {
    let mut properties = Map::new();
    for name in keys.known {
        let Some(doc) = docs.iter().find(|doc| doc.name == *name) else { continue };
        let examples: Value = serde_json::from_str(doc.examples).unwrap_or_default();
        let form = json!({ "$ref": reference(doc.form), "description": doc.meaning, "examples": examples });
        properties.insert((*name).to_owned(), form);
    }
    let mut exclusive = Vec::new();
    for (alias, name) in keys.aliases {
        if let Some(mut form) = properties.get(*name).cloned() {
            form["description"] = json!(format!("Another name of `{name}`."));
            properties.insert((*alias).to_owned(), form);
        }
        exclusive.push(json!({ "not": { "required": [alias, name] } }));
    }
    let mut object = json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    if !exclusive.is_empty() {
        object["allOf"] = exclusive.into();
    }
    object
}

fn reference(form: &str) -> String {
    format!("#/$defs/{form}")
}

fn form(name: &str) -> Value {
    json!({ "$ref": reference(name) })
}

fn any_of(forms: impl Into<Value>) -> Value {
    json!({ "anyOf": forms.into() })
}

/// Text by its pattern (ECMA-262), or with something to interpolate. Numbers and booleans are their text.
fn pattern(pattern: &str) -> Value {
    any_of([
        json!({ "type": ["number", "boolean"] }),
        json!({ "type": "string", "pattern": pattern }),
        form("template"),
    ])
}

fn scalars() -> Map<String, Value> {
    let size = r"^(?=.*[1-9])[0-9]+ *(\.[0-9]*)? *([bB]|[kKmMgGtTpP] *([iI]|[iI]?[bB])?)?$";
    let whole = |most: u32| json!({ "type": "integer", "minimum": 0, "maximum": most });
    let text_of = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    let number = r"^\s*\+?(?=.*[1-9])[0-9]*\.?[0-9]*([eE][+-]?[0-9]+)?\s*$";
    let port = json!({ "type": "integer", "minimum": 1, "maximum": 65535 });
    [
        ("text", json!({ "type": ["string", "number", "boolean"] })),
        ("template", text_of(r"\$\{\{")),
        ("boolean", json!({ "type": "boolean" })),
        (
            "name",
            any_of([
                json!({ "type": "string", "pattern": "^[a-z0-9][a-z0-9_.-]*$", "maxLength": MAX_NAME_LEN }),
                json!({ "type": "number", "minimum": 0 }),
                form("boolean"),
            ]),
        ),
        ("provider", any_of([json!({ "const": "docker" }), form("template")])),
        ("image", pattern(r"^(?!\w+://|(oci|oci-archive|docker-archive):)[a-z0-9]\S*$")),
        ("size", any_of([json!({ "type": "number", "exclusiveMinimum": 0 }), text_of(size), form("template")])),
        ("cpu", any_of([json!({ "type": "number", "minimum": MIN_CPUS }), text_of(number), form("template")])),
        ("count", any_of([whole(u32::MAX), text_of(r"^\+?[0-9]+$"), form("template")])),
        ("port", any_of([port, text_of(r"^0*[1-9][0-9]{0,4}(:0*[1-9][0-9]{0,4})?$"), form("template")])),
        ("port_count", any_of([whole(MAX_FREE_PORTS.into()), text_of(r"^0*([0-9]{1,2}|100)$"), form("template")])),
        ("variable", pattern(r"^[^\s=]+(=[\s\S]*)?$")),
        ("short_dependency", pattern(r"^(?!:$)[\s\S]+$")),
    ]
    .map(|(name, form)| (name.to_owned(), form))
    .into_iter()
    .collect()
}

fn lists() -> Map<String, Value> {
    let list = |item: Value| json!({ "type": "array", "items": item });
    let nothing = || json!({ "type": "null" });
    let variables = json!({
        "type": "object",
        "propertyNames": { "pattern": r"^[^\s=]+$" },
        "additionalProperties": any_of([form("text"), nothing()]),
    });
    [
        ("workflows", list(form("workflow"))),
        ("commands", any_of([form("text"), list(any_of([form("text"), nothing()]))])),
        ("entrypoint", any_of([form("text"), list(form("text"))])),
        ("env", any_of([list(form("variable")), variables])),
        ("artifacts", list(any_of([form("text"), form("artifact")]))),
        ("paths", list(any_of([form("text"), form("kept_path")]))),
        ("deps", list(any_of([form("short_dependency"), form("dependency")]))),
        ("ports", any_of([list(form("port")), form("port_count")])),
        ("gpu", any_of([form("count"), form("gpu_wanted")])),
    ]
    .map(|(name, form)| (name.to_owned(), form))
    .into_iter()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_parser_is_described() {
        for (keys, docs) in [
            (&FILE, FILE_DOCS),
            (&WORKFLOW, WORKFLOW_DOCS),
            (&RESOURCES, RESOURCES_DOCS),
            (&GPU, GPU_DOCS),
            (&ARTIFACT, ARTIFACT_DOCS),
            (&CACHE, CACHE_DOCS),
            (&DEPENDENCY, DEPENDENCY_DOCS),
            (&REGISTRY_AUTH, REGISTRY_AUTH_DOCS),
        ] {
            let described: Vec<&str> = docs.iter().map(|doc| doc.name).collect();
            assert_eq!(described, keys.known, "{}", keys.context);
            let names = keys.known.len() + keys.aliases.len();
            assert_eq!(object(keys, docs, &[])["properties"].as_object().unwrap().len(), names, "{}", keys.context);
            for doc in docs {
                assert!(serde_json::from_str::<Vec<Value>>(doc.examples).is_ok(), "examples of {}", doc.name);
            }
        }
    }

    #[test]
    fn every_form_is_there() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(entries) => {
                    for (key, value) in entries {
                        match value.as_str() {
                            Some(target) if key == "$ref" => found.push(target.to_owned()),
                            _ => references(value, found),
                        }
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let schema = json_schema();
        let mut found = Vec::new();
        references(&schema, &mut found);
        for target in &found {
            assert!(schema.pointer(target.trim_start_matches('#')).is_some(), "{target}");
        }
        for name in schema["$defs"].as_object().unwrap().keys() {
            assert!(found.contains(&reference(name)), "nothing has the form {name}");
        }
    }
}
