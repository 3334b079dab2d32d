//! Few large requests: whole objects and multipart uploads.

use std::thread;
use std::time::Instant;

use crate::Options;
use crate::content::content;
use crate::load::{Connection, Ready, peak_mib};
use crate::signer::{S3, UNSIGNED};
use crate::table::Table;
use crate::world::World;
use crate::yardstick;

const MIB: usize = 1 << 20;
const CLIENTS: usize = 8;
const PART: usize = 8 * MIB;
const PARTS: u32 = 8;

/// PUT and GET of one large object, and the memory that they take.
pub(crate) fn objects(options: &Options, table: &mut Table) {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("bench");
    let piece = content("large", 0, MIB);
    let size = options.big << 30;
    let mib = (size / MIB as u64) as f64;
    let (put, get) = (format!("PUT of {} GiB", options.big), format!("GET of {} GiB", options.big));
    for round in 0..options.rounds {
        let idle = world.resident_kib().unwrap_or(0) as f64 / 1024.0;
        let (taken, peak) =
            peak_mib(|| world.resident_kib(), || put_large(&s3, "large", &piece, size));
        table.add(&put, mib / taken, "MiB/s");
        table.add(&format!("resident above idle, {put}"), peak - idle, "MiB");
        let (taken, peak) = peak_mib(|| world.resident_kib(), || get_large(&s3, size));
        table.add(&get, mib / taken, "MiB/s");
        table.add(&format!("resident above idle, {get}"), peak - idle, "MiB");
        let raw = world.dir().join(format!("raw-{round}"));
        table.add(
            "raw write + fsync, large",
            mib / yardstick::large_write(&raw, &piece, size),
            "MiB/s",
        );
        s3.delete("bench", "large").send().expect(204);
    }
    table.ratio("PUT of raw write", &put, "raw write + fsync, large");
    table.ratio("PUT of MD5", &put, "MD5, one thread");
}

/// The seconds that it took.
pub(crate) fn put_large(s3: &S3, key: &str, piece: &[u8], size: u64) -> f64 {
    let request = s3.put("bench", key, "").sha256(UNSIGNED).content_length(size);
    let mut connection = Connection::open(s3.addr);
    let begin = Instant::now();
    connection.send(&[&Ready::new(&request).head]);
    for _ in 0..size / piece.len() as u64 {
        connection.send(&[piece]);
    }
    assert_eq!(connection.answer(false).0, 200);
    begin.elapsed().as_secs_f64()
}

fn get_large(s3: &S3, size: u64) -> f64 {
    let mut connection = Connection::open(s3.addr);
    let begin = Instant::now();
    connection.send(&[&Ready::new(&s3.get("bench", "large")).head]);
    assert_eq!(connection.answer(false), (200, size));
    begin.elapsed().as_secs_f64()
}

/// Uploads in parts from several clients at once.
pub(crate) fn multipart(options: &Options, table: &mut Table) {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("bench");
    let part = content("part", 0, PART);
    for _ in 0..options.rounds {
        let begin = Instant::now();
        let work = || {
            thread::scope(|scope| {
                for client in 0..CLIENTS {
                    let (s3, part) = (&s3, &part);
                    scope.spawn(move || upload(s3, &format!("client {client}"), part));
                }
            });
        };
        let ((), peak) = peak_mib(|| world.resident_kib(), work);
        let mib = (CLIENTS * PART / MIB) as f64 * f64::from(PARTS);
        table.add("multipart, 8 clients", mib / begin.elapsed().as_secs_f64(), "MiB/s");
        table.add("resident, multipart from 8 clients", peak, "MiB");
    }
    table.ratio("multipart of MD5", "multipart, 8 clients", "MD5, one thread");
}

fn upload(s3: &S3, key: &str, part: &[u8]) {
    let begun = s3.object("POST", "bench", key).query("uploads").send().expect(200);
    let id = begun.xml("UploadId").expect("an upload id");
    let mut list = String::new();
    for n in 1..=PARTS {
        let request = s3.put("bench", key, part).query(&format!("partNumber={n}"));
        let got = request.param("uploadId", &id).sha256(UNSIGNED).send().expect(200);
        let etag = crate::wire::escape(got.must("etag"));
        list += &format!("<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    let request = s3.object("POST", "bench", key).param("uploadId", &id).body(body);
    request.send().expect(200);
}
