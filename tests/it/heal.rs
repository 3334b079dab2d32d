//! Damage behind the back of a running Larder, over two directories and a real S3 server: it comes
//! back by itself to what its owner asked for, and its commands show how.
//!
//! Nothing is believed of it that only it says: besides what `larder object show` and `verify` tell,
//! every object is read back byte for byte, and the files on the backends are exactly those that the
//! rows name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::content::content;
use crate::other_s3::OtherS3;
use crate::world::{Config, Ran, World, object_files, pause};

pub(crate) const BUCKET: &str = "kept";
const MIB: usize = 1 << 20;
/// Nothing, short, one blob, four blobs.
const SIZES: [usize; 4] = [0, 100, 70_000, 3 * MIB + 11];
/// What may be written to a backend, so that work takes its time.
pub(crate) const PACE: &str = "bandwidth = { up = [\"2 MiB/s\"] }";
/// Generous: debug builds of many worlds share the machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// A breaker that opens and closes soon.
const SOON: &str = "[breaker]\nfailures = 3\nopen = \"1 s\"\nprobe_timeout = \"5 s\"\n\
                    [timeouts]\nconnect = \"1 s\"\nfirst_byte = \"5 s\"\nstall = \"10 s\"\n";

/// A Larder over `disk1`, the S3 server `cloud` and `disk2`, which are filled in this order.
pub(crate) struct Healing {
    pub(crate) world: World,
    pub(crate) cloud: OtherS3,
    /// What was acknowledged: keys and sizes.
    pub(crate) objects: BTreeMap<String, usize>,
    /// How many replicas of each there should be.
    replicas: usize,
    /// The first directory, as it is seen from here.
    disk1: PathBuf,
}

impl Healing {
    pub(crate) fn new(change: impl FnOnce(&mut Config)) -> Healing {
        let mut healing = Healing::cold(change);
        healing.start();
        healing
    }

    /// Not started yet.
    fn cold(change: impl FnOnce(&mut Config)) -> Healing {
        let cloud = OtherS3::start();
        let mut world = World::cold(2);
        world.expect_errors();
        let wishes = "replicas = 2\nmin_replicas = 1\nblob_max_size = \"1 MiB\"";
        world.config.defaults.push(wishes.into());
        world.config.backends.insert(1, cloud.backend("cloud"));
        world.config.more = SOON.into();
        change(&mut world.config);
        let disk1 = world.disk(1);
        Healing { world, cloud, objects: BTreeMap::new(), replicas: 2, disk1 }
    }

    fn start(&mut self) {
        self.world.start();
        self.world.s3().create_bucket(BUCKET);
    }

