//! Orders to the supervisor of a run that goes on, and what it answers.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::sleep;

use super::super::{Engine, EngineError, Event, Order};
use super::{ControlError, LOOK_AGAIN, connect};
use crate::store::{RunDir, RunState, StoreError};

impl Engine {
    /// Gives a live run an order and waits until it has been carried out. `what` says it in a word: `pause`.
    ///
    /// # Errors
    /// [`ControlError::NotRunning`] before the workload starts and after it has ended; [`ControlError::Refused`] with the
    /// supervisor's reason.
    pub async fn give_order(&self, run: &RunDir, what: &'static str, order: &Order) -> Result<(), EngineError> {
        let name = run.name().map_err(|_| gone(run))?;
        loop {
            let how = self.how_it_stands(run)?;
            if let Some(how) = how {
                return Err(ControlError::NotRunning { run: name, how }.into());
            }
            if let Ok(stream) = connect(run)
                && let Some(error) = ask(stream, order).await
            {
                return error.map_or(Ok(()), |why| Err(ControlError::Refused { run: name, what, why }.into()));
            }
            // It begins or ends this moment.
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Why the run cannot be asked for anything; `None` when it can.
    fn how_it_stands(&self, run: &RunDir) -> Result<Option<String>, EngineError> {
        if run.lacks_record() {
            return if run.path().is_dir() { Ok(Some("it is being set up".to_owned())) } else { Err(gone(run)) };
        }
        let state = run.record()?.state;
        Ok(match state {
            RunState::Submitted | RunState::Pulling => Some(format!("it is being set up (`{state}`)")),
            RunState::Saving => Some("it has ended, and its artifacts are being saved".to_owned()),
            RunState::Creating | RunState::Running | RunState::Paused | RunState::Restarting => {
                if run.is_live() {
                    return Ok(None);
                }
                self.end_of(run)?;
                Some("its supervisor was killed".to_owned())
            }
            _ => Some(format!("it has ended (`{state}`)")),
        })
    }
}

fn gone(run: &RunDir) -> EngineError {
    let name = run.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    StoreError::NoRun { name }.into()
}

/// The answer: nothing, or why not. `None` when there is none because the run ends.
async fn ask(mut stream: UnixStream, order: &Order) -> Option<Option<String>> {
    let line = serde_json::to_string(order).unwrap_or_default() + "\n";
    stream.write_all(line.as_bytes()).await.ok()?;
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(Event::Answer { error }) => return Some(error),
            Ok(Event::Exited { .. }) => return None,
            _ => {}
        }
    }
    None
}
