//! What the machine can do without Larder.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use md5::Digest;

use crate::Options;
use crate::content::content;
use crate::load::Ready;
use crate::table::Table;
use crate::world::{free_port, get, local, until};

/// MD5 and BLAKE3 on one thread, in pieces of the size that a cache holds.
pub(crate) fn hashes(options: &Options, table: &mut Table) {
    let piece = content("hash", 0, 256 << 10);
    for _ in 0..options.rounds {
        let md5 = speed(
            || {
                std::hint::black_box(md5::Md5::digest(&piece));
            },
            piece.len(),
        );
        table.add("MD5, one thread", md5, "MiB/s");
        let blake3 = speed(
            || {
                std::hint::black_box(blake3::hash(&piece));
            },
            piece.len(),
        );
        table.add("BLAKE3, one thread", blake3, "MiB/s");
    }
}

/// MiB a second of `work` on `bytes`.
fn speed(work: impl Fn(), bytes: usize) -> f64 {
    let begin = Instant::now();
    let mut times = 0_u32;
    while begin.elapsed() < Duration::from_millis(500) {
        work();
        times += 1;
    }
    f64::from(times) * bytes as f64 / f64::from(1 << 20) / begin.elapsed().as_secs_f64()
}

/// Files a second that `threads` can write durably: a temporary name, the file synced, renamed,
/// its directory synced.
pub(crate) fn durable_writes(dir: &Path, threads: usize, size: usize, span: Duration) -> f64 {
    fs::create_dir(dir).expect("the folder is writable");
    let body = content("raw", 0, size);
    let begin = Instant::now();
    let written: usize = thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|thread| {
                let body = &body;
                scope.spawn(move || {
                    let mut n = 0;
                    while begin.elapsed() < span {
                        write_durably(dir, &format!("{thread}-{n}"), body);
                        n += 1;
                    }
                    n
                })
            })
            .collect();
        all.into_iter().map(|one| one.join().expect("no write fails")).sum()
    });
    written as f64 / begin.elapsed().as_secs_f64()
}

fn write_durably(dir: &Path, name: &str, body: &[u8]) {
    let temporary = dir.join(format!("{name}.new"));
    let mut file = fs::File::create(&temporary).expect("the folder is writable");
    file.write_all(body).expect("the disk has room");
    file.sync_all().expect("the disk syncs");
    fs::rename(temporary, dir.join(name)).expect("the folder is writable");
    fs::File::open(dir).and_then(|dir| dir.sync_all()).expect("the folder syncs");
}

/// The seconds of one large durable write.
pub(crate) fn large_write(path: &PathBuf, piece: &[u8], size: u64) -> f64 {
    let begin = Instant::now();
    let mut file = fs::File::create(path).expect("the folder is writable");
    for _ in 0..size / piece.len() as u64 {
        file.write_all(piece).expect("the disk has room");
    }
    file.sync_all().expect("the disk syncs");
    let taken = begin.elapsed().as_secs_f64();
    fs::remove_file(path).expect("it was just made");
    taken
}

/// nginx over files of the same size, where it is installed.
pub(crate) struct Nginx {
    child: Child,
    pub(crate) addr: SocketAddr,
    files: usize,
}

impl Nginx {
    pub(crate) fn start(dir: &Path, files: usize, size: usize) -> Option<Nginx> {
        let dir = dir.join("nginx");
        fs::create_dir_all(dir.join("files")).expect("the folder is writable");
        for n in 0..files {
            fs::write(dir.join("files").join(n.to_string()), content("nginx", n as u64, size))
                .expect("the disk has room");
        }
        let port = free_port();
        let place = dir.display();
        let config = format!(
            "daemon off;\nworker_processes auto;\npid {place}/pid;\nerror_log {place}/errors;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; sendfile on; keepalive_requests 100000000;\n\
             client_body_temp_path {place}/t1; proxy_temp_path {place}/t2; fastcgi_temp_path {place}/t3;\n\
             uwsgi_temp_path {place}/t4; scgi_temp_path {place}/t5;\n\
             server {{ listen 127.0.0.1:{port}; root {place}/files; }} }}\n"
        );
        let file = dir.join("nginx.conf");
        fs::write(&file, config).expect("the folder is writable");
        let child = Command::new("nginx")
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let nginx = Nginx { child, addr: local(port), files };
        until("nginx answers", || get(nginx.addr, "/0") == Some(200));
        Some(nginx)
    }

    pub(crate) fn requests(&self) -> Vec<Ready> {
        (0..self.files)
            .map(|n| {
                let head = format!("GET /{n} HTTP/1.1\r\nhost: {}\r\n\r\n", self.addr);
                Ready { head: head.into_bytes(), body: Vec::new() }
            })
            .collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its master ends the workers on this signal, not on a kill.
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
