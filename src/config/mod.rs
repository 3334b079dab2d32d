//! What the operator wrote, and what it means.
//!
//! Two types, two moments. `Raw` is the file as it is written: every value optional, nothing
//! believed. [`Config`] is what the rest of the program sees: every value present, every relation
//! between values checked. Only `Raw::check` makes one, so nobody who is handed a [`Config`]
//! checks again.
//!
//! All mistakes of a file are reported together, each with its line, its column and what to do
//! about it; a file with a mistake gives no [`Config`] at all.
//!
//! # Why the TOML is walked by hand
//!
//! Serde stops at the first mistake. Walking the parsed tree with its spans finds them all, knows
//! where each one is, and lets a bare number for a size be answered in words.
//!
//! The settings structs belong to the modules that act on them; this module fills them in.

mod access;
mod backends;
mod bandwidth;
mod check;
mod expand;
mod find;
mod finding;
mod lifecycle;
mod limits;
mod memory;
mod placement;
mod profile;
mod protection;
mod providers;
mod raw;
mod reader;
mod schema;
mod show;
pub mod watch;
mod workers;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeTable;

pub use self::expand::Env;
pub use self::find::find;
pub use self::finding::ConfigErrors;
pub use self::finding::Finding;
pub use self::providers::Addressing;
pub use self::providers::Free;
pub use self::providers::Provider;
pub use self::providers::provider;
pub use self::providers::providers;
use self::raw::Raw;
use self::reader::Reader;
pub use self::show::show;
pub use crate::backend::BackendSettings;
use crate::engine::EngineSettings;
use crate::model::AccessKey;
use crate::model::Names;
use crate::model::Placement;
use crate::s3::RateSettings;
use crate::store::DeclaredBucket;
use crate::worker::CrewSettings;

/// The configuration file with every key in force, its default and a sentence.
pub const EXAMPLE: &str = include_str!("../../assets/larder.toml");

/// The largest configuration file that is read.
const FILE_MAX: u64 = 4 << 20;
/// What is no TOML is told so many times at most; the rest follows from the first.
const SYNTAX_ERRORS_MAX: usize = 10;
/// The parser's message for the one error that leaves the file readable.
const DUPLICATE_KEY: &str = "duplicate key";
const ONCE: &str = "it is given above already; keep one of them";
const NO_TOML: &str = "the file is not TOML here; values are checked once it can be read";

/// Settings that have been checked, alone and against each other.
#[derive(Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub server: Server,
    pub log: Log,
    pub engine: EngineSettings,
    /// What a bucket gets that says nothing else.
    pub default_placement: Placement,
    /// How files are named on backends that say nothing else.
    pub default_names: Names,
    /// In the order of the file, which is the order of `pack`.
    pub backends: Vec<BackendSettings>,
    pub buckets: Vec<DeclaredBucket>,
    pub keys: Vec<AccessKey>,
    pub rate: RateSettings,
    pub workers: CrewSettings,
    /// Keeps everybody but the check from making one.
    _checked: Checked,
}

#[derive(Clone)]
struct Checked;

/// The listeners and the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    pub region: String,
    /// In lower case; switches virtual-host addressing on.
    pub domain: Option<String>,
    /// Bytes that bodies in flight may take.
    pub memory: u64,
    /// How long requests in flight may take to finish when the server stops.
    pub shutdown_timeout: Duration,
    /// Bytes of a POST form's file.
    pub post_form_max: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    const ALL: [LogLevel; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Text,
    Json,
}

impl LogFormat {
    const ALL: [LogFormat; 3] = [Self::Auto, Self::Text, Self::Json];

    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// A file that was read and found good.
#[derive(Clone)]
pub struct Loaded {
    pub config: Config,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Finding>,
    /// Of the file's bytes; what [`watch`] compares.
    pub text_hash: [u8; 32],
}

/// Never shows a secret.
impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", show(self))
    }
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The process's environment, for [`load`] and [`find`].
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Reads and checks the file at `path`. Blocks: it also reads the files of secrets.
pub fn load(path: &Path, env: Env<'_>) -> Result<Loaded, ConfigErrors> {
    let unreadable = |text: String, hint: &str| ConfigErrors {
        file: path.to_owned(),
        mistakes: vec![Finding { place: None, text, hint: Some(hint.to_owned()) }],
    };
    let bytes = read(path).map_err(|err| {
        unreadable(
            format!("the configuration file cannot be read: {err}"),
            "`larder config example` prints one to begin with",
        )
    })?;
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return Err(unreadable("the file is not UTF-8 text".to_owned(), "save it as UTF-8"));
    };
    // Relative paths begin where the file is, wherever larder was started.
    let dir = path.parent().map(Path::to_owned).unwrap_or_default();
    let (config, warnings) = parse(text, &dir, env)
        .map_err(|mistakes| ConfigErrors { file: path.to_owned(), mistakes })?;
    Ok(Loaded { config, warnings, text_hash: hash(&bytes) })
}

/// The data directory that the file at `path` names, whatever else is wrong with the file: enough
/// to find the server that still runs with what the file said before.
pub fn data_dir(path: &Path, env: Env<'_>) -> Option<PathBuf> {
    let bytes = read(path).ok()?;
    let (table, _) = DeTable::parse_recoverable(std::str::from_utf8(&bytes).ok()?);
    let named = table.get_ref().get("data_dir")?.get_ref().as_str()?;
    let dir = PathBuf::from(expand::expand(named, env).ok()?);
    dir.is_absolute().then_some(dir)
}

/// Checks `text`; paths in it are relative to `dir`. `Err` has every mistake.
fn parse(text: &str, dir: &Path, env: Env<'_>) -> Result<(Config, Vec<Finding>), Vec<Finding>> {
    let mut reader = Reader::new(env, dir);
    let (table, errors) = DeTable::parse_recoverable(text);
    let is_readable = errors.iter().all(|error| error.message() == DUPLICATE_KEY);
    for error in errors {
        let at = error.span().map(|span| span.start);
        let message = error.message().trim().replace('\n', ", ");
        reader.found.wrong_hint(at, message, if is_readable { ONCE } else { NO_TOML });
    }
    if !is_readable {
        // What cannot be parsed has no meaning that could be checked. One slip upsets the parser
        // several times, so each line is told of once.
        let mut mistakes = reader.found.locate(text).0;
        mistakes.dedup_by_key(|mistake| mistake.place.map(|(line, _)| line));
        mistakes.truncate(SYNTAX_ERRORS_MAX);
        return Err(mistakes);
    }
    let raw = Raw::read(table.get_ref(), &mut reader);
    let config = raw.check(&mut reader.found);
    let is_good = !reader.found.has_mistakes();
    let (mistakes, warnings) = reader.found.locate(text);
    if is_good { Ok((config, warnings)) } else { Err(mistakes) }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(std::io::Error::other("it is too large for a configuration"));
    }
    Ok(bytes)
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

#[cfg(test)]
mod tests;
