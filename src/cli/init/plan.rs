//! What the configuration shall be, from options and answers.

use std::collections::BTreeSet;
use std::io;
use std::io::BufRead;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use super::Args;
use super::S3Args;
use super::ask::Asker;
use super::quota;
use crate::admin::new_credentials;
use crate::base::limits::REPLICAS_MAX;
use crate::cli::Exit;
use crate::cli::Failure;
use crate::cli::bucket::bucket_name;
use crate::config::Addressing;
use crate::config::Env;
use crate::config::Provider;
use crate::config::provider;
use crate::config::providers;

/// The directory of a disk that is Larder's.
const DISK_DIR: &str = "larder";
const BACKENDS_MAX: usize = 32;

pub(super) struct Plan {
    pub(super) data_dir: PathBuf,
    pub(super) listen: SocketAddr,
    pub(super) admin_listen: SocketAddr,
    pub(super) replicas: u32,
    pub(super) same_device: bool,
    pub(super) backends: Vec<PlannedBackend>,
    pub(super) bucket: Option<String>,
    pub(super) key_id: String,
    pub(super) secret: String,
}

pub(super) struct PlannedBackend {
    pub(super) name: String,
    pub(super) service: &'static str,
    pub(super) options: Vec<(&'static str, String)>,
    pub(super) quota: Option<String>,
    /// The value of the label.
    pub(super) provider: String,
    /// What is known of its provider; `None` where nothing is.
    pub(super) known: Option<&'static Provider>,
    /// What costs nothing there shall be its limit.
    pub(super) is_limited: bool,
}

/// Where the secret of an S3 backend is.
enum Secret {
    Here(String),
    File(PathBuf),
}

fn wrong(text: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, anyhow::anyhow!(text.into()))
}

impl Plan {
    /// From options alone.
    pub(super) fn of(args: &Args, env: Env<'_>) -> Result<Plan, Failure> {
        let data_dir = match &args.data_dir {
            Some(dir) => absolute(dir).map_err(wrong)?,
            None => default_data_dir(env),
        };
        let mut backends = Vec::new();
        for disk in &args.disk {
            let root = disk_root(disk).map_err(wrong)?;
            backends.push(disk_backend(&backends, &root, args.quota.clone()));
        }
        backends.extend(s3_from_args(&args.s3, args.quota.clone(), &backends)?);
        if backends.is_empty() {
            let root = default_objects(&data_dir);
            backends.push(disk_backend(&backends, &root, args.quota.clone()));
        }
        let replicas = args.replicas.unwrap_or_else(|| default_replicas(&backends));
        Ok(Plan::with(args, data_dir, backends, replicas, args.bucket.clone()))
    }

    /// Asks for what no option says.
    pub(super) fn ask<R: BufRead, W: Write>(
        args: &Args,
        env: Env<'_>,
        asker: &mut Asker<R, W>,
    ) -> Result<Plan, Failure> {
        let asked = Plan::ask_all(args, env, asker);
        asked.map_err(|err| match err {
            Unasked::Io(err) => wrong(err.to_string()),
            Unasked::Failure(failure) => failure,
        })
    }

    fn ask_all<R: BufRead, W: Write>(
        args: &Args,
        env: Env<'_>,
        asker: &mut Asker<R, W>,
    ) -> Result<Plan, Unasked> {
        let data_dir = match &args.data_dir {
            Some(dir) => absolute(dir).map_err(wrong)?,
            None => {
                let default = default_data_dir(env);
                asker.say("Larder keeps its metadata on a local disk.")?;
                asker.ask("Directory for it", &default.to_string_lossy(), |answer| {
                    absolute(Path::new(answer))
                })?
            }
        };
        let backends = match args.disk.is_empty() && args.s3.s3.is_none() {
            true => ask_backends(asker, &data_dir, args.quota.as_deref())?,
            false => Plan::of(args, env)?.backends,
        };
        let replicas = match args.replicas {
            Some(replicas) => replicas,
            None if backends.len() == 1 => 1,
            None => {
                let default = default_replicas(&backends).to_string();
                asker.ask("Replicas of each object", &default, read_replicas)?
            }
        };
        let bucket = match &args.bucket {
            Some(bucket) => Some(bucket.clone()),
            None => asker.ask("A bucket to begin with", "none", |answer| match answer {
                "none" => Ok(None),
                answer => bucket_name(answer).map(Some),
            })?,
        };
        Ok(Plan::with(args, data_dir, backends, replicas, bucket))
    }

    fn with(
        args: &Args,
        data_dir: PathBuf,
        backends: Vec<PlannedBackend>,
        replicas: u32,
        bucket: Option<String>,
    ) -> Plan {
        let (key_id, secret) = new_credentials();
        let here = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Plan {
            data_dir,
            listen: args.listen.unwrap_or(here(9000)),
            admin_listen: args.admin_listen.unwrap_or(here(9001)),
            replicas,
            same_device: args.same_device,
            backends,
            bucket,
            key_id,
            secret,
        }
    }
}

