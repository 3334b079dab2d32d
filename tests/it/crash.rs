//! `kill -9` at any moment under load loses nothing that was acknowledged and leaves nothing half.
//!
//! Each owner works alone on its own keys, so it always knows what they may hold: what was
//! acknowledged last, or what a request without an answer may have made of it. All owners also
//! write a few keys together; of those it is known that they hold one writer's whole object.
//!
//! `LARDER_CRASH_KILLS` says how often to kill, `LARDER_SEED` repeats a run's choices.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::content::{Rng, content, etag};
use crate::multipart::{abort, complete, part};
use crate::signer::S3;
use crate::wire::{Response, field};
use crate::world::{World, pause, seeded};

const BUCKET: &str = "crash";
const OWNERS: usize = 6;
const KEYS: usize = 8;
const SHARED: usize = 3;
const PART: usize = 5 << 20;
/// Kills of a plain `cargo test`.
const KILLS: usize = 10;

/// Which write an object came from: its bytes follow from this.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Write {
    key: String,
    n: u64,
    size: usize,
}

impl Write {
    fn body(&self) -> Vec<u8> {
        content(&self.key, self.n, self.size)
    }

    /// The headers that say which write this is.
    fn headers(&self) -> [(&'static str, String); 2] {
        [("x-amz-meta-key", self.key.clone()), ("x-amz-meta-n", self.n.to_string())]
    }
}

/// What one key may hold.
#[derive(Debug)]
struct Held {
    key: String,
    sure: Option<Write>,
    /// Outcomes of requests that had no answer.
    maybe: Vec<Option<Write>>,
}

/// An upload whose parts were acknowledged and which is still open.
#[derive(Debug)]
struct Open {
    at: usize,
    id: String,
    write: Write,
    parts: Vec<(u32, String)>,
}

struct Owner {
    s3: S3,
    rng: Rng,
    n: u64,
    held: Vec<Held>,
    open: Vec<Open>,
}

/// The server did not answer: it was killed.
struct Gone;

type Done = Result<(), Gone>;

impl Owner {
    fn new(s3: &S3, id: usize, seed: u64) -> Owner {
        let key = |k| Held { key: format!("owner{id}/k{k}"), sure: None, maybe: Vec::new() };
        Owner {
            s3: s3.clone(),
            rng: Rng::new(seed),
            n: 0,
            held: (0..KEYS).map(key).collect(),
            open: Vec::new(),
        }
    }

