//! Words on a terminal: the commands, their output and their exit codes.
//!
//! A command does its work and returns how it ended; here is the only place that turns an end
//! into an exit code and an error into a paragraph on stderr. What a command was asked for goes
//! to stdout, as a table or, with `--json`, as one JSON value; then a failure is one as well.

mod backend;
mod bucket;
mod check;
mod cleanup;
mod completions;
mod config;
mod import;
mod init;
mod key;
mod object;
mod lifecycle;
mod output;
mod plan;
mod progress;
mod reconcile;
mod scrub;
mod serve;
mod session;
mod status;
mod stop;
#[cfg(test)]
mod tests;
mod usage;
mod verify;
mod version;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::Subcommand;
use serde_json::Value;
use serde_json::json;
use tokio::runtime::Runtime;

use self::output::print_failure;
use self::output::print_json;
use crate::config as configuration;
use crate::config::ConfigErrors;
use crate::config::Loaded;

/// Threads for calls that block, of all kinds together. Backends have threads of their own.
const BLOCKING_THREADS_MAX: usize = 64;
/// How long a blocking call that is still running may keep the process from ending.
const LINGER: Duration = Duration::from_secs(2);

#[derive(Parser)]
#[command(
    name = "larder",
    version,
    about = "One S3 endpoint over all the storage you own",
    long_about = "One S3 endpoint over all the storage you own.\n\n\
        Larder keeps every object on as many local disks and clouds as you ask for, and serves \
        them all as one S3 endpoint. It is set up by one TOML file.",
    after_help = "Begin with:\n  \
        larder init             make a configuration, with fresh keys\n  \
        larder serve            serve it\n  \
        larder key create ...   make another key\n\n\
        Buckets, keys and backends are looked after by the server when one runs, and on its data\n\
        directory when none does: the commands are the same.\n\n\
        The configuration is --config or LARDER_CONFIG, or else larder.toml here,\n\
        ~/.config/larder/larder.toml or /etc/larder/larder.toml.\n\n\
        Exit codes: 0 done, 1 found something wrong or failed, 2 wrong usage,\n\
        3 configuration, 4 unreachable or locked.",
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Cli {
    /// The configuration file
    #[arg(long, short, global = true, env = "LARDER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print JSON instead of words and tables
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve S3 over the configured backends, in the foreground
    #[command(after_help = "The server reloads its configuration when the file changes or on \
        SIGHUP,\nand stops on SIGTERM, Ctrl-C or `larder stop` once requests in flight have \
        finished.\n\nExample:\n  larder --config /etc/larder/larder.toml serve")]
    Serve,
    /// Make a configuration, with fresh random keys
    #[command(after_help = init::AFTER_HELP)]
    Init(Box<init::Args>),
    /// Say what is wrong with the configuration, all at once
    #[command(after_help = "Nothing is started or changed. With --probe, a few small files are \
        written to each backend,\nread, listed and deleted again.\n\n\
        Examples:\n  larder check\n  larder --config new.toml check --probe")]
    Check(check::Args),
    /// Stop the server that runs, and wait until it has
    #[command(after_help = "It is no error when none runs.\n\nExample:\n  \
        larder stop --timeout '2 min'")]
    Stop(stop::Args),
    /// Make, show, change and delete buckets
    Bucket(bucket::Args),
    /// Make, show, change and delete access keys
    Key(key::Args),
    /// Show the backends and what they hold, and empty, remove or reset them
    Backend(backend::Args),
    /// Show where the bytes of an object lie, and how they are
    Object(object::Args),
    /// Show the workers of the background, and run, pause and resume them
    Worker(worker::Args),
    /// Move replicas between backends with a quota, or say what would move
    #[command(after_help = plan::REBALANCE_HELP)]
    Rebalance(plan::RebalanceArgs),
    /// Remove replicas that are more than wished, or say which
    #[command(after_help = plan::SURPLUS_HELP)]
    OverReplication(plan::SurplusArgs),
    /// Show and settle files that could not be deleted
    Cleanup(cleanup::Args),
    /// Show what the backends used of their limits, and when these are reached
    #[command(after_help = usage::AFTER_HELP)]
    Usage(usage::Args),
    /// Say how the server and its backends are
    #[command(
        after_help = "It asks the server that runs; when none does the exit code is 4. What \
        was refused is counted\nfrom its start.\n\nExample:\n  larder status --json"
    )]
    Status,
    /// Make objects of files that lie on a backend, where they are
    #[command(after_help = import::AFTER_HELP)]
    Import(import::Args),
    /// Read everything that is stored and compare it, or say how the regular passes stand
    #[command(after_help = scrub::AFTER_HELP)]
    Scrub(scrub::Args),
    /// Compare what the backends hold with what the store knows of it
    #[command(after_help = reconcile::AFTER_HELP)]
    Reconcile(reconcile::Args),
    /// Say whether the metadata store and the backends are as they should be
    #[command(after_help = "Without options the store recomputes every derived number. It only \
        reports, also while\nthe server serves. Exit code 1: faults were found.\n\n\
        Examples:\n  larder verify\n  larder verify --backends\n  \
        larder verify --backends --read --json")]
    Verify(verify::Args),
    /// Print the configuration in force, one to begin with, or the known providers
    Config(config::Args),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  \
        larder completions bash > ~/.local/share/bash-completion/completions/larder")]
    Completions(completions::Args),
    /// Print the version of this program, and of the server that runs
    Version,
}