    /// What a command that succeeds says with `--json`.
    #[track_caller]
    pub(crate) fn said(&self, args: &[&str]) -> Value {
        let ran = self.ran(args);
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}\n{}", self.world.log_end());
        serde_json::from_str(&ran.stdout).expect(&ran.stdout)
    }

    pub(crate) fn ran(&self, args: &[&str]) -> Ran {
        self.world.run(&[args, &["--json"]].concat())
    }

    /// The entry of a list that is about `name`.
    #[track_caller]
    pub(crate) fn one(&self, args: &[&str], name: &str) -> Value {
        let list = self.said(args);
        let list = list.as_array().expect("a list");
        list.iter().find(|one| one["name"] == name).expect("it is there").clone()
    }

    /// How many replicas all objects shall have; none is there yet.
    #[track_caller]
    pub(crate) fn wish(&mut self, replicas: usize) {
        self.replicas = replicas;
        self.said(&["bucket", "set", BUCKET, "--replicas", &replicas.to_string()]);
    }

    /// One object of each size.
    #[track_caller]
    pub(crate) fn put_all(&mut self, prefix: &str) {
        for size in SIZES {
            self.put(&format!("{prefix}/{size}"), size);
        }
    }

    #[track_caller]
    pub(crate) fn put(&mut self, key: &str, size: usize) {
        self.world.s3().put(BUCKET, key, content(key, 0, size)).send().expect(200);
        self.objects.insert(key.into(), size);
    }

    #[track_caller]
    pub(crate) fn delete(&mut self, key: &str) {
        self.world.s3().delete(BUCKET, key).send().expect(204);
        self.objects.remove(key);
    }

    /// Every object whole, byte for byte.
    #[track_caller]
    pub(crate) fn all_read(&self) {
        for (key, &size) in &self.objects {
            assert!(self.world.s3().read(BUCKET, key) == content(key, 0, size), "{key}");
        }
    }

    /// What `object show` says of its blobs.
    #[track_caller]
    pub(crate) fn blobs_of(&self, key: &str) -> Vec<Value> {
        let object = self.said(&["object", "show", BUCKET, key]);
        object["blobs"].as_array().expect("a list").clone()
    }

    fn root(&self, backend: &str) -> PathBuf {
        match backend {
            "cloud" => self.cloud.root(),
            "disk1" => self.disk1.clone(),
            "disk2" => self.world.disk(2),
            other => panic!("no backend is called {other}"),
        }
    }

    pub(crate) fn files(&self, backend: &str) -> Vec<PathBuf> {
        object_files(&self.root(backend))
    }

    /// Waits until every blob has what it should have, by all that the commands say.
    #[track_caller]
    pub(crate) fn heals(&self, why: &str) {
        let mut sick: Vec<&String> = self.objects.keys().collect();
        self.until_nothing(why, || {
            while let Some(key) = sick.last() {
                if let Some(blob) = self.blobs_of(key).iter().find(|blob| !is_well(blob)) {
                    return Some(format!("{key} is not well: {blob}"));
                }
                sick.pop();
            }
            None
        });
    }

    /// Waits until nothing is left to do: every replica that is wished is there, was read and has
    /// the right bytes, and no file lies beside them. Reads all objects back.
    #[track_caller]
    pub(crate) fn is_whole(&self, why: &str) {
        self.all_read();
        let blobs = self.objects.values().map(|size| size.div_ceil(MIB)).sum::<usize>();
        let wanted = blobs * self.replicas;
        self.until_nothing(why, || {
            let files = self.world.config.backends.iter().map(|one| self.files(&one.name).len());
            let files: usize = files.sum();
            if files != wanted {
                let queue = self.said(&["cleanup", "list", "--all"]);
                return Some(format!("{files} files, there should be {wanted}\n{queue}"));
            }
            let ran = self.ran(&["verify", "--backends", "--read"]);
            let found: Value = serde_json::from_str(&ran.stdout).expect(&ran.stdout);
            let is_right = found["replicas"] == wanted && found["debris"] == 0;
            let is_well = found["clean"] == true && is_right && found["foreign"] == 0;
            (!is_well).then(|| format!("{wanted} replicas should be there: {ran:?}"))
        });
    }

    /// Waits until `wrong` says nothing more.
    #[track_caller]
    pub(crate) fn until_nothing(&self, why: &str, mut wrong: impl FnMut() -> Option<String>) {
        let begin = Instant::now();
        while let Some(text) = wrong() {
            let log = || self.world.log_end();
            assert!(begin.elapsed() < PATIENCE, "in vain: {why}: {text}\n{}", log());
            pause();
        }
    }

    /// Takes a backend that was removed out of the configuration of the running server.
    #[track_caller]
    pub(crate) fn leaves_out(&mut self, name: &str) {
        self.world.config.backends.retain(|backend| backend.name != name);
        self.world.replace_config();
        self.until_nothing(&format!("{name} is not listed any more"), || {
            let list = self.said(&["backend", "list"]).to_string();
            list.contains(&format!("\"{name}\"")).then_some(list)
        });
    }

    /// Waits until the list of backends says this of the server's breaker.
    #[track_caller]
    fn breaker_is(&self, state: &str) {
        self.until_nothing(&format!("its breaker is {state}"), || {
            let cloud = self.one(&["backend", "list"], "cloud");
            (cloud["breaker"]["state"] != state).then(|| cloud.to_string())
        });
    }

    /// A full pass, which must not fail.
    #[track_caller]
    pub(crate) fn pass(&self, worker: &str) -> Value {
        self.said(&["worker", "run", worker, "--wait"])
    }
}

