//! The embedder: pulls and runs with callbacks in a runtime with threads, and writes what it saw into a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dockless::engine::{Engine, Event, ImageRequest, Order, Output, RunRequest, Settings, StopReason, Stream};
use dockless::image::{Observer, PullEvent};
use dockless::network::Places;
use dockless::store::Exit;
use serde_json::{Value, json};

/// The first argument of a process that is this program: then come what it does, a directory and an image.
pub(crate) const WORD: &str = "embedder";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How this program behaves at the start of its `main`, and how one behaves that it was started by: helpers get no arguments.
pub(crate) fn manners() -> Option<&'static str> {
    let parent = std::os::unix::process::parent_id();
    let words = |process: &str| fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    [words("self"), words(&parent.to_string())].iter().find_map(|words| {
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        let is_program = words.get(1) == Some(&WORD.as_bytes());
        ["late", "forgetful", "careless"].into_iter().find(|name| is_program && words.get(2) == Some(&name.as_bytes()))
    })
}

pub(crate) fn main(words: &[String]) -> ExitCode {
    let [_, what, dir, image] = words else { return ExitCode::from(3) };
    let dir = PathBuf::from(dir);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let seen = runtime.block_on(seen(what, &dir, image)).unwrap_or_else(|error| {
        let kind = error.downcast_ref::<dockless::engine::EngineError>().map(|error| format!("{error:?}"));
        json!({ "error": error.to_string(), "kind": kind })
    });
    fs::write(dir.join("seen.json"), seen.to_string()).unwrap();
    ExitCode::SUCCESS
}

async fn seen(what: &str, dir: &Path, image: &str) -> Result<Value, Failure> {
    let mut settings = Settings::new(dir.join("root"));
    settings.state = dir.join("state");
    settings.leases = dir.join("gpus");
    settings.network = Places { dir: dir.join("network"), ..Places::default() };
    let (engine, _) = Engine::open(settings)?;
    let ask = |name: &str, script: &str| -> Result<RunRequest, Failure> {
        let mut request = engine.request(&name.parse()?, ImageRequest::new(image.parse()?))?;
        request.options.command = ["sh", "-c", script].map(str::to_owned).to_vec();
        Ok(request)
    };
    match what {
        "closed" => {
            for fd in 0..3 {
                nix::unistd::close(fd)?;
            }
            whole(&engine, ask("e-closed", "echo out; echo err >&2; exit 7")?).await
        }
        "pair" => {
            let (one, two) = (ask("e-one", "echo one")?, ask("e-two", "echo two; exit 2")?);
            let (first, second) = (engine.clone(), engine.clone());
            let (first, second) = tokio::join!(whole(&first, one), whole(&second, two));
            Ok(json!([first?, second?]))
        }
        "oom" => {
            let mut request = ask("e-oom", "x=$(yes | head -c 100000000); echo done")?;
            request.options.memory = Some("16m".parse()?);
            request.options.env.clear();
            whole(&engine, request).await
        }
        "stop" => {
            let (mut run, _) =
                start(&engine, ask("e-stop", "trap 'exit 3' TERM; while :; do usleep 20000; done")?).await?;
            while let Some(event) = run.event().await {
                if matches!(event, Event::Started { .. }) {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    run.order(&Order::Stop { reason: StopReason::Stopped, grace_ms: None, signal: None });
                }
            }
            Ok(ended(&run.exit(&engine).await?))
        }
        "drop" => {
            let (mut run, _) = start(&engine, ask("e-drop", "while :; do usleep 20000; done")?).await?;
            while !matches!(run.event().await, None | Some(Event::Started { .. })) {}
            let dir = engine.store().find_run("e-drop")?;
            drop(run);
            let exit = engine.wait(&dir, None).await?.ok_or("no end")?;
            tokio::time::sleep(Duration::from_millis(200)).await;
            let children = fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id()))?;
            Ok(json!({ "exit": ended(&exit), "children": children }))
        }
        "detached" => {
            let mut request = ask("e-detached", "true")?;
            request.detached = true;
            Ok(start(&engine, request).await.map(|_| json!(null))?)
        }
        // Programs with bad manners.
        _ => whole(&engine, ask("e-bad", "echo never")?).await,
    }
}

/// Notes what a pull says.
#[derive(Default)]
struct Steps(Mutex<Vec<&'static str>>);

impl Observer for Steps {
    fn pull(&self, event: &PullEvent<'_>) {
        let word = match event {
            PullEvent::Resolved { .. } => "resolved",
            PullEvent::Downloaded { .. } => "downloaded",
            PullEvent::Unpacked { .. } => "unpacked",
            _ => return,
        };
        self.0.lock().unwrap().push(word);
    }
}

type Reading = tokio::task::JoinHandle<std::io::Result<[String; 2]>>;

async fn start(
    engine: &Engine,
    mut request: RunRequest,
) -> Result<(dockless::engine::Run, (Reading, Arc<Steps>)), Failure> {
    let (output, pipes) = Output::pipes()?;
    request.output = output;
    let reading = tokio::spawn(async move {
        let mut texts = [Vec::new(), Vec::new()];
        pipes.for_each(|stream, bytes| texts[usize::from(stream == Stream::Stderr)].extend_from_slice(bytes)).await?;
        Ok(texts.map(|text| String::from_utf8_lossy(&text).into_owned()))
    });
    let steps = Arc::new(Steps::default());
    let observer: Arc<dyn Observer> = Arc::clone(&steps) as _;
    Ok((Box::pin(engine.run(request, &observer)).await?, (reading, steps)))
}

/// From the request to the report.
async fn whole(engine: &Engine, request: RunRequest) -> Result<Value, Failure> {
    let (mut run, (reading, steps)) = start(engine, request).await?;
    let mut events = Vec::new();
    while let Some(event) = run.event().await {
        events.push(serde_json::to_value(event)?["event"].clone());
    }
    let exit = run.exit(engine).await?;
    let [stdout, stderr] = reading.await??;
    let steps = steps.0.lock().unwrap().clone();
    Ok(json!({ "exit": ended(&exit), "stdout": stdout, "stderr": stderr, "events": events, "steps": steps }))
}

fn ended(exit: &Exit) -> Value {
    json!({ "code": exit.code, "reason": exit.reason, "message": exit.message })
}
