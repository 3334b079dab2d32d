//! `larder stop`: ends the server that runs, and waits until it has.

use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
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
use super::output::print_warning;
use super::session::remote_failure;
use crate::admin::Operation;
use crate::app::offline;
use crate::app::remote::Remote;
use crate::app::remote::RemoteError;
use crate::base::size::parse_duration;
use crate::config as configuration;
use crate::config::Loaded;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What ending takes beside the requests in flight.
const BESIDE: Duration = Duration::from_secs(30);
/// What requests in flight may take when the configuration cannot be asked: its default.
const PATIENCE_UNKNOWN: Duration = Duration::from_secs(30);

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
    let (data_dir, patience) = server_of(context)?;
    let most = args.timeout.unwrap_or(patience + BESIDE);
    let is_shown = io::stderr().is_terminal() && !context.json;
    let ended = block_on(stop(&data_dir, most, is_shown))??;
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

/// Where the server is, and how long it may take to end. A mistake in the file since the server
/// began does not keep it from being stopped.
fn server_of(context: &Context) -> Result<(PathBuf, Duration), Failure> {
    let failure = match context.load() {
        Ok((_, Loaded { config, .. })) => {
            return Ok((config.data_dir, config.server.shutdown_timeout));
        }
        Err(failure) => failure,
    };
    let named = configuration::data_dir(&context.find()?, &configuration::environment);
    let Some(data_dir) = named else { return Err(failure) };
    print_warning("the configuration has mistakes; of it only data_dir is used");
    Ok((data_dir, PATIENCE_UNKNOWN))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_in_the_file_keeps_no_server_from_being_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("larder.toml");
        let of = |text: &str| {
            std::fs::write(&file, text).unwrap();
            server_of(&Context { config: Some(file.clone()), json: true })
        };
        for wrong in ["unknown = 1\n", "", "[[backend]]\nname = \n", "[server\n"] {
            let (data_dir, _) = of(&format!("data_dir = \"/d\"\n{wrong}")).unwrap();
            assert_eq!(data_dir, Path::new("/d"), "{wrong}");
        }
        for without in ["", "data_dir = 5\n", "data_dir = \"here\"\n", "data_dir = \"${X\"\n"] {
            assert_eq!(of(without).unwrap_err().exit, Exit::Configuration, "{without}");
        }
        let context = Context { config: Some(dir.path().join("none")), json: true };
        assert_eq!(server_of(&context).unwrap_err().exit, Exit::Configuration);
    }
}
