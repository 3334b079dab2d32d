//! A real S3 server of another make, in this process.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;

use crate::signer::{Creds, S3};
use crate::world::{Backend, Key, free_port, local, object_files, pause};

/// An endpoint with one bucket, for Larder to keep bytes in.
pub(crate) struct OtherS3 {
    /// Ends the server when it goes.
    runtime: Option<tokio::runtime::Runtime>,
    service: s3s::service::S3Service,
    hang: watch::Sender<bool>,
    seen: Arc<AtomicU64>,
    dir: TempDir,
    pub(crate) port: u16,
    pub(crate) creds: Creds,
}

impl OtherS3 {
    pub(crate) const BUCKET: &str = "warehouse";

    pub(crate) fn start() -> OtherS3 {
        let dir = TempDir::with_prefix("larder-s3-").expect("a temporary folder");
        fs::create_dir(dir.path().join(Self::BUCKET)).expect("the folder is writable");
        let creds = Key::random().creds;
        let files = s3s_fs::FileSystem::new(dir.path()).expect("the folder is there");
        let mut service = s3s::service::S3ServiceBuilder::new(files);
        let secret = creds.secret.clone();
        service.set_auth(s3s::auth::SimpleAuth::from_single(creds.id.clone(), secret));
        let mut other = OtherS3 {
            runtime: None,
            service: service.build(),
            hang: watch::Sender::new(false),
            seen: Arc::default(),
            dir,
            port: free_port(),
            creds,
        };
        other.start_again();
        other
    }

    /// Listens on its port, which it did not before.
    pub(crate) fn start_again(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)))
            .expect("a free port");
        let (service, hang, seen) =
            (self.service.clone(), self.hang.subscribe(), Arc::clone(&self.seen));
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (service, hang, seen) = (service.clone(), hang.clone(), Arc::clone(&seen));
                let service = hyper::service::service_fn(move |request| {
                    seen.fetch_add(1, Ordering::AcqRel);
                    let (service, mut hang) = (service.clone(), hang.clone());
                    async move {
                        drop(hang.wait_for(|hangs| !hangs).await);
                        hyper::service::Service::call(&service, request).await
                    }
                });
                tokio::spawn(async move {
                    let executor = hyper_util::rt::TokioExecutor::new();
                    let http = hyper_util::server::conn::auto::Builder::new(executor);
                    let socket = hyper_util::rt::TokioIo::new(socket);
                    let _ = http.serve_connection(socket, service).await;
                });
            }
        });
        self.runtime = Some(runtime);
    }

    /// Nobody listens any more, and every connection is cut.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(20));
        }
    }

    /// It takes requests and answers none, or answers again.
    pub(crate) fn hang(&self, hang: bool) {
        self.hang.send_replace(hang);
    }

    /// Requests that have reached it.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    pub(crate) fn backend(&self, name: &str) -> Backend {
        self.backend_at(name, self.port)
    }

    /// The same, reached by another port.
    pub(crate) fn backend_at(&self, name: &str, port: u16) -> Backend {
        let options = format!(
            "endpoint = \"http://127.0.0.1:{}\", bucket = \"{}\", region = \"us-east-1\", \
             access_key_id = \"{}\", secret_access_key = \"{}\", root = \"/larder\"",
            port,
            Self::BUCKET,
            self.creds.id,
            self.creds.secret
        );
        Backend { name: name.into(), service: "s3".into(), options, more: Vec::new() }
    }

    pub(crate) fn s3(&self) -> S3 {
        S3 { addr: local(self.port), creds: self.creds.clone(), region: "us-east-1".into() }
    }

    /// The files in the bucket that hold bytes of objects.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        object_files(&self.root())
    }

    /// Where Larder's paths begin.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join(Self::BUCKET).join("larder")
    }
}

/// A wire that can be cut: it passes bytes on to a port until it is told to hang.
pub(crate) struct Wire {
    pub(crate) port: u16,
    hang: Arc<AtomicBool>,
}

impl Wire {
    pub(crate) fn to(port: u16) -> Wire {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let own = listener.local_addr().expect("it is bound").port();
        let hang = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&hang);
        thread::spawn(move || {
            for from in listener.incoming().flatten() {
                let Ok(to) = TcpStream::connect(local(port)) else { continue };
                for (from, to) in [(&from, &to), (&to, &from)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                    let flag = Arc::clone(&flag);
                    thread::spawn(move || pass(from, to, &flag));
                }
            }
        });
        Wire { port: own, hang }
    }

    /// From now on nothing passes, and nobody is told.
    pub(crate) fn hang(&self, hang: bool) {
        self.hang.store(hang, Ordering::Release);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, hang: &AtomicBool) {
    let mut piece = [0; 64 << 10];
    while let Ok(n) = from.read(&mut piece) {
        while hang.load(Ordering::Acquire) {
            pause();
        }
        if n == 0 || to.write_all(&piece[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
