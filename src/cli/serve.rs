//! `larder serve`: the server, in the foreground.

use std::io;
use std::io::BufRead;
use std::io::IsTerminal;
use std::io::Write;

use super::Context;
use super::Exit;
use super::Failure;
use super::Outcome;
use super::block_on;
use super::init;
use crate::app;
use crate::app::logging;
use crate::app::offline::OfflineError;

pub(crate) fn run(context: &Context) -> Outcome {
    if let Err(failure) = context.find() {
        let is_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
        if !is_terminal || !wants_one()? {
            return Err(failure);
        }
        init::run(context, &init::Args::default())?;
    }
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
                Some(OfflineError::Unreachable(..) | OfflineError::Locked(_)) => Exit::Unreachable,
                _ => Exit::Failed,
            };
            Err(Failure::new(exit, error))
        }
    }
}

fn wants_one() -> anyhow::Result<bool> {
    let mut err = io::stderr().lock();
    write!(err, "There is no configuration. Make one now? [yes]: ")?;
    err.flush()?;
    let mut line = String::new();
    let is_answered = io::stdin().lock().read_line(&mut line)? > 0;
    Ok(is_answered && matches!(line.trim(), "" | "y" | "Y" | "yes" | "Yes"))
}
