//! A whole Larder on a temporary folder: its configuration, its process, its disks.
//!
//! # Invariants
//!
//! - A world ends only after its process has ended; at its end the process is stopped in good
//!   order, `larder verify` finds nothing, and the log holds no line of level ERROR and no panic.
//!   A test that expects such lines calls [`World::expect_errors`].
//! - Every wait has a deadline and fails with what it waited for and the end of the log.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::content::{Rng, hex};
use crate::mounts::Mounts;
use crate::signer::{Creds, S3};
use crate::wire::exchange;

/// Generous: debug builds of many worlds share the machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// The binary under test: the one that was just built, or the one that is named.
fn larder() -> OsString {
    std::env::var_os("LARDER_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_larder").into())
}

/// One `[[backend]]`.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) name: String,
    pub(crate) service: String,
    /// The inside of the `options` table.
    pub(crate) options: String,
    /// More lines, as `quota = "1 GiB"`.
    pub(crate) more: Vec<String>,
}

/// One `[[key]]`.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) creds: Creds,
    pub(crate) create_buckets: bool,
    /// The inside of `grants`, one entry each.
    pub(crate) grants: Vec<String>,
}

impl Key {
    /// A key with fresh random words and no rights.
    pub(crate) fn random() -> Key {
        let mut bytes = [0; 30];
        rand_bytes(&mut bytes);
        let creds = Creds {
            id: format!("LK{}", hex(&bytes[..9]).to_uppercase()),
            secret: hex(&bytes[9..]),
        };
        Key { creds, create_buckets: false, grants: Vec::new() }
    }

    pub(crate) fn may_all() -> Key {
        let all = "{ bucket = \"*\", allow = [\"read\", \"list\", \"create\", \"write\", \"delete\", \"admin\"] }";
        Key { create_buckets: true, ..Key::random() }.grant(all)
    }

    pub(crate) fn grant(mut self, grant: &str) -> Key {
        self.grants.push(grant.into());
        self
    }

    /// May do `allow` (quoted, with commas) in `bucket` below `prefix`.
    pub(crate) fn allow(self, bucket: &str, prefix: &str, allow: &str) -> Key {
        self.grant(&format!(
            "{{ bucket = \"{bucket}\", prefix = \"{prefix}\", allow = [{allow}] }}"
        ))
    }
}

/// The configuration file, as pieces that a test may change.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) port: u16,
    pub(crate) admin_port: u16,
    /// More lines of `[server]`.
    pub(crate) server: Vec<String>,
    /// Lines of `[defaults]`.
    pub(crate) defaults: Vec<String>,
    pub(crate) backends: Vec<Backend>,
    /// Insides of `[[bucket]]`.
    pub(crate) buckets: Vec<String>,
    pub(crate) keys: Vec<Key>,
    /// Whatever else stands at the end of the file.
    pub(crate) more: String,
}

impl Config {
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "data_dir = {:?}\n\n[server]\nlisten = \"127.0.0.1:{}\"\nadmin_listen = \"127.0.0.1:{}\"\n{}\n\n\
             [log]\nlevel = \"info\"\nformat = \"json\"\n\n[defaults]\n{}\n",
            self.data_dir,
            self.port,
            self.admin_port,
            self.server.join("\n"),
            self.defaults.join("\n"),
        );
        for backend in &self.backends {
            text += &format!(
                "\n[[backend]]\nname = {:?}\nservice = {:?}\noptions = {{ {} }}\n{}\n",
                backend.name,
                backend.service,
                backend.options,
                backend.more.join("\n")
            );
        }
        for bucket in &self.buckets {
            text += &format!("\n[[bucket]]\n{bucket}\n");
        }
        for key in &self.keys {
            text += &format!(
                "\n[[key]]\nid = {:?}\nsecret = {:?}\ncreate_buckets = {}\ngrants = [{}]\n",
                key.creds.id,
                key.creds.secret,
                key.create_buckets,
                key.grants.join(", ")
            );
        }
        text + "\n" + &self.more
    }
}

pub(crate) struct World {
    dir: TempDir,
    pub(crate) config: Config,
    child: Option<Child>,
    started: bool,
    expect_errors: bool,
    /// Folders that the process sees as small disks of their own, with their MiB.
    small_disks: Vec<(PathBuf, u64)>,
    /// They stay through restarts.
    mounts: Option<Mounts>,
    /// How long a wait or a run of the command line may take.
    pub(crate) patience: Duration,
}

impl World {
    /// A running Larder over one local directory.
    pub(crate) fn new() -> World {
        World::over(1)
    }

    /// A running Larder over `disks` local directories, which keeps as many replicas as it has disks.
    pub(crate) fn over(disks: usize) -> World {
        World::with(disks, |config| {
            let wish = disks.min(2);
            config.defaults.push(format!("replicas = {wish}\nmin_replicas = 1"));
        })
    }

    /// A running Larder, its configuration changed before the start.
    pub(crate) fn with(disks: usize, change: impl FnOnce(&mut Config)) -> World {
        let mut world = World::cold(disks);
        change(&mut world.config);
        world.start();
        world
    }