fn is_well(blob: &Value) -> bool {
    let replicas = blob["replicas"].as_array().expect("a list");
    blob["deficit"] == 0
        && blob["why"].is_null()
        && replicas.len() as u64 == blob["replicas_wished"]
        && replicas.iter().all(|replica| replica["state"] == "good" && replica["present"] == true)
}

#[test]
fn files_deleted_behind_its_back_are_made_anew() {
    let mut kept = Healing::new(|_| ());
    kept.put_all("a");
    kept.is_whole("at first");
    let files = kept.files("disk1");
    assert_eq!((files.len(), kept.files("cloud").len()), (6, 6));
    files.iter().for_each(|file| fs::remove_file(file).unwrap());
    // The readers find it out.
    kept.all_read();
    kept.heals("what was deleted on the disk is made anew");
    kept.is_whole("what was deleted on the disk is made anew");
    assert_eq!((kept.files("disk1").len(), kept.files("cloud").len()), (6, 6));
    let again = kept.files("disk1");
    assert!(files.iter().all(|file| !again.contains(file)), "a path is used once");
    let replicator = kept.one(&["worker", "list"], "replicator");
    assert_eq!((&replicator["processed"], &replicator["failed"]), (&json!(6), &json!(0)));
}

#[test]
fn bytes_flipped_behind_its_back_are_repaired_and_the_bad_files_deleted() {
    let mut kept = Healing::new(|_| ());
    kept.put_all("a");
    kept.is_whole("at first");
    let files = kept.files("disk1");
    for (n, file) in files.iter().enumerate() {
        let mut bytes = fs::read(file).unwrap();
        let at = bytes.len() * 3 / 4;
        match n % 2 {
            0 => bytes[at] ^= 1,
            _ => bytes.truncate(at),
        }
        fs::write(file, bytes).unwrap();
    }
    kept.all_read();
    kept.heals("what was damaged on the disk is made anew");
    kept.is_whole("what was damaged on the disk is made anew");
    assert!(files.iter().all(|file| !file.exists()), "the bad ones are gone");
    assert_eq!((kept.files("disk1").len(), kept.files("cloud").len()), (6, 6));
}

#[test]
fn what_no_reader_meets_the_reconciler_finds() {
    let mut kept = Healing::new(|_| ());
    kept.put_all("a");
    kept.is_whole("at first");
    // Readers take the disk, so nobody misses these; and a longer one is right as far as it is read.
    kept.files("cloud").iter().for_each(|file| fs::remove_file(file).unwrap());
    let is_70000 = |file: &PathBuf| file.to_string_lossy().contains("/70000~");
    let longer = kept.files("disk1").into_iter().find(is_70000).unwrap();
    fs::write(&longer, [&fs::read(&longer).unwrap()[..], b"more"].concat()).unwrap();
    kept.all_read();
    assert_eq!(kept.ran(&["verify", "--backends"]).code, Some(1));
    let found = kept.said(&["reconcile"]);
    // The replicator is woken by what is found first, and may meet the next before.
    let removed = found["counts"]["removed"].as_u64();
    assert!(removed == Some(5) || removed == Some(6), "{found}");
    assert_eq!(found["counts"]["damaged"], 1, "{found}");
    kept.heals("it was reconciled");
    kept.is_whole("it was reconciled");
    assert!(!longer.exists());
    assert_eq!(kept.said(&["reconcile"])["counts"], json!({ "backends": 3 }));
}

/// Flips one bit of a file.
pub(crate) fn rot(file: &PathBuf) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// What `larder scrub` says, and whether all was well.
#[track_caller]
pub(crate) fn scrub(kept: &Healing) -> (Value, bool) {
    let ran = kept.ran(&["scrub"]);
    (serde_json::from_str(&ran.stdout).expect(&ran.stdout), ran.code == Some(0))
}

