//! Every example of dstack's early pages runs, with an image and programs that stand in for the real ones.

use crate::base::app_with;
use crate::support::env::{TestEnv, finish_with};
use crate::support::examples::{EARLY_EXAMPLES, EarlyExample};
use crate::support::image::ImageBuilder;

/// Says what it was called with, and leaves a file in each directory that such a program may write to.
const PROGRAM: &str = "\
#!/bin/sh
echo \"${0##*/}${1:+ }$*\"
for dir in data output models checkpoint lightning_logs /opt/conda/envs/myenv; do
  if [ -d $dir ]; then echo x 2>/dev/null >$dir/made; fi
done
exit 0
";
const PROGRAMS: [&str; 8] = ["pip", "python", "conda", "uvicorn", "tensorboard", "wandb", "nvidia-smi", "gunicorn"];

/// The example with the image `app`, on a machine without GPUs and without 64 GB.
fn stand_in(yaml: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut below_gpu = None;
    for line in yaml.lines() {
        let indent = line.len() - line.trim_start().len();
        if below_gpu.is_some_and(|gpu| indent > gpu) {
            continue;
        }
        below_gpu = None;
        if line.trim_start().starts_with("gpu:") {
            below_gpu = Some(indent);
            lines.push(format!("{}gpu: 0", " ".repeat(indent)));
        } else if line.trim_start().starts_with("image:") {
            lines.push(format!("{}image: app", " ".repeat(indent)));
        } else {
            lines.push(line.replace("memory: 64GB", "memory: 64MB").replace("memory: 16GB", "memory: 64MB"));
        }
    }
    lines.join("\n") + "\n"
}

/// Takes all its steps. The value of a secret, which those pages gave on the command line, goes to standard input.
#[track_caller]
fn runs(env: &TestEnv, example: &EarlyExample) {
    env.write(".dstack/workflows.yaml", stand_in(example.yaml));
    let run = env.name();
    for (words, expected) in example.steps {
        let words: Vec<&str> = words.iter().map(|word| if *word == "RUN" { &run } else { *word }).collect();
        let output = match words.as_slice() {
            ["secrets", "add", name, value] => {
                finish_with(&mut env.command(["secrets", "add", "--force", name]), value.as_bytes())
            }
            words => env.run(words),
        };
        assert!(
            output.code == 0 && output.stdout.contains(expected),
            "{}: {words:?} gave {output:?}, expected `{expected}`",
            example.page
        );
    }
}

fn with_programs(image: ImageBuilder) -> ImageBuilder {
    let image = image.program("bin/bash", "#!/bin/sh\nexec /bin/sh \"$@\"\n");
    PROGRAMS.iter().fold(image, |image, name| image.program(&format!("bin/{name}"), PROGRAM))
}

#[test]
fn every_early_example_runs() {
    let Some(env) = app_with(with_programs) else { return };
    env.write("artifacts/hello.sh", "for i in 1 2; do echo $i > output/$i.txt; echo Wrote output/$i.txt; done\n");
    for example in EARLY_EXAMPLES {
        runs(&env, example);
    }
    env.assert_clean();
}