    /// A Larder that was never started.
    pub(crate) fn cold(disks: usize) -> World {
        let dir = TempDir::with_prefix("larder-it-").expect("a temporary folder");
        let mut config = Config {
            data_dir: dir.path().join("data"),
            port: free_port(),
            admin_port: free_port(),
            server: Vec::new(),
            defaults: vec!["same_device = true".into()],
            backends: Vec::new(),
            buckets: Vec::new(),
            keys: vec![Key::may_all()],
            more: String::new(),
        };
        let world_dir = dir.path().to_owned();
        config.backends = (1..=disks).map(|n| local_backend(&world_dir, n)).collect();
        World {
            dir,
            config,
            child: None,
            started: false,
            expect_errors: false,
            small_disks: Vec::new(),
            mounts: None,
            patience: DEADLINE,
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The root of local backend `n`, counted from 1.
    pub(crate) fn disk(&self, n: usize) -> PathBuf {
        disk(self.dir.path(), n)
    }

    /// Another local directory, not in the configuration yet.
    pub(crate) fn new_backend(&self, n: usize) -> Backend {
        local_backend(self.dir.path(), n)
    }

    /// The endpoint with the key that may do all.
    pub(crate) fn s3(&self) -> S3 {
        self.s3_as(&self.config.keys[0].creds)
    }

    pub(crate) fn s3_as(&self, creds: &Creds) -> S3 {
        S3 { addr: local(self.config.port), creds: creds.clone(), region: "us-east-1".into() }
    }

    /// Errors in the log are what this test is about.
    pub(crate) fn expect_errors(&mut self) {
        self.expect_errors = true;
    }

    // ---- The process.

    pub(crate) fn config_file(&self) -> PathBuf {
        self.dir.path().join("larder.toml")
    }

    /// Writes the configuration in place.
    pub(crate) fn write_config(&self) {
        fs::write(self.config_file(), self.config.text()).expect("the folder is writable");
    }

    /// Replaces the configuration as an editor does: a new file under the old name.
    pub(crate) fn replace_config(&self) {
        let new = self.dir.path().join(".larder.toml.new");
        fs::write(&new, self.config.text()).expect("the folder is writable");
        fs::rename(&new, self.config_file()).expect("the folder is writable");
    }

    /// Starts it on the configuration as it is now, and waits until it is ready.
    pub(crate) fn start(&mut self) {
        self.write_config();
        self.spawn();
        let s3 = local(self.config.port);
        let admin = local(self.config.admin_port);
        self.wait("the server is ready", |_| {
            TcpStream::connect(s3).is_ok() && get(admin, "/health/ready").is_some_and(|s| s == 200)
        });
    }

    fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("the folder is writable");
        let child = self
            .command()
            .arg("--config")
            .arg(self.config_file())
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle"))
            .stderr(log)
            .spawn()
            .expect("the binary was built");
        self.child = Some(child);
        self.started = true;
    }

    /// The binary, on the small disks if there are any.
    fn command(&self) -> Command {
        self.mounts.as_ref().map_or_else(|| Command::new(larder()), |on| on.command(&larder()))
    }

    /// Makes `path` a disk of `mib` MiB, which the process alone sees. To be called before it starts.
    #[cfg(target_os = "linux")]
    pub(crate) fn small_disk(&mut self, path: &Path, mib: u64) {
        fs::create_dir_all(path).expect("the folder is writable");
        self.small_disks.push((path.to_owned(), mib));
        self.mounts = Some(Mounts::hold(&self.small_disks));
    }

    /// `path` as the process sees it.
    #[cfg(target_os = "linux")]
    pub(crate) fn inside(&self, path: &Path) -> PathBuf {
        self.mounts.as_ref().expect("a small disk was made").inside(path)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("our own child");
    }

    /// Ends it in good order.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_exit();
        assert!(status.success(), "SIGTERM ended it with {status}\n{}", self.log_end());
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }

