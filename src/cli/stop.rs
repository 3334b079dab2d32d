//! `larder stop`: ends the server that runs, and waits until it has.

use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use serde_json::json;

use super::Context;
use super::Exit;
use super::Failure;
use super::Outcome;
use super::block_on;
use super::output::print;
use super::output::print_json;
use super::session::remote_failure;
use crate::admin::Operation;
use crate::app::offline;
use crate::app::remote::Remote;
use crate::app::remote::RemoteError;
use crate::base::size::parse_duration;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What ending takes beside the requests in flight.
const BESIDE: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long to wait; left out: server.shutdown_timeout and half a minute
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nothing ran.
    Already,
    Now,
    NotInTime,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let (_, loaded) = context.load()?;
    let config = loaded.config;
    let most = args.timeout.unwrap_or(config.server.shutdown_timeout + BESIDE);
    let is_shown = io::stderr().is_terminal() && !context.json;
    let ended = block_on(stop(&config.data_dir, most, is_shown))??;
    let (exit, text) = match ended {
        Ended::Already => (Exit::Done, "no server runs"),
        Ended::Now => (Exit::Done, "the server has stopped"),
        Ended::NotInTime => (Exit::Failed, "the server was told to stop and has not yet"),
    };
    match context.json {
        true => {
            let was_running = !matches!(ended, Ended::Already);
            let stopped = !matches!(ended, Ended::NotInTime);
            print_json(&json!({ "stopped": stopped, "was_running": was_running }))?;
        }
        false => print(text)?,
    }
    Ok(exit)
}

pub(crate) async fn stop(
    data_dir: &Path,
    most: Duration,
    is_shown: bool,
) -> Result<Ended, Failure> {
    let begun = Instant::now();
    let Some(remote) = Remote::connect(data_dir).await.map_err(remote_failure)? else {
        return match data_dir.is_dir() && offline::is_locked(data_dir).unwrap_or(false) {
            false => Ok(Ended::Already),
            true => Err(in_use(data_dir)),
        };
    };
    match tokio::time::timeout(most, remote.run(&Operation::Stop)).await {
        // A server that is quick is gone before the answer is whole.
        Ok(Ok(_) | Err(RemoteError::BrokenOff(_))) => (),
        Ok(Err(err)) => return Err(remote_failure(err)),
        Err(_) => return Ok(Ended::NotInTime),
    }
    while !has_ended(data_dir).await {
        let passed = begun.elapsed();
        if passed > most {
            return Ok(Ended::NotInTime);
        }
        if is_shown {
            let mut err = io::stderr().lock();
            let text = format!("\r\x1b[Kwaiting for the server, {} s", passed.as_secs());
            let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if is_shown {
        let _ = write!(io::stderr().lock(), "\r\x1b[K");
    }
    Ok(Ended::Now)
}

/// Nobody listens any more, and the store is free for the next.
async fn has_ended(data_dir: &Path) -> bool {
    match Remote::connect(data_dir).await {
        Ok(None) => !offline::is_locked(data_dir).unwrap_or(true),
        _ => false,
    }
}

fn in_use(data_dir: &Path) -> Failure {
    let text = format!(
        "the data directory {} is in use, and no server answers there: a server is starting or \
         stopping, or a command is at work",
        data_dir.display()
    );
    Failure::new(Exit::Unreachable, anyhow::anyhow!(text))
}
