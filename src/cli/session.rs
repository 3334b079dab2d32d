//! A command's way to the operator's verbs: the server that runs, or the store itself.
//!
//! The socket is tried first. Where nobody listens the command takes the store's lock and does the
//! same on its own; where the lock is held and nobody listens, a server is starting or stopping, or
//! another command works, and the command waits a little before it gives up.

use std::time::Duration;
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Context;
use super::Exit;
use super::Failure;
use super::block_on;
use super::output::print_warning;
use crate::admin::ApiError;
use crate::admin::Operation;
use crate::app::offline::Needs;
use crate::app::offline::Offline;
use crate::app::offline::OfflineError;
use crate::app::remote::Remote;
use crate::app::remote::RemoteError;
use crate::config::Config;

/// How long a held lock is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_LOOK: Duration = Duration::from_millis(100);

pub(crate) enum Session {
    Remote(Remote),
    Offline(Box<Offline>),
}

impl Session {
    pub(crate) async fn open(config: &Config, needs: Needs) -> Result<Session, Failure> {
        Session::open_within(config, needs, LOCK_WAIT).await
    }

    /// Waits for a held lock for `most`.
    pub(crate) async fn open_within(
        config: &Config,
        needs: Needs,
        most: Duration,
    ) -> Result<Session, Failure> {
        let deadline = Instant::now() + most;
        loop {
            let remote = Remote::connect(&config.data_dir).await.map_err(remote_failure)?;
            if let Some(remote) = remote {
                return Ok(Session::Remote(remote));
            }
            match Offline::open(config, needs).await {
                Ok(offline) => return Ok(Session::Offline(Box::new(offline))),
                Err(OfflineError::Locked(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(LOCK_LOOK).await;
                }
                Err(err) => return Err(offline_failure(err)),
            }
        }
    }

    pub(crate) async fn run(self, operation: Operation) -> Result<Value, Failure> {
        match self {
            Session::Remote(remote) => remote.run(&operation).await.map_err(remote_failure),
            Session::Offline(offline) => {
                let answer = offline.desk.run(operation).await;
                offline.close().await;
                answer.map_err(|err| refused(&err))
            }
        }
    }

    /// Like [`Session::run`], and tells `progress` how far it is.
    pub(crate) async fn run_long<F: DeserializeOwned, T: DeserializeOwned>(
        self,
        operation: Operation,
        mut progress: impl FnMut(F),
    ) -> Result<T, Failure> {
        // How far it is matters less than how it ends: what is not understood is not shown.
        let mut tell = |far: Value| {
            if let Ok(far) = serde_json::from_value(far) {
                progress(far);
            }
        };
        let result = match self {
            Session::Remote(remote) => {
                remote.run_long(&operation, tell).await.map_err(remote_failure)?
            }
            Session::Offline(offline) => {
                let result = offline.desk.begin(operation).tell(&mut tell).await;
                offline.close().await;
                result.map_err(|err| refused(&err))?
            }
        };
        serde_json::from_value(result).map_err(|err| remote_failure(RemoteError::Answer(err)))
    }
}

/// The configuration in use; what is doubtful in it is told.
pub(crate) fn configured(context: &Context) -> Result<Config, Failure> {
    let (path, loaded) = context.load()?;
    for warning in &loaded.warnings {
        print_warning(&warning.render(&path));
    }
    Ok(loaded.config)
}

/// Carries out one operation, wherever it can be.
pub(crate) fn ask<T: DeserializeOwned>(
    context: &Context,
    operation: Operation,
    needs: Needs,
) -> Result<T, Failure> {
    let config = configured(context)?;
    let answer = block_on(async { Session::open(&config, needs).await?.run(operation).await })??;
    serde_json::from_value(answer).map_err(|err| remote_failure(RemoteError::Answer(err)))
}

/// Carries out one operation that takes long, telling `progress` of how far it is.
pub(crate) fn ask_long<F: DeserializeOwned, T: DeserializeOwned>(
    context: &Context,
    operation: Operation,
    needs: Needs,
    progress: impl FnMut(F),
) -> Result<T, Failure> {
    let config = configured(context)?;
    block_on(async { Session::open(&config, needs).await?.run_long(operation, progress).await })?
}

pub(crate) fn refused(err: &ApiError) -> Failure {
    Failure {
        code: Some(err.code.clone()),
        hint: err.hint.clone(),
        ..Failure::new(Exit::Failed, anyhow::anyhow!(err.message.clone()))
    }
}

pub(crate) fn remote_failure(err: RemoteError) -> Failure {
    match err {
        RemoteError::Refused(err) => refused(&err),
        RemoteError::Socket(ref cause) if cause.kind() == std::io::ErrorKind::PermissionDenied => {
            let hint = "the server belongs to another user; run this as that user, or as root";
            hinted(Exit::Unreachable, err, hint)
        }
        err => Failure::new(Exit::Unreachable, err),
    }
}

pub(crate) fn offline_failure(err: OfflineError) -> Failure {
    let (exit, hint) = match &err {
        OfflineError::NoDirectory(_) => (Exit::Failed, "the first `larder serve` makes it"),
        OfflineError::Locked(_) => (
            Exit::Unreachable,
            "a server is starting or stopping, or another command is at work: try again",
        ),
        OfflineError::NotOurs(..) => {
            (Exit::Unreachable, "run this as that user, or start the server and ask it")
        }
        OfflineError::Unreachable(..) => {
            (Exit::Unreachable, "start the server and ask it, or see what its log says")
        }
        OfflineError::Store(_) => (Exit::Failed, "see whether the disk is full or read-only"),
    };
    hinted(exit, err, hint)
}

/// Says in one line what is wrong and why, and in the next what to do about it.
fn hinted(exit: Exit, err: impl Into<anyhow::Error>, hint: &str) -> Failure {
    let hint = Some(hint.to_owned());
    Failure { hint, ..Failure::new(exit, anyhow::anyhow!("{:#}", err.into())) }
}
