//! The JSON Schema and the parser agree: on every example there is, on every form, and on what is wrong.

use std::fs;

use dockless::workflow::check::Checker;
use dockless::workflow::file::parse;
use dockless::workflow::schema::json_schema;
use jsonschema::Validator;
use serde_json::Value;

use crate::support::env::{BINARY, TestEnv, finish, program};
use crate::support::examples::{EARLY_EXAMPLES, EarlyExample};

fn validator() -> Validator {
    let schema = json_schema();
    jsonschema::draft202012::meta::validate(&schema).expect("a schema");
    jsonschema::draft202012::new(&schema).expect("a schema")
}

fn data(yaml: &str) -> Value {
    serde_yaml::from_str(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"))
}

/// What is wrong, as the schema says and as we say.
fn judged(validator: &Validator, yaml: &str) -> (Vec<String>, String) {
    let data = data(yaml);
    let by_schema = validator.iter_errors(&data).map(|error| format!("{}: {error}", error.instance_path())).collect();
    let mut checker = Checker::default();
    checker.file("w.yaml", yaml.as_bytes());
    let report = checker.finish();
    // What is no mistake of the file but still missing in the program is not the schema's to know.
    let ours: Vec<String> =
        report.mistakes.iter().map(ToString::to_string).filter(|text| !text.contains("not supported yet")).collect();
    (by_schema, ours.join("\n"))
}

#[track_caller]
fn assert_good(validator: &Validator, yaml: &str) {
    let (by_schema, ours) = judged(validator, yaml);
    assert!(by_schema.is_empty() && ours.is_empty(), "{yaml}\nschema: {by_schema:#?}\nparser: {ours}");
}

/// Blocks of YAML that are workflow files: fenced or indented.
fn examples_of(document: &str) -> Vec<String> {
    let mut examples = Vec::new();
    let mut lines = document.lines().peekable();
    while let Some(line) = lines.next() {
        let block: Vec<&str> = if line.trim_start() == "```yaml" {
            lines.by_ref().take_while(|line| line.trim_start() != "```").collect()
        } else if line == "    workflows:" {
            let mut block = vec![line];
            while let Some(line) = lines.next_if(|line| line.is_empty() || line.starts_with("    ")) {
                block.push(line);
            }
            block
        } else {
            continue;
        };
        let indent = block.first().map_or(0, |line| line.len() - line.trim_start().len());
        let text = block.iter().map(|line| line.get(indent..).unwrap_or_default()).collect::<Vec<_>>().join("\n");
        if text.starts_with("workflows:") {
            examples.push(text);
        }
    }
    examples
}

#[test]
fn examples_of_the_documents_are_valid() {
    let validator = validator();
    for (document, least) in [("README.md", 1), ("docs/workflow.md", 5)] {
        let text = fs::read_to_string(document).expect("a document of the repository");
        let examples = examples_of(&text);
        assert!(examples.len() >= least, "{document} has {} examples", examples.len());
        for example in examples {
            assert_good(&validator, &example);
        }
    }
}

#[test]
fn every_key_is_in_the_table_of_the_document() {
    let text = fs::read_to_string("docs/workflow.md").expect("a document of the repository");
    let rows: String = text.lines().filter(|line| line.starts_with("| `")).collect();
    let schema = json_schema();
    for (form, prefix) in [("workflow", ""), ("resources", "resources."), ("artifact", "artifacts[].")] {
        for key in schema["$defs"][form]["properties"].as_object().unwrap().keys() {
            assert!(rows.contains(&format!("`{prefix}{key}`")), "`{prefix}{key}` has no row");
        }
    }
}

#[test]
fn early_examples_are_valid() {
    let validator = validator();
    for EarlyExample { page, yaml, .. } in EARLY_EXAMPLES {
        let errors: Vec<String> = validator.iter_errors(&data(yaml)).map(|error| error.to_string()).collect();
        let parsed = parse("w.yaml", yaml.as_bytes());
        assert!(errors.is_empty() && parsed.is_ok(), "{page}: {errors:#?} {parsed:#?}");
    }
}

/// One workflow with these lines, and another one that it may need.
fn workflow(lines: &str) -> String {
    format!("workflows:\n  - name: a\n    {}\n  - {{name: b, image: x}}\n", lines.replace('\n', "\n    "))
}

#[test]
fn all_forms_are_valid() {
    let validator = validator();
    for lines in [
        "image: x\nhelp: 3.10",
        "image: x\nprovider: docker",
        "image: registry:5000/a/b:1.2@sha256:0123456789012345678901234567890123456789012345678901234567890123",
        "image: x\ncommands: make",
        "image: x\ncommands: [make, true, 3, ]",
        "image: x\ncommands: |\n  a\n  b",
        "image: x\nsetup: [a]\ncommands: [b]",
        "image: x\nentrypoint: [/bin/sh, -c]",
        "image: x\nenv: [A=1, B, A=, 'C=a=b c', \"D=${{ secrets.X }}\"]",
        "image: x\nenvironment: {A: 1, B: , C: \"\", D: true, E: 1.5}",
        "image: x\nartifacts: [out, {path: logs, mount: true}, {path: /abs}]",
        "image: x\nhome_dir: /root\ncache: [.venv, {path: cached}]",
        "image: x\ndeps: [{workflow: b}, {tag: v1}, b, ':v2', \":${{ env.T }}\"]",
        "image: x\nports: [8080, \"9090:80\", '8081', \"${{ env.P }}\"]",
        "image: x\nports: 2",
        "image: x\nports: '2'",
        "image: x\nresources: {cpu: 0.5, memory: 16GB, shm_size: 8 GiB}",
        "image: x\nresources: {cpu: '4', memory: 1073741824, shm_size: 512m}",
        "image: x\nresources: {cpu: \"${{ env.C }}\", memory: \"${{ env.M }}\", shm_size: 1.5 tb}",
        "image: x\nresources: {memory: 65536ki, shm_size: 67108864b}",
        "image: x\nresources: {gpu: 1, interruptible: true, local: true, remote: false}",
        "image: x\nresources: {gpu: '2'}",
        "image: x\nresources: {gpu: {name: V100, count: 2, memory: 16GB}}",
        "image: x\nresources: {gpu: {memory: 40GiB}}",
        "image: x\nregistry_auth: {username: me, password: \"${{ secrets.T }}\"}",
        "image: x\nfile: a.py\nrequirements: r.txt\nversion: 3.10",
        "file: a.py",
        "file: a.py\npython: '3.12'",
        "image: x\npython: 3.10",
    ] {
        assert_good(&validator, &workflow(lines));
    }
    assert_good(&validator, "workflows: []");
    assert_good(&validator, "workflows: [{name: 2024, image: x}]");
    assert_good(&validator, "workflows:\n- &d {name: a, image: x, env: [A=1]}\n- {<<: *d, name: b}\n");
}

/// Lines of workflows that are wrong.
const WRONG: &[&str] = &[
    "help: no image",
    "version: 3.12\nrequirements: r.txt\ncommands: [make]",
    "image: x\nimgae: y",
    "image: x\nname2: b",
    "image: x\nenv: [A]\nenvironment: [B]",
    "image: x\nhelp: [a]",
    "image: x\nhelp:",
    "image: x\nprovider: bash",
    "image: [x]",
    "image: https://example.org/x",
    "image: oci-archive:app.tar",
    "image: Ubuntu",
    "image: 'a b'",
    "image: x\ncommands: {a: b}",
    "image: x\ncommands: [[a]]",
    "image: x\ncommands:",
    "image: x\nbefore_run: {a: b}",
    "image: x\nentrypoint: {a: b}",
    "image: x\nentrypoint: [[a]]",
    "image: x\nenv: text",
    "image: x\nenv: [{A: b}]",
    "image: x\nenv: [=x]",
    "image: x\nenv: ['A B=x']",
    "image: x\nenv: {A: [1]}",
    "image: x\nenv: {'A B': 1}",
    "image: x\nworking_dir: [a]",
    "image: x\nhome_dir: {a: b}",
    "image: x\nartifacts: out",
    "image: x\nartifacts: [{mount: true}]",
    "image: x\nartifacts: [{path: a, mount: maybe}]",
    "image: x\nartifacts: [{path: a, mout: true}]",
    "image: x\ncache: [{dir: a}]",
    "image: x\ncache: a",
    "image: x\ndeps: a",
    "image: x\ndeps: [':']",
    "image: x\ndeps: [{workflow: a, tag: b}]",
    "image: x\ndeps: [{}]",
    "image: x\ndeps: [{run: a}]",
    "image: x\nports: 8080",
    "image: x\nports: [0]",
    "image: x\nports: [70000]",
    "image: x\nports: ['80:']",
    "image: x\nports: [http]",
    "image: x\nports: {a: 1}",
    "image: x\nresources: 4",
    "image: x\nresources: {cpus: 1}",
    "image: x\nresources: {cpu: 0}",
    "image: x\nresources: {cpu: two}",
    "image: x\nresources: {cpu: -1}",
    "image: x\nresources: {memory: 0}",
    "image: x\nresources: {memory: 16QB}",
    "image: x\nresources: {memory: -1}",
    "image: x\nresources: {shm_size: [1]}",
    "image: x\nresources: {gpu: two}",
    "image: x\nresources: {gpu: 1.5}",
    "image: x\nresources: {gpu: -1}",
    "image: x\nresources: {gpu: [1]}",
    "image: x\nresources: {gpu: {model: V100}}",
    "image: x\nresources: {gpu: {count: many}}",
    "image: x\nresources: {interruptible: 1}",
    "image: x\nresources: {local: never}",
    "image: x\nregistry_auth: {username: a}",
    "image: x\nregistry_auth: a:b",
    "image: x\nfile: [a.py]",
    "image: x\nversion: [3]",
];

#[test]
fn what_is_wrong_is_refused_by_both() {
    let validator = validator();
    let of_a_file =
        ["{}", "[]", "a: 1", "workflows: 1", "workflows: {a: b}", "workflows: [a]", "workflows: [{image: x}]"];
    let of_a_name = ["Train", "a b", "-a", "''", "[a]", "ä", &"x".repeat(64)];
    let of_a_name = of_a_name.iter().map(|name| format!("workflows: [{{name: {name}, image: x}}]"));
    let documents = WRONG.iter().map(|lines| workflow(lines)).chain(of_a_file.map(str::to_owned)).chain(of_a_name);
    for yaml in documents {
        let (by_schema, ours) = judged(&validator, &yaml);
        assert!(!by_schema.is_empty() && !ours.is_empty(), "{yaml}\nschema: {by_schema:#?}\nparser: {ours}");
    }
}

#[test]
fn check_tells_all_mistakes_and_ends_with_1() {
    let env = TestEnv::new();
    env.write("dockless.yaml", "workflows:\n  - {name: a, imgae: x}\n  - {name: b, image: x}\n");
    env.write(".dstack/workflows.yaml", "workflows:\n  - {name: b, image: x}\n  - {name: c, image: X}\n");
    let output = env.run(["workflow", "check"]).code(1);
    assert!(output.stderr.is_empty(), "{}", output.stderr);
    assert_eq!(
        output.stdout,
        "\
.dstack/workflows.yaml:3:22: `image` is wrong: image reference `X` has a bad repository name `library/X`, expected lower-case letters, digits and single `.`, `_`, `__`, `-` between them, parts separated by `/`
  |
3 |   - {name: c, image: X}
  |                      ^
hint: use lower case: `x`

dockless.yaml:2:15: unknown key `imgae` in a workflow
  |
2 |   - {name: a, imgae: x}
  |               ^^^^^
hint: did you mean `image`?

dockless.yaml:3:12: workflow name `b` stands twice, first at .dstack/workflows.yaml:2:12
  |
3 |   - {name: b, image: x}
  |            ^
hint: rename one of the two

3 mistakes
"
    );
    let json: Value = serde_json::from_str(&env.run(["workflow", "check", "--format", "json"]).code(1).stdout).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 3);
    assert_eq!(
        json[1],
        serde_json::json!({
            "file": "dockless.yaml", "line": 2, "column": 15,
            "problem": "unknown key `imgae` in a workflow", "hint": "did you mean `image`?",
        })
    );
    env.write("dockless.yaml", "workflows:\n  - {name: a, image: x}\n");
    assert_eq!(env.run(["workflow", "check", "dockless.yaml"]).text(), "1 workflow, no mistakes");
    assert_eq!(env.run(["workflow", "check", "dockless.yaml", "--format", "json"]).text(), "[]");
    env.run(["workflow", "check", "nothing.yaml"]).refused(125, &["cannot read `"]);
}

