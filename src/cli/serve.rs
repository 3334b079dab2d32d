//! `larder serve`: the server, in the foreground.

use super::Context;
use super::Exit;
use super::Failure;
use super::Outcome;
use super::block_on;
use crate::app;
use crate::app::logging;
use crate::app::offline::OfflineError;

pub(crate) fn run(context: &Context) -> Outcome {
    let (config_path, loaded) = context.load()?;
    let log = logging::install(loaded.config.log)?;
    for warning in &loaded.warnings {
        tracing::warn!("{}", warning.render(&config_path));
    }
    let options = app::ServeOptions { config_path, loaded, log };
    match block_on(app::serve(options))? {
        Ok(()) => Ok(Exit::Done),
        Err(error) => {
            let exit = match error.downcast_ref::<OfflineError>() {
                Some(OfflineError::Unreachable(..)) => Exit::Unreachable,
                _ => Exit::Failed,
            };
            Err(Failure { exit, error })
        }
    }
}