#[test]
fn rot_that_no_reader_meets_the_scrubber_finds() {
    let mut kept = Healing::new(|_| ());
    kept.put_all("a");
    kept.is_whole("at first");
    // Readers take the disk.
    let rotten = kept.files("cloud");
    rotten.iter().for_each(rot);
    kept.all_read();
    let (found, is_well) = scrub(&kept);
    let broken = found["broken"].as_array().expect("a list");
    assert_eq!((broken.len(), is_well), (6, false), "{found}");
    for one in broken {
        let said = (&one["backend"], &one["state"], &one["alone"]);
        assert_eq!(said, (&json!("cloud"), &json!("damaged"), &json!(false)), "{found}");
    }
    kept.heals("it was scrubbed");
    kept.is_whole("it was scrubbed");
    assert!(rotten.iter().all(|file| !file.exists()), "the bad ones are gone");
    let (found, is_well) = scrub(&kept);
    assert!(is_well && found["broken"] == json!([]), "{found}");
}

#[test]
fn rot_of_the_only_copy_is_told_and_the_copy_kept() {
    let mut kept = Healing::new(|_| ());
    kept.wish(1);
    kept.put("only", 70_000);
    let only = kept.files("disk1").remove(0);
    rot(&only);
    for _ in 0..2 {
        let (found, is_well) = scrub(&kept);
        let one = &found["broken"][0];
        let said = (&one["alone"], &one["key"], is_well);
        assert_eq!(said, (&json!(true), &json!("only"), false), "{found}");
    }
    let blob = &kept.blobs_of("only")[0];
    let said = (&blob["good"], &blob["replicas"][0]["state"]);
    assert_eq!(said, (&json!(0), &json!("damaged")), "{blob}");
    assert!(blob["why"].is_string(), "{blob}");
    let got = kept.world.s3().get(BUCKET, "only").send();
    got.expect_error(503, "ServiceUnavailable");
    kept.pass("cleanup");
    assert!(only.exists(), "it may be worth something to its owner");
    // Who has the right bytes puts them back.
    fs::write(&only, content("only", 0, 70_000)).unwrap();
    let (found, is_well) = scrub(&kept);
    assert!(is_well, "{found}");
    kept.heals("it is right again");
    kept.is_whole("it is right again");
}

#[test]
fn files_that_no_row_knows_are_deleted_after_a_week_and_those_of_others_never() {
    let mut kept = Healing::new(|_| ());
    kept.put_all("a");
    kept.is_whole("at first");
    let known = kept.files("disk1").remove(0);
    let mut name = known.file_name().unwrap().to_string_lossy().into_owned();
    let last = if name.pop() == Some('0') { '1' } else { '0' };
    let (unknown, note) =
        (known.with_file_name(format!("{name}{last}")), known.with_file_name("n"));
    fs::copy(&known, &unknown).unwrap();
    fs::write(&note, "somebody else's").unwrap();
    let seen = kept.said(&["verify", "--backends"]);
    assert_eq!((&seen["debris"], &seen["foreign"]), (&json!(1), &json!(1)));
    let found = kept.said(&["reconcile"]);
    let counts = json!({ "backends": 3, "debris": 1, "skipped": 1 });
    assert_eq!(found["counts"], counts);
    let queue = kept.said(&["cleanup", "list", "--all"]);
    let items = queue["items"].as_array().expect("a list");
    assert_eq!((items.len(), &items[0]["reason"]), (1, &json!("debris")), "{queue}");
    assert!(unknown.ends_with(items[0]["path"].as_str().expect("a text")), "{queue}");
    // Not even a full pass is in a hurry.
    assert_eq!(kept.pass("cleanup")["processed"], 0);
    assert!(unknown.exists() && note.exists());
    fs::remove_file(unknown).unwrap();
    fs::remove_file(note).unwrap();
    kept.is_whole("they are gone");
}

