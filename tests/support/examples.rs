//! Workflows in every form that dstack's early pages (0.0.7 to 0.2.2) showed for its `docker` provider, or for `bash`
//! where the property is common to both; those have `provider: docker` and an image here. Typed anew, and shortened.

/// One example and what comes of it.
#[derive(Debug)]
pub(crate) struct EarlyExample {
    /// The page and the version that had it first.
    pub(crate) page: &'static str,
    pub(crate) yaml: &'static str,
    /// Commands of dockless to give one after the other, and text that each must print. `RUN` is the name of a run.
    pub(crate) steps: &'static [(&'static [&'static str], &'static str)],
}

const fn example(
    page: &'static str,
    yaml: &'static str,
    steps: &'static [(&'static [&'static str], &'static str)],
) -> EarlyExample {
    EarlyExample { page, yaml, steps }
}

pub(crate) const EARLY_EXAMPLES: &[EarlyExample] = &[
    example(
        "examples 0.0.7: an image that does all by itself",
        "\
workflows:
   - name: hello-docker
     provider: docker
     image: hello-world
",
        &[(&["workflow", "run", "hello-docker"], "")],
    ),
    example(
        "examples 0.0.7, providers 0.2.1: commands",
        "\
workflows:
  - name: hello-docker-2
    provider: docker
    image: ubuntu
    commands:
      - echo \"Hello world\"
",
        &[(&["workflow", "run", "hello-docker-2"], "Hello world\n")],
    ),
    example(
        "docker 0.0.7: the provider's own page",
        "\
workflows:
  - name: train
    provider: docker
    image: ubuntu
    commands:
      - mkdir -p output
      - echo 'Hello, world!' > output/hello.txt
    artifacts:
      - path: output
    resources:
      gpu:
        name: \"K80\"
        count: 1
",
        &[(&["workflow", "run", "train", "--name", "RUN"], ""), (&["artifacts", "ls", "RUN"], "output/hello.txt")],
    ),
    example(
        "docker 0.2.1: an entrypoint, and `./` before the path",
        "\
workflows:
  - name: hello-docker
    provider: docker
    image: ubuntu
    entrypoint: /bin/bash -i -c
    commands:
      - mkdir -p output
      - echo 'Hello, world!' > output/hello.txt
    artifacts:
      - path: ./output
    resources:
      gpu:
        name: \"K80\"
        count: 1
",
        &[
            (&["workflow", "run", "hello-docker", "--name", "RUN"], ""),
            (&["artifacts", "ls", "RUN"], "output/hello.txt"),
        ],
    ),
    example(
        "docker 0.2.1: a private registry",
        "\
workflows:
  - name: private-registry
    provider: docker
    image: ghcr.io/my-organization/top-secret-image:v1
    registry_auth:
      username: ${{ secrets.GHCR_USER }}
      password: ${{ secrets.GHCR_TOKEN }}
",
        &[
            (&["secrets", "add", "GHCR_USER", "somebody"], ""),
            (&["secrets", "add", "GHCR_TOKEN", "hunter2"], ""),
            (&["workflow", "run", "private-registry"], ""),
        ],
    ),
    example(
        "artifacts 0.0.7",
        "\
workflows:
  - name: hello-txt
    provider: docker
    image: ubuntu
    commands:
      - echo \"Hello world\" > output/hello.txt
    artifacts:
      - path: ./output
",
        &[(&["workflow", "run", "hello-txt", "--name", "RUN"], ""), (&["artifacts", "ls", "RUN"], "output/hello.txt")],
    ),
    example(
        "artifacts 0.0.7: in real time",
        "\
workflows:
  - name: hello-sh
    provider: docker
    image: ubuntu
    commands:
      - bash artifacts/hello.sh
    artifacts:
      - path: ./output
        mount: true
",
        &[
            (&["workflow", "run", "hello-sh", "--name", "RUN"], "Wrote output/2.txt"),
            (&["artifacts", "ls", "RUN"], "output/2.txt"),
        ],
    ),
    example(
        "deps 0.0.7: a tag",
        "\
workflows:
  - name: hello-txt
    image: ubuntu
    commands: [echo \"Hello world\" > output/hello.txt]
    artifacts: [{path: ./output}]
  - name: cat-txt
    provider: docker
    image: ubuntu
    deps:
      - tag: txt-file
    commands:
      - cat output/hello.txt
",
        &[
            (&["workflow", "run", "hello-txt", "--name", "RUN"], ""),
            (&["tags", "add", "txt-file", "RUN"], ""),
            (&["workflow", "run", "cat-txt"], "Hello world\n"),
        ],
    ),
    example(
        "deps 0.0.7: a workflow",
        "\
workflows:
  - name: hello-txt
    image: ubuntu
    commands: [echo \"Hello world\" > output/hello.txt]
    artifacts: [{path: ./output}]
  - name: cat-txt-2
    provider: docker
    image: ubuntu
    deps:
      - workflow: hello-txt
    commands:
      - cat output/hello.txt
",
        &[(&["workflow", "run", "hello-txt"], ""), (&["workflow", "run", "cat-txt-2"], "Hello world\n")],
    ),
    example(
        "`--dep (:TAG | WORKFLOW)` of the command line, which a file could say as well",
        "\
workflows:
  - name: hello-txt
    image: ubuntu
    commands: [echo \"Hello world\" > output/hello.txt]
    artifacts: [output]
  - name: cat-txt
    image: ubuntu
    deps: [hello-txt]
    commands: [cat output/hello.txt]
  - name: cat-tag
    image: ubuntu
    deps: [\":txt-file\"]
    commands: [cat output/hello.txt]
",
        &[
            (&["workflow", "run", "hello-txt", "--name", "RUN"], ""),
            (&["workflow", "run", "cat-txt"], "Hello world\n"),
            (&["tags", "add", "txt-file", "RUN"], ""),
            (&["workflow", "run", "cat-tag"], "Hello world\n"),
        ],
    ),
    example(
        "deps 0.0.8 and 0.1: of another repository; there is none here",
        "\
workflows:
  - name: cat-txt-3
    provider: docker
    image: ubuntu
    deps:
      - workflow: dstackai/dstack/txt-file
      - tag: dstackai/dstack/txt-file
    commands:
      - cat output/hello.txt
",
        &[],
    ),
    example(
        "env 0.0.7",
        "\
workflows:
  - name: hello-env
    provider: docker
    image: ubuntu
    env:
      - DSTACK_ENV_1=VAL1
      - DSTACK_ENV_2=VAL2
      - DSTACK_ENV_3
    commands:
      - env | grep DSTACK_
",
        &[(&["workflow", "run", "hello-env"], "DSTACK_ENV_2=VAL2\n")],
    ),
    example(
        "apps 0.0.7: a number of ports",
        "\
workflows:
  - name: hello-fastapi
    provider: docker
    image: python:3.10
    ports: 1
    commands:
      - pip install fastapi uvicorn
      - uvicorn apps.hello_fastapi:app --port $PORT_0 --host 0.0.0.0
",
        &[(&["workflow", "run", "hello-fastapi"], "--host 0.0.0.0\n")],
    ),
    example(
        "bash 0.2.1: an application in the background",
        "\
workflows:
  - name: train-with-tensorboard
    provider: docker
    image: python:3.10
    ports: 1
    commands:
      - pip install torchvision pytorch-lightning tensorboard
      - tensorboard --port $PORT_0 --host 0.0.0.0 --logdir lightning_logs &
      - python train.py
    artifacts:
      - path: lightning_logs
",
        &[
            (&["workflow", "run", "train-with-tensorboard", "--name", "RUN"], "python train.py\n"),
            (&["artifacts", "ls", "RUN"], "lightning_logs/made"),
        ],
    ),
    example(
        "resources 0.0.7: a GPU by number, and an interruptible machine",
        "\
workflows:
  - name: gpu-i
    provider: docker
    image: nvidia/cuda:11.8.0-base-ubuntu22.04
    commands:
      - nvidia-smi
    resources:
      interruptible: true
      gpu: 1
",
        &[(&["workflow", "run", "gpu-i"], "nvidia-smi\n")],
    ),
    example(
        "resources 0.0.7: a GPU by its model",
        "\
workflows:
  - name: gpu-v100
    provider: docker
    image: nvidia/cuda:11.8.0-base-ubuntu22.04
    commands:
      - nvidia-smi
    resources:
      memory: 64GB
      gpu:
        name: V100
        count: 1
",
        &[(&["workflow", "run", "gpu-v100"], "nvidia-smi\n")],
    ),
    example(
        "resources 0.0.7: a GPU by its number, spelled out",
        "\
workflows:
  - name: gpu-1
    provider: docker
    image: nvidia/cuda:11.8.0-base-ubuntu22.04
    commands:
      - nvidia-smi
    resources:
      gpu:
        count: 1
",
        &[(&["workflow", "run", "gpu-1"], "nvidia-smi\n")],
    ),
    example(
        "resources 0.1: memory",
        "\
workflows:
  - name: mem-64gb
    provider: docker
    image: ubuntu
    commands:
      - free -m
    resources:
      memory: 64GB
",
        &[(&["workflow", "run", "mem-64gb"], "Mem:")],
    ),
    example(
        "resources 0.0.7: shared memory",
        "\
workflows:
  - name: shm-size
    provider: docker
    image: ubuntu
    commands:
      - df /dev/shm
    resources:
      shm_size: 16GB
",
        &[(&["workflow", "run", "shm-size"], "15625000")],
    ),
    example(
        "resources 0.0.13 and 0.1: where it runs, which is always here",
        "\
workflows:
  - name: hello
    provider: docker
    image: ubuntu
    commands:
      - echo \"Hello world\"
    resources:
      local: true
  - name: local-hello
    provider: docker
    image: ubuntu
    commands:
      - echo \"Hello world\"
    resources:
      remote: true
",
        &[(&["workflow", "run", "hello"], "Hello world\n"), (&["workflow", "run", "local-hello"], "Hello world\n")],
    ),
    example(
        "args 0.0.14",
        "\
workflows:
  - name: hello-args
    provider: docker
    image: python:3.10
    commands:
      - python args/hello-arg.py ${{ run.args }}
",
        &[(&["workflow", "run", "hello-args", "--", "Hello, world!"], "python args/hello-arg.py Hello, world!\n")],
    ),
    example(
        "secrets 0.0.8: a secret is an environment variable",
        "\
workflows:
  - name: hello
    provider: docker
    image: python:3.10
    env:
      - WANDB_API_KEY=${{ secrets.WANDB_API_KEY }}
    commands:
      - pip install wandb
      - wandb login
",
        &[
            (&["secrets", "add", "WANDB_API_KEY", "not-a-real-key"], ""),
            (&["workflow", "run", "hello"], "wandb login\n"),
        ],
    ),
    example(
        "conda 0.0.13: an environment as an artifact",
        "\
workflows:
  - name: setup-conda
    help: Prepares an environment
    provider: docker
    image: dstackai/miniconda
    commands:
      - conda env create --file environment.yml
    artifacts:
      - path: /opt/conda/envs/myenv

  - name: use-conda
    provider: docker
    image: dstackai/miniconda
    deps:
      - workflow: setup-conda
    commands:
      - conda activate myenv
      - ls /opt/conda/envs/myenv
",
        &[(&["workflow", "run", "setup-conda"], ""), (&["workflow", "run", "use-conda"], "made\n")],
    ),
    example(
        "README 0.0.7: nearly all of it at once",
        "\
workflows:
  - name: \"train\"
    provider: docker
    image: python:3.10
    deps:
      - tag: mnist_data
    python: 3.10
    env:
      - PYTHONPATH=src
    commands:
      - pip install requirements.txt
      - python src/train.py
    artifacts:
      - path: checkpoint
    resources:
      interruptible: true
      gpu: 1
  - name: mnist-data
    image: python:3.10
    commands: [python mnist/download.py]
    artifacts: [{path: ./data}]
",
        &[
            (&["workflow", "run", "mnist-data", "--name", "RUN"], "python mnist/download.py\n"),
            (&["tags", "add", "mnist_data", "RUN"], ""),
            (&["workflow", "run", "train"], "python src/train.py\n"),
        ],
    ),
    example(
        "quickstart 0.0.7: two workflows, an odd indent",
        "\
workflows:
  # Saves the dataset
  - name: mnist-data
    help: \"Download the MNIST dataset\"
    provider: docker
    image: python:3.10
    commands:
      - pip install torchvision
      - python mnist/mnist_data.py
    artifacts:
      - path: ./data

  - name: train-mnist
    help: \"Train a MNIST model\"
    deps:
      - workflow: mnist-data
    provider: docker
    image: python:3.10
    env:
      - PYTHONPATH=mnist
    commands:
      - pip install torchvision pytorch-lightning tensorboard
      - python mnist/train_mnist.py
      - ls data
    artifacts:
      # Logs and checkpoints
      - path: ./lightning_logs
    resources:
        gpu: 1
",
        &[(&["workflow", "run", "mnist-data"], ""), (&["workflow", "run", "train-mnist"], "made\n")],
    ),
    example(
        "diffusers 0.1.1: `setup`, a model as an artifact, arguments",
        "\
workflows:
  - name: stable-diffusion
    provider: docker
    image: python:3.10
    commands:
      - python stable_diffusion/stable_diffusion.py
    artifacts:
      - path: ./models
    resources:
      memory: 16GB
  - name: prompt-stable
    provider: docker
    image: python:3.10
    deps:
      - workflow: stable-diffusion
    setup:
      - pip install -r stable_diffusion/requirements.txt
    commands:
      - python stable_diffusion/prompt_stable.py ${{ run.args }}
    artifacts:
      - path: ./output
    resources:
      memory: 16GB
",
        &[
            (&["workflow", "run", "stable-diffusion"], ""),
            (&["workflow", "run", "prompt-stable", "--", "-P", "a cat"], "prompt_stable.py -P a cat\n"),
        ],
    ),
];