/// What a command is given beside its own arguments.
struct Context {
    config: Option<PathBuf>,
    json: bool,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    /// Something wrong was found, or it failed.
    Failed,
    Usage,
    Configuration,
    /// A server or store cannot be reached or is locked.
    Unreachable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Configuration => 3,
            Exit::Unreachable => 4,
        })
    }
}

impl Exit {
    /// For programs, where a failure has no more exact code of its own.
    fn code(self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Failed => "failed",
            Exit::Usage => "usage",
            Exit::Configuration => "configuration",
            Exit::Unreachable => "unreachable",
        }
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    error: anyhow::Error,
    /// A word that programs may rely on; `None` for that of `exit`.
    code: Option<String>,
    /// What to do about it.
    hint: Option<String>,
}

impl Failure {
    fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Failure {
        Failure { exit, error: error.into(), code: None, hint: None }
    }

    /// In the form of the refusals of the operator's surface.
    fn json(&self) -> Value {
        let code = self.code.as_deref().unwrap_or(self.exit.code());
        let mut error = json!({ "code": code, "message": format!("{:#}", self.error) });
        if let Some(hint) = &self.hint {
            error["hint"] = json!(hint);
        }
        json!({ "error": error })
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::new(Exit::Failed, error)
    }
}

type Outcome = Result<Exit, Failure>;

/// Runs the command that the process was started with.
pub fn run() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) => {
            // Help and version are no errors, and go to stdout.
            if !err.use_stderr() {
                let _ = err.print();
                return Exit::Done;
            }
            if !std::env::args_os().any(|word| word == "--json") {
                let _ = err.print();
                return Exit::Usage;
            }
            let text = err.render().to_string();
            return ended(Err(Failure::new(Exit::Usage, anyhow::anyhow!(text))), true);
        }
    };
    let context = Context { config: cli.config, json: cli.json };
    ended(carry_out(&context, cli.command), context.json)
}

fn carry_out(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Serve => serve::run(context),
        Command::Check(args) => check::run(context, &args),
        Command::Init(args) => init::run(context, &args),
        Command::Stop(args) => stop::run(context, &args),
        Command::Bucket(args) => bucket::run(context, &args),
        Command::Key(args) => key::run(context, &args),
        Command::Backend(args) => backend::run(context, &args),
        Command::Object(args) => object::run(context, &args),
        Command::Worker(args) => worker::run(context, &args),
        Command::Rebalance(args) => plan::rebalance(context, &args),
        Command::OverReplication(args) => plan::surplus(context, &args),
        Command::Cleanup(args) => cleanup::run(context, &args),
        Command::Usage(args) => usage::run(context, &args),
        Command::Status => status::run(context),
        Command::Import(args) => import::run(context, &args),
        Command::Scrub(args) => scrub::run(context, &args),
        Command::Reconcile(args) => reconcile::run(context, &args),
        Command::Verify(args) => verify::run(context, &args),
        Command::Config(args) => config::run(context, &args),
        Command::Completions(args) => completions::run(context, &args),
        Command::Version => version::run(context),
    }
}

/// Tells a failure: with `--json` as the one JSON value on stdout, else in words on stderr.
fn ended(outcome: Outcome, json: bool) -> Exit {
    outcome.unwrap_or_else(|failure| {
        match json {
            true => _ = print_json(&failure.json()),
            false => print_failure(&failure),
        }
        failure.exit
    })
}

impl Context {
    /// The configuration file in use.
    fn find(&self) -> Result<PathBuf, Failure> {
        configuration::find(self.config.clone(), &configuration::environment)
            .map_err(|places| Failure::new(Exit::Configuration, no_configuration(&places)))
    }

    /// The configuration in use; all its mistakes are the error.
    fn load(&self) -> Result<(PathBuf, Loaded), Failure> {
        let path = self.find()?;
        let loaded = configuration::load(&path, &configuration::environment)
            .map_err(|errors| Failure::new(Exit::Configuration, not_valid(&errors)))?;
        Ok((path, loaded))
    }
}

fn not_valid(errors: &ConfigErrors) -> anyhow::Error {
    let found = match errors.mistakes.len() {
        1 => "a mistake".to_owned(),
        n => format!("{n} mistakes"),
    };
    anyhow::anyhow!("the configuration has {found}; nothing was started\n{errors}")
}

fn no_configuration(places: &[PathBuf]) -> anyhow::Error {
    let places: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
    anyhow::anyhow!(
        "there is no configuration file: neither {}. Make one with\n\n    \
         larder init\n\n\
         and start again; or name one with --config FILE.",
        places.join(" nor ")
    )
}

/// Runs `work` on a runtime with a thread for each core.
fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime: Runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("larder")
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(LINGER);
    Ok(done)
}