impl PlannedBackend {
    /// What costs nothing there, with its date.
    pub(super) fn free(&self) -> Option<String> {
        let known = self.known?;
        let free = Some(known.free()).filter(|free| !free.is_empty())?;
        let listed = &known.listed;
        Some(format!("as listed in {listed} (check with your provider): {}", free.join(", ")))
    }
}

enum Unasked {
    Io(io::Error),
    Failure(Failure),
}

impl From<io::Error> for Unasked {
    fn from(err: io::Error) -> Unasked {
        Unasked::Io(err)
    }
}

impl From<Failure> for Unasked {
    fn from(failure: Failure) -> Unasked {
        Unasked::Failure(failure)
    }
}

fn ask_backends<R: BufRead, W: Write>(
    asker: &mut Asker<R, W>,
    data_dir: &Path,
    limit: Option<&str>,
) -> Result<Vec<PlannedBackend>, Unasked> {
    let mut backends = Vec::new();
    asker.say("Objects are kept on backends: local disks, and S3 buckets elsewhere.")?;
    while backends.len() < BACKENDS_MAX {
        let is_disk =
            asker.ask("Add a local disk or an S3 bucket", "disk", |answer| match answer {
                "disk" => Ok(true),
                "s3" => Ok(false),
                _ => Err("answer disk or s3".to_owned()),
            })?;
        let mut backend = match is_disk {
            true => {
                let default = default_objects(data_dir);
                let root = asker.ask(
                    "Directory; objects go into `larder` in it",
                    &default.to_string_lossy(),
                    |answer| match Path::new(answer) == default {
                        true => Ok(default.clone()),
                        false => disk_root(Path::new(answer)),
                    },
                )?;
                disk_backend(&backends, &root, None)
            }
            false => ask_s3(asker, &backends)?,
        };
        backend.is_limited = ask_limits(asker, &backend)?;
        let free = backend.known.filter(|_| backend.is_limited);
        let free = free.and_then(|known| known.allowances.stored.as_deref()).unwrap_or("none");
        backend.quota = match limit {
            Some(limit) => Some(limit.to_owned()),
            None => asker.ask("The most bytes there, such as 500 GB", free, |answer| {
                if answer == "none" { Ok(None) } else { quota(answer).map(Some) }
            })?,
        };
        backends.push(backend);
        if !asker.ask_yes("Another one", false)? {
            break;
        }
    }
    Ok(backends)
}

/// Whether the backend shall use no more than what costs nothing there, as far as that is known.
fn ask_limits<R: BufRead, W: Write>(
    asker: &mut Asker<R, W>,
    backend: &PlannedBackend,
) -> io::Result<bool> {
    let Some(told) = backend.free() else { return Ok(false) };
    asker.say(&format!("Free there, {told}."))?;
    asker.ask_yes("Use no more than that", true)
}

fn ask_s3<R: BufRead, W: Write>(
    asker: &mut Asker<R, W>,
    earlier: &[PlannedBackend],
) -> io::Result<PlannedBackend> {
    for known in providers() {
        asker.say(&format!("  {:8} {}", known.id, known.title))?;
    }
    let known = asker.ask("Provider", "", |answer| {
        provider(answer).ok_or_else(|| "answer with a word of the first column".to_owned())
    })?;
    let account = match &known.account {
        Some(called) => asker.ask_text(&format!("Your {called} there"), "")?,
        None => String::new(),
    };
    let region = match &known.region {
        Some(region) if known.endpoint("", "").is_some() => region.clone(),
        region => asker.ask_text("Region", region.as_deref().unwrap_or(""))?,
    };
    let endpoint = match known.endpoint(&account, &region) {
        Some(endpoint) => endpoint,
        None => asker.ask_text("Endpoint, such as https://s3.example.org", "")?,
    };
    let bucket = asker.ask_text("Bucket there, which must exist", "")?;
    let root = asker.ask_text("Directory in the bucket", DISK_DIR)?;
    let key_id = asker.ask_text("Access key id", "")?;
    let secret = asker.ask_secret("Secret access key, which is not shown")?;
    let place = [endpoint, region, bucket, root];
    Ok(s3_backend(known, place, key_id, Secret::Here(secret), earlier))
}

fn s3_from_args(
    args: &S3Args,
    quota: Option<String>,
    earlier: &[PlannedBackend],
) -> Result<Option<PlannedBackend>, Failure> {
    let Some(known) = args.s3.as_deref().and_then(provider) else { return Ok(None) };
    let needed = |value: &Option<String>, option: &str| {
        value.clone().ok_or_else(|| wrong(format!("the provider {} needs {option}", known.id)))
    };
    let account = match &known.account {
        Some(_) if args.s3_endpoint.is_none() => needed(&args.s3_account, "--s3-account")?,
        _ => String::new(),
    };
    let region = match &known.region {
        Some(region) => args.s3_region.clone().unwrap_or_else(|| region.clone()),
        None => needed(&args.s3_region, "--s3-region")?,
    };
    let endpoint = match (&args.s3_endpoint, known.endpoint(&account, &region)) {
        (Some(endpoint), _) => endpoint.clone(),
        (None, Some(endpoint)) => endpoint,
        (None, None) => needed(&None, "--s3-endpoint")?,
    };
    let secret = args.s3_secret_file.as_deref().ok_or_else(|| wrong("--s3-secret-file is missing"));
    let secret = Secret::File(absolute(secret?).map_err(wrong)?);
    let bucket = needed(&args.s3_bucket, "--s3-bucket")?;
    let place = [endpoint, region, bucket, args.s3_root.clone()];
    let key_id = needed(&args.s3_key_id, "--s3-key-id")?;
    let backend = s3_backend(known, place, key_id, secret, earlier);
    let free = known.allowances.stored.clone();
    let is_limited = !known.free().is_empty();
    Ok(Some(PlannedBackend { quota: quota.or(free), is_limited, ..backend }))
}