#[test]
fn the_schema_is_printed() {
    let env = TestEnv::new();
    assert_eq!(env.run(["workflow", "schema"]).json(), json_schema());
}

/// What a file of some kilobytes may cost: address space of 1 GB, and an answer within the patience of the tests.
#[test]
fn bombs_are_refused_in_little_memory() {
    let env = TestEnv::new();
    let levels = |line: &dyn Fn(u32, u32) -> String| (1..10).map(|n| line(n, n - 1)).collect::<Vec<_>>().join("\n");
    let ten = |below: u32| vec![format!("*a{below}"); 10].join(", ");
    let lists = levels(&|n, below| format!("a{n}: &a{n} [{}]", ten(below)));
    let lists = format!("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{lists}\n");
    let merges = levels(&|n, below| format!("a{n}: &a{n} {{<<: *a{below}, b{n}: *a{below}, c{n}: *a{below}}}"));
    let merges = format!("a0: &a0 {{x: y}}\n{merges}\n");
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 5000].join(", "));
    for (what, text) in [("lists", lists), ("merges", merges), ("long text", long)] {
        let file = env.write("bomb.yaml", text);
        let script = format!("ulimit -v 1000000; exec '{BINARY}' workflow check '{file}'");
        let output = finish(&mut program("sh", ["-c", &script])).code(1);
        assert!(output.stdout.starts_with(&format!("{file}:")), "{what}: {output:?}");
        assert!(output.stdout.contains("too large once its aliases are expanded"), "{what}: {output:?}");
    }
}