    /// Works until the server is gone.
    fn work(&mut self, stop: &AtomicBool, done: &AtomicUsize) {
        while !stop.load(Ordering::Relaxed) && self.step().is_ok() {
            done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn step(&mut self) -> Done {
        let at = self.rng.below(KEYS as u64) as usize;
        match self.rng.below(20) {
            0..=6 => self.put(at),
            7..=8 => self.delete(at),
            9 => self.delete_many(),
            10..=11 => self.copy(at),
            12..=13 => self.begin(at),
            14..=15 => self.complete(),
            16 => self.list(),
            17 => self.read(at),
            _ => self.put_shared(),
        }
    }

    fn next_write(&mut self, key: &str) -> Write {
        self.n += 1;
        let sizes = [0, 10, 1000, 60_000, 70_000, 300_000, 1_500_000];
        let size = *self.rng.pick(&sizes) + self.rng.below(100) as usize;
        Write { key: key.to_owned(), n: self.n, size }
    }

    /// Sends what turns the key into `into`; the answer decides what is known of it.
    fn change(
        &mut self,
        at: usize,
        into: Option<Write>,
        send: impl FnOnce(&S3) -> std::io::Result<Response>,
    ) -> Done {
        self.held[at].maybe.push(into.clone());
        let got = answer(send(&self.s3))?;
        let held = &mut self.held[at];
        match got.status {
            200..=299 => {
                held.sure = into;
                held.maybe.clear();
                Ok(())
            }
            // Refused, so it did nothing.
            404 => {
                held.maybe.pop();
                Ok(())
            }
            // It is stopping, or it does not know: neither does the client.
            500..=599 => Ok(()),
            _ => panic!("{held:?}: {}", got.short()),
        }
    }

    fn put(&mut self, at: usize) -> Done {
        let key = self.held[at].key.clone();
        let write = self.next_write(&key);
        self.change(at, Some(write.clone()), |s3| put(s3, &key, &write))
    }

    fn delete(&mut self, at: usize) -> Done {
        let key = self.held[at].key.clone();
        self.change(at, None, |s3| s3.delete(BUCKET, &key).try_send())
    }

    fn delete_many(&mut self) -> Done {
        let keys: Vec<String> = self.held[..3].iter().map(|held| held.key.clone()).collect();
        for held in &mut self.held[..3] {
            held.maybe.push(None);
        }
        let objects: String =
            keys.iter().map(|key| format!("<Object><Key>{key}</Key></Object>")).collect();
        let body = format!("<Delete><Quiet>true</Quiet>{objects}</Delete>");
        let request = self.s3.bucket("POST", BUCKET).query("delete").body(body).md5();
        let got = answer(request.try_send())?;
        if got.status == 200 && got.blocks("Error").is_empty() {
            for held in &mut self.held[..3] {
                held.sure = None;
                held.maybe.clear();
            }
        }
        Ok(())
    }

    /// Copies a key whose content is known onto this one.
    fn copy(&mut self, at: usize) -> Done {
        let from = self.rng.below(KEYS as u64) as usize;
        if from == at || !self.held[from].maybe.is_empty() || self.held[from].sure.is_none() {
            return Ok(());
        }
        let (source, key) = (self.held[from].key.clone(), self.held[at].key.clone());
        let write = self.held[from].sure.clone();
        self.change(at, write, |s3| s3.copy((BUCKET, &source), (BUCKET, &key)).try_send())
    }

    /// Begins an upload and sends its parts; it is completed later, maybe after a crash.
    fn begin(&mut self, at: usize) -> Done {
        let key = self.held[at].key.clone();
        let mut write = self.next_write(&key);
        if self.rng.below(3) == 0 {
            write.size += PART;
        }
        let mut request = self.s3.object("POST", BUCKET, &key).query("uploads");
        for (name, value) in write.headers() {
            request = request.header(name, &value);
        }
        let begun = answer(request.try_send())?;
        let Some(id) = begun.xml("UploadId") else { return Ok(()) };
        let mut parts = Vec::new();
        let body = write.body();
        for (n, piece) in
            (1..).zip(if body.is_empty() { vec![&body[..]] } else { body.chunks(PART).collect() })
        {
            let got = answer(part(&self.s3, (BUCKET, &key, &id), n, piece).try_send())?;
            if got.status != 200 {
                return Ok(());
            }
            parts.push((n, etag(piece)));
        }
        self.open.push(Open { at, id, write, parts });
        Ok(())
    }

    fn complete(&mut self) -> Done {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let key = self.held[open.at].key.clone();
        self.change(open.at, Some(open.write.clone()), |s3| {
            let got = complete(s3, (BUCKET, &key, &open.id), &open.parts).try_send()?;
            assert_ne!(got.status, 404, "acknowledged parts are gone: {}", got.short());
            Ok(got)
        })
    }

    fn list(&mut self) -> Done {
        let prefix = self.held[0].key.replace("k0", "");
        let request = self.s3.bucket("GET", BUCKET).query("list-type=2").param("prefix", &prefix);
        let got = answer(request.try_send())?;
        if got.status != 200 {
            return Ok(());
        }
        let listed: Vec<String> =
            got.blocks("Contents").iter().map(|block| field(block, "Key").unwrap()).collect();
        for held in self.held.iter().filter(|held| held.maybe.is_empty()) {
            assert_eq!(listed.contains(&held.key), held.sure.is_some(), "{held:?} in {listed:?}");
        }
        Ok(())
    }

    fn read(&mut self, at: usize) -> Done {
        let got = answer(self.s3.get(BUCKET, &self.held[at].key).try_send())?;
        if got.whole && matches!(got.status, 200 | 404) {
            let seen = which(&got);
            let held = &self.held[at];
            assert!(held.maybe.contains(&seen) || held.sure == seen, "{held:?} holds {seen:?}");
        }
        Ok(())
    }

    fn put_shared(&mut self) -> Done {
        let key = format!("shared/k{}", self.rng.below(SHARED as u64));
        // Write numbers of all owners differ, so that content tells the writer.
        let owner = self.held[0].key.clone();
        let mut write = self.next_write(&key);
        write.key = format!("{key} by {owner}");
        answer(put(&self.s3, &key, &write))?;
        Ok(())
    }

    /// After a restart: every key holds what it may hold, byte for byte.
    fn check(&mut self) {
        for held in &mut self.held {
            let got = self.s3.get(BUCKET, &held.key).send();
            assert!(matches!(got.status, 200 | 404), "{held:?}: {}", got.short());
            let seen = which(&got);
            assert!(
                held.sure == seen || held.maybe.contains(&seen),
                "{} should hold {:?} or one of {:?}, it holds {seen:?}",
                held.key,
                held.sure,
                held.maybe
            );
            held.sure = seen;
            held.maybe.clear();
        }
    }
}

fn put(s3: &S3, key: &str, write: &Write) -> std::io::Result<Response> {
    let mut request = s3.put(BUCKET, key, write.body());
    for (name, value) in write.headers() {
        request = request.header(name, &value);
    }
    request.try_send()
}

/// An answer, or that there is none.
fn answer(got: std::io::Result<Response>) -> Result<Response, Gone> {
    got.ok().filter(|got| got.status != 0 && got.whole).ok_or(Gone)
}

/// Which write an answer shows: its body must be that write's, to the last byte.
fn which(got: &Response) -> Option<Write> {
    if got.status == 404 {
        return None;
    }
    let n = got.must("x-amz-meta-n").parse().unwrap();
    let write = Write { key: got.must("x-amz-meta-key").to_owned(), n, size: got.body.len() };
    assert!(write.body() == got.body, "{write:?} came back with other bytes");
    Some(write)
}

#[test]
fn kills_lose_nothing_that_was_acknowledged() {
    let kills = std::env::var("LARDER_CRASH_KILLS").ok();
    let kills = kills.map_or(KILLS, |text| text.parse().expect("LARDER_CRASH_KILLS is a number"));
    let mut rng = seeded("kills_lose_nothing_that_was_acknowledged");
    let mut world = World::with(2, |config| {
        config.defaults.push("replicas = 2\nmin_replicas = 1\nblob_max_size = \"1 MiB\"".into());
        for backend in &mut config.backends {
            backend.more.push("quota = \"20 GiB\"".into());
        }
    });
    let s3 = world.s3();
    s3.create_bucket(BUCKET);
    let mut owners: Vec<Owner> = (0..OWNERS).map(|id| Owner::new(&s3, id, rng.next())).collect();
    let done = AtomicUsize::new(0);
    for kill in 1..=kills {
        let stop = AtomicBool::new(false);
        let least = done.load(Ordering::Relaxed) + rng.below(60) as usize;
        let after = Duration::from_millis(rng.below(700));
        thread::scope(|scope| {
            for owner in &mut owners {
                let (stop, done) = (&stop, &done);
                scope.spawn(move || owner.work(stop, done));
            }
            // Some work must have been done, so that there is something to lose.
            let begin = Instant::now();
            world.wait("the load makes progress", |_| {
                done.load(Ordering::Relaxed) >= least && begin.elapsed() >= after
            });
            world.kill();
            stop.store(true, Ordering::Relaxed);
        });
        world.verify();
        world.start();
        // The reaper settles what the killed one left behind.
        world.wait("no byte is reserved", |world| reserved(world).iter().all(|&bytes| bytes == 0));
        owners.iter_mut().for_each(Owner::check);
        check_shared(&s3);
        if kill % 5 == 0 {
            world.stop();
            world.verify();
            world.start();
        }
    }
    println!("{kills} kills, {} requests acknowledged", done.load(Ordering::Relaxed));
    nothing_is_left(&mut world, &s3);
}

fn check_shared(s3: &S3) {
    for k in 0..SHARED {
        let key = format!("shared/k{k}");
        let got = s3.get(BUCKET, &key).send();
        assert!(matches!(got.status, 200 | 404), "{key}: {}", got.short());
        if let Some(write) = which(&got) {
            assert!(write.key.starts_with(&key), "{key} holds {write:?}");
        }
    }
}

/// The bytes that each backend has reserved, as the command line tells it.
#[track_caller]
fn reserved(world: &World) -> Vec<u64> {
    let ran = world.run(&["backend", "list", "--json"]);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.code, Some(0), "{said}");
    let list: serde_json::Value = serde_json::from_str(&ran.stdout).expect(&said);
    let mut reserved = Vec::new();
    find_reserved(&list, &mut reserved);
    assert_eq!(reserved.len(), world.config.backends.len(), "{said}");
    reserved.iter().map(|value| value.as_u64().expect(&said)).collect()
}

fn find_reserved(value: &serde_json::Value, found: &mut Vec<serde_json::Value>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                if name.starts_with("reserved") {
                    found.push(value.clone());
                }
                find_reserved(value, found);
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| find_reserved(value, found)),
        _ => {}
    }
}