#[test]
fn what_a_server_missed_while_it_was_stopped_is_made_up_when_it_is_back() {
    let mut kept = Healing::new(|_| ());
    kept.wish(3);
    for prefix in ["kept", "deleted", "overwritten"] {
        kept.put_all(prefix);
    }
    kept.is_whole("at first");
    let before: BTreeSet<PathBuf> = kept.files("cloud").into_iter().collect();
    assert_eq!(before.len(), 18);
    kept.cloud.stop();
    // Writes go on with the rest.
    kept.put_all("new");
    for size in SIZES {
        kept.delete(&format!("deleted/{size}"));
    }
    kept.put_all("overwritten");
    kept.all_read();
    kept.breaker_is("open");
    let short = &kept.blobs_of("new/70000")[0];
    assert_eq!((&short["good"], &short["deficit"]), (&json!(2), &json!(1)), "{short}");
    assert!(short["why"].as_str().is_some_and(|why| why.contains("2 of 3")), "{short}");
    let after: BTreeSet<PathBuf> = kept.files("cloud").into_iter().collect();
    assert_eq!(after, before, "it is stopped");
    kept.world.kill();
    kept.world.verify();
    kept.world.start();
    kept.all_read();
    kept.put("without the server", 100_000);
    kept.cloud.start_again();
    kept.breaker_is("closed");
    // What failed once waits for minutes; a full pass does not.
    kept.pass("replicator");
    kept.heals("the server is back");
    kept.until_nothing("it is seen again", || {
        let cloud = kept.one(&["backend", "list"], "cloud");
        (cloud["state"] != "present").then(|| cloud.to_string())
    });
    kept.pass("cleanup");
    kept.is_whole("the server is back");
    assert_eq!(kept.files("cloud").len(), 19, "three times six blobs, and one more");
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_full_directory_could_not_take_it_gets_when_there_is_room() {
    use crate::small_disk::fill;
    if !crate::mounts::may_mount() {
        return;
    }
    let mut kept = Healing::cold(|_| ());
    let mount = kept.world.disk(1).parent().unwrap().to_owned();
    kept.world.small_disk(&mount, 64);
    kept.disk1 = kept.world.inside(&kept.world.disk(1));
    kept.start();
    kept.wish(3);
    kept.put_all("before");
    kept.is_whole("at first");
    let filler = kept.world.inside(&mount).join("filler");
    fill(&filler, 0);
    kept.put_all("new");
    for size in SIZES {
        kept.delete(&format!("before/{size}"));
    }
    kept.until_nothing("what was deleted is gone from the full disk", || {
        let files = kept.files("disk1");
        (!files.is_empty()).then(|| format!("{files:?}"))
    });
    // What became free is taken at once.
    fill(&filler, 0);
    kept.all_read();
    let counts = ["disk1", "cloud", "disk2"].map(|name| kept.files(name).len());
    assert_eq!(counts, [0, 6, 6], "they are written where there is room");
    kept.until_nothing("it is known what waits", || {
        let replicator = kept.one(&["worker", "list"], "replicator");
        (replicator["backlog"] != 6).then(|| replicator.to_string())
    });
    for blob in kept.objects.keys().flat_map(|key| kept.blobs_of(key)) {
        assert_eq!((&blob["good"], &blob["deficit"]), (&json!(2), &json!(1)), "{blob}");
        assert!(blob["why"].as_str().is_some_and(|why| why.contains("2 of 3")), "{blob}");
    }
    kept.world.kill();
    kept.world.start();
    kept.all_read();
    fs::remove_file(filler).unwrap();
    // How much room there is is looked up once a second.
    let mut created = 0;
    kept.until_nothing("all of them are made", || {
        let pass = kept.pass("replicator");
        created += pass["processed"].as_u64().expect("a number");
        (pass["backlog"] != 0).then(|| pass.to_string())
    });
    assert_eq!(created, 6);
    kept.heals("there is room again");
    kept.is_whole("there is room again");
    assert_eq!(kept.files("disk1").len(), 6);
}