    pub(crate) fn restart(&mut self) {
        self.stop();
        self.start();
    }

    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let begin = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("our own child") {
                return status;
            }
            if begin.elapsed() > self.patience {
                let _ = child.kill();
                let _ = child.wait();
                panic!("it did not end\n{}", self.log_end());
            }
            pause();
        }
    }

    /// Waits for `holds`; fails when the process ends meanwhile or the deadline passes.
    #[track_caller]
    pub(crate) fn wait(&mut self, what: &str, mut holds: impl FnMut(&World) -> bool) {
        let begin = Instant::now();
        while !holds(self) {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                self.child = None;
                panic!("it ended with {status} while waiting: {what}\n{}", self.log_end());
            }
            assert!(begin.elapsed() < self.patience, "in vain: {what}\n{}", self.log_end());
            pause();
        }
    }

    // ---- What is said of it.

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub(crate) fn log(&self) -> String {
        fs::read(self.log_file())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    pub(crate) fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Resident memory of the process in KiB, where the system says it.
    pub(crate) fn resident_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// Runs the command line on this configuration.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.write_config();
        run_to_end(self.command(), &self.config_file(), args, self.patience)
    }

    /// `larder verify` on the stopped process, which must find nothing.
    #[track_caller]
    pub(crate) fn verify(&self) {
        assert!(self.child.is_none(), "verify reads a store at rest");
        let ran = self.run(&["verify", "--json"]);
        let text = format!("{}\n{}\n{}", ran.stdout, ran.stderr, self.log_end());
        assert_eq!(ran.code, Some(0), "verify: {text}");
        let said: serde_json::Value = serde_json::from_str(&ran.stdout).expect(&text);
        assert_eq!(said["clean"], serde_json::json!(true), "{text}");
        assert_eq!(said["faults"], serde_json::json!([]), "{text}");
    }

    /// The files of local backend `n` that hold bytes of objects.
    pub(crate) fn files(&self, n: usize) -> Vec<PathBuf> {
        object_files(&self.disk(n))
    }

    /// Waits until the backends hold this many files each.
    #[track_caller]
    pub(crate) fn wait_files(&mut self, want: &[usize]) {
        let what = format!("the disks hold {want:?} files");
        let mut seen = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < self.patience {
            seen = (1..=want.len()).map(|n| self.files(n).len()).collect();
            if seen == want {
                return;
            }
            pause();
        }
        panic!("in vain: {what}, they hold {seen:?}\n{}", self.log_end());
    }

    fn close(&mut self) {
        if self.child.is_some() {
            self.stop();
        }
        if self.started {
            self.verify();
        }
        let log = self.log();
        assert!(!log.contains("panicked at"), "a panic in the log\n{}", self.log_end());
        if !self.expect_errors {
            let bad = log.lines().find(|line| line.contains("\"level\":\"ERROR\""));
            assert_eq!(bad, None, "an error in the log that nobody expected");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            if let Some(mut child) = self.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
            let _ = writeln!(std::io::stderr(), "---- log of the server\n{}", self.log_end());
        } else {
            self.close();
        }
    }
}

/// What a run of the command line left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `larder --config FILE ARGS` to its end, which must come within the deadline.
pub(crate) fn run_larder(config: &Path, args: &[&str]) -> Ran {
    run_to_end(Command::new(larder()), config, args, DEADLINE)
}

fn run_to_end(mut larder: Command, config: &Path, args: &[&str], patience: Duration) -> Ran {
    let out = tempfile::NamedTempFile::new().expect("a temporary file");
    let err = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut child = larder
        .arg("--config")
        .arg(config)
        .args(args)
        .stdin(Stdio::null())
        .stdout(out.reopen().expect("a file handle"))
        .stderr(err.reopen().expect("a file handle"))
        .spawn()
        .expect("the binary was built");
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            break status;
        }
        if begin.elapsed() > patience {
            let _ = child.kill();
            let _ = child.wait();
            panic!("`larder {}` did not end", args.join(" "));
        }
        pause();
    };
    let read =
        |file: &tempfile::NamedTempFile| fs::read_to_string(file.path()).expect("it writes UTF-8");
    Ran { code: status.code(), stdout: read(&out), stderr: read(&err) }
}

fn local_backend(dir: &Path, n: usize) -> Backend {
    let root = disk(dir, n);
    fs::create_dir_all(root.parent().expect("it has one")).expect("the folder is writable");
    Backend {
        name: format!("disk{n}"),
        service: "fs".into(),
        options: format!("root = {root:?}"),
        more: vec!["keep_free = \"1 MiB\"".into()],
    }
}

fn disk(dir: &Path, n: usize) -> PathBuf {
    dir.join(format!("mnt{n}")).join("larder")
}

pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The status of a plain GET; `None` when nobody answered.
pub(crate) fn get(addr: SocketAddr, path: &str) -> Option<u16> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    exchange(addr, head.as_bytes(), &[], false).ok().map(|response| response.status)
}

/// All files below `root` but Larder's own.
pub(crate) fn object_files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(root, &mut found);
    found.retain(|path| !path.starts_with(root.join(".larder")));
    found.sort();
    found
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    // A file may go while its folder is read.
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), found),
            Ok(_) => found.push(entry.path()),
            Err(_) => {}
        }
    }
}

/// Lets others run for a moment, between two looks at a condition.
pub(crate) fn pause() {
    thread::park_timeout(Duration::from_millis(10));
}

/// Waits for a condition that no process is part of (the benchmark's).
#[track_caller]
#[allow(dead_code)]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < DEADLINE, "in vain: {what}");
        pause();
    }
}

/// A port that nobody listens on, below those that the system hands out by itself.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 200) as u16 * 100;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 2000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn rand_bytes(into: &mut [u8]) {
    use ring::rand::SecureRandom;
    ring::rand::SystemRandom::new().fill(into).expect("the system has random numbers");
}

/// A generator whose seed is printed, so that a failing run can be repeated.
pub(crate) fn seeded(name: &str) -> Rng {
    let seed = std::env::var("LARDER_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let mut bytes = [0; 8];
        rand_bytes(&mut bytes);
        u64::from_le_bytes(bytes) >> 16
    });
    println!("{name}: LARDER_SEED={seed}");
    Rng::new(seed)
}