/// Deletes everything: then no file is left either, of no run.
fn nothing_is_left(world: &mut World, s3: &S3) {
    loop {
        let uploads = s3.bucket("GET", BUCKET).query("uploads").send().expect(200);
        for upload in uploads.blocks("Upload") {
            let (key, id) = (field(&upload, "Key").unwrap(), field(&upload, "UploadId").unwrap());
            abort(s3, (BUCKET, &key, &id)).send().expect(204);
        }
        if uploads.xml("IsTruncated").as_deref() != Some("true") {
            break;
        }
    }
    let list = s3.bucket("GET", BUCKET).query("list-type=2").send().expect(200);
    for entry in list.blocks("Contents") {
        s3.delete(BUCKET, &field(&entry, "Key").unwrap()).send().expect(204);
    }
    world.wait_files(&[0, 0]);
    s3.bucket("DELETE", BUCKET).send().expect(204);
}

#[test]
fn a_stop_in_good_order_lets_requests_finish() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket(BUCKET);
    let done = AtomicUsize::new(0);
    let mut owners: Vec<Owner> = (0..4).map(|id| Owner::new(&s3, id, id as u64)).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for owner in &mut owners {
            let (stop, done) = (&stop, &done);
            scope.spawn(move || owner.work(stop, done));
        }
        world.wait("the load makes progress", |_| done.load(Ordering::Relaxed) >= 40);
        world.stop();
        stop.store(true, Ordering::Relaxed);
    });
    world.verify();
    world.start();
    owners.iter_mut().for_each(Owner::check);
}

#[test]
fn a_large_upload_finishes_while_the_server_stops() {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket(BUCKET);
    let body = content("large", 1, 32 << 20);
    let got = thread::scope(|scope| {
        let put = scope.spawn(|| s3.put(BUCKET, "large", body.clone()).try_send());
        let disk = world.disk(1);
        world.wait("its first bytes are on the disk", |world| {
            put.is_finished() || !world.files(1).is_empty() || disk_in_use(&disk)
        });
        world.stop();
        put.join().unwrap()
    });
    world.start();
    let there = world.s3().get(BUCKET, "large").send();
    if got.is_ok_and(|got| got.status == 200) {
        assert!(there.expect(200).body == body);
    } else if there.status == 200 {
        assert!(there.body == body);
    }
}

/// Whether anything beside Larder's own files lies below `disk`, finished or not.
fn disk_in_use(disk: &std::path::Path) -> bool {
    pause();
    std::fs::read_dir(disk)
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name() != ".larder"))
}
