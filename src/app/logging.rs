//! The log: text on a terminal, JSON lines elsewhere, to stderr, with a level that a reload
//! changes.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Log;
use crate::config::LogFormat;
use crate::config::LogLevel;

/// Changes the level of the running log. Clones change the same log.
#[derive(Clone)]
pub struct LogHandle(reload::Handle<EnvFilter, Registry>);

impl LogHandle {
    pub fn set_level(&self, level: LogLevel) {
        if let Err(err) = self.0.reload(filter(level)) {
            tracing::warn!(%err, "the log level could not be changed");
        }
    }
}

/// Begins the log of this process; it can begin once.
pub fn install(log: Log) -> anyhow::Result<LogHandle> {
    let is_terminal = std::io::stderr().is_terminal();
    let as_text = match log.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    if as_text {
        registry.with(lines.with_ansi(is_terminal)).try_init()?;
    } else {
        registry.with(lines.json().flatten_event(true)).try_init()?;
    }
    Ok(LogHandle(handle))
}

fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(directives(level))
}

/// Libraries tell of the requests they serve as errors, and of every frame as debugging: what
/// matters of it is logged by us, where it is handled.
fn directives(level: LogLevel) -> String {
    let libraries = match level {
        LogLevel::Error | LogLevel::Warn | LogLevel::Info => "s3s=off,s3s_aws=off",
        LogLevel::Debug => "h2=info,hyper=info,hyper_util=info,reqwest=info,rustls=info",
        LogLevel::Trace => return "trace".to_owned(),
    };
    format!("{},{libraries}", level.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_gives_directives_that_are_taken_whole() {
        for level in
            [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace]
        {
            let wanted = directives(level);
            let parsed = EnvFilter::builder().parse(&wanted).unwrap().to_string();
            let count = |directives: &str| directives.split(',').count();
            assert_eq!(count(&parsed), count(&wanted), "{parsed}");
            assert!(parsed.contains(level.name()), "{parsed}");
        }
        assert!(directives(LogLevel::Info).contains("s3s=off"));
        assert!(!directives(LogLevel::Debug).contains("s3s"));
    }

    #[test]
    fn the_level_of_a_running_log_changes() {
        let (layer, handle) = reload::Layer::new(filter(LogLevel::Error));
        let handle = LogHandle(handle);
        let registry = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(registry, || {
            assert!(!tracing::enabled!(tracing::Level::INFO));
            handle.set_level(LogLevel::Info);
            assert!(tracing::enabled!(tracing::Level::INFO));
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
        });
    }
}