fn s3_backend(
    known: &'static Provider,
    [endpoint, region, bucket, root]: [String; 4],
    key_id: String,
    secret: Secret,
    earlier: &[PlannedBackend],
) -> PlannedBackend {
    let mut options = vec![
        ("endpoint", endpoint),
        ("region", region),
        ("bucket", bucket),
        ("root", format!("/{}", root.trim_matches('/'))),
        ("access_key_id", key_id),
    ];
    options.push(match secret {
        Secret::Here(secret) => ("secret_access_key", secret),
        Secret::File(file) => ("secret_access_key_file", file.to_string_lossy().into_owned()),
    });
    if known.addressing == Addressing::Virtual {
        options.push(("enable_virtual_host_style", "true".to_owned()));
    }
    let known = Some(known).filter(|known| known.id != "other");
    let name = free_name(known.map_or("s3", |known| &known.id), earlier);
    let provider = known.map_or_else(|| name.clone(), |known| known.id.clone());
    let (quota, is_limited) = (None, false);
    PlannedBackend { name, service: "s3", options, quota, provider, known, is_limited }
}

fn disk_backend(earlier: &[PlannedBackend], root: &Path, quota: Option<String>) -> PlannedBackend {
    let name = free_name("disk", earlier);
    let options = vec![("root", root.to_string_lossy().into_owned())];
    let (provider, known, is_limited) = (name.clone(), None, false);
    PlannedBackend { name, service: "fs", options, quota, provider, known, is_limited }
}

/// `disk1`, `disk2`; `r2`, `r2-2`.
fn free_name(stem: &str, earlier: &[PlannedBackend]) -> String {
    let names = (1..).map(|n| match (stem, n) {
        ("disk", n) => format!("disk{n}"),
        (stem, 1) => stem.to_owned(),
        (stem, n) => format!("{stem}-{n}"),
    });
    let is_free = |name: &String| earlier.iter().all(|backend| backend.name != *name);
    names.into_iter().find(is_free).expect("there are more numbers than backends")
}

fn read_replicas(answer: &str) -> Result<u32, String> {
    let range = 1..=REPLICAS_MAX;
    let wrong = || format!("answer with a number from 1 to {REPLICAS_MAX}");
    answer.parse().ok().filter(|replicas| range.contains(replicas)).ok_or_else(wrong)
}

/// Two, where two places can hold them.
fn default_replicas(backends: &[PlannedBackend]) -> u32 {
    let mut devices = BTreeSet::new();
    let mut places = 0;
    for backend in backends {
        let root = backend.options.iter().find(|(name, _)| *name == "root");
        let device = root.filter(|_| backend.service == "fs").and_then(|(_, root)| device(root));
        match device {
            Some(device) => _ = devices.insert(device),
            None => places += 1,
        }
    }
    if devices.len() + places >= 2 { 2 } else { 1 }
}

/// Of the nearest directory that exists.
fn device(root: &str) -> Option<u64> {
    let found = Path::new(root).ancestors().find_map(|dir| std::fs::metadata(dir).ok());
    found.map(|found| found.dev())
}

/// Larder's directory on a disk. The disk's own must be there: one that is not mounted is not
/// made up for by a directory in its place.
fn disk_root(disk: &Path) -> Result<PathBuf, String> {
    let disk = absolute(disk)?;
    match disk.is_dir() {
        true => Ok(disk.join(DISK_DIR)),
        false => Err(format!("there is no directory {} (is the disk mounted?)", disk.display())),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    let absolute = std::path::absolute(path).map_err(|err| err.to_string())?;
    match absolute.to_str() {
        Some(_) => Ok(absolute),
        None => Err(format!("{} is not UTF-8 and cannot stand in the file", path.display())),
    }
}

fn default_data_dir(env: Env<'_>) -> PathBuf {
    let directory = |name| env(name).map(PathBuf::from).filter(|dir: &PathBuf| dir.is_absolute());
    if rustix::process::geteuid().is_root() {
        return "/var/lib/larder".into();
    }
    let home = || directory("HOME").map(|home| home.join(".local/share"));
    let share = directory("XDG_DATA_HOME").or_else(home);
    share.map_or_else(|| "/var/lib/larder".into(), |share| share.join("larder"))
}

/// Beside the metadata, when no disk is named.
fn default_objects(data_dir: &Path) -> PathBuf {
    data_dir.with_file_name("larder-objects")
}
