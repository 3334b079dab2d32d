//! Many small requests: 4 KiB objects, metadata, listings.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::Options;
use crate::content::content;
use crate::load::{Ready, peak_mib, run};
use crate::signer::{S3, UNSIGNED};
use crate::table::Table;
use crate::world::World;
use crate::yardstick;

const SIZE: usize = 4096;
/// Objects that GET and HEAD go over.
const OBJECTS: usize = 2000;
const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// Requests prepared for each second of PUT: more than any disk has synced so far.
const PUTS_PER_SECOND: u64 = 12_000;
const NO_END: Duration = Duration::from_secs(24 * 3600);

/// 60 bytes, as an ordinary tree has them.
fn key(kind: &str, n: usize) -> String {
    format!("{kind:-<20}/2026/{:03}/a-photograph-by-number-{n:010}.jpg", n % 1000)
        .chars()
        .take(60)
        .collect()
}

fn puts(s3: &S3, kind: &str, range: std::ops::Range<usize>) -> Vec<Ready> {
    let body = content(kind, 0, SIZE);
    range
        .map(|n| Ready::new(&s3.put("bench", &unique(kind, n), body.clone()).sha256(UNSIGNED)))
        .collect()
}

/// A key of 60 bytes with its number in it.
fn unique(kind: &str, n: usize) -> String {
    let key = key(kind, n);
    format!("{}{n:010}", &key[..50])
}

pub(crate) fn requests(options: &Options, table: &mut Table) {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("bench");
    if let Some(idle) = world.resident_kib() {
        table.add("resident, idle", idle as f64 / 1024.0, "MiB");
    }
    run(s3.addr, 16, &puts(&s3, "read", 0..OBJECTS), NO_END, true);
    let reads = |method: &str| -> Vec<Ready> {
        (0..OBJECTS).map(|n| Ready::new(&s3.object(method, "bench", &unique("read", n)))).collect()
    };
    let (gets, heads) = (reads("GET"), reads("HEAD"));
    let nginx = yardstick::Nginx::start(world.dir(), OBJECTS, SIZE);
    let span = Duration::from_secs(options.seconds);
    let mut n = 0;
    for round in 0..options.rounds {
        for connections in CONNECTIONS {
            let name = |verb: &str| format!("{verb} 4 KiB, {connections} connections");
            let count = (PUTS_PER_SECOND * options.seconds) as usize;
            let ready = puts(&s3, "write", n..n + count);
            n += count;
            for (verb, requests, once) in
                [("GET", &gets, false), ("HEAD", &heads, false), ("PUT", &ready, true)]
            {
                let work = || run(s3.addr, connections, requests, span, once);
                let (shown, peak) = peak_mib(|| world.resident_kib(), work);
                table.add(&name(verb), shown.per_second, "/s");
                table.add(&format!("{}, median", name(verb)), shown.median_ms, "ms");
                table.add(&format!("{}, p99", name(verb)), shown.p99_ms, "ms");
                if connections == 64 {
                    table.add(&format!("resident, {verb} over 64 connections"), peak, "MiB");
                }
            }
            let raw = format!("raw write + fsync + directory, {connections} threads");
            let place = world.dir().join(format!("raw-{round}-{connections}"));
            table.add(&raw, yardstick::durable_writes(&place, connections, SIZE, span), "/s");
            table.ratio(&format!("PUT of raw, {connections}"), &name("PUT"), &raw);
            if let Some(nginx) = &nginx {
                let theirs = format!("nginx GET 4 KiB, {connections} connections");
                let shown = run(nginx.addr, connections, &nginx.requests(), span, false);
                table.add(&theirs, shown.per_second, "/s");
                table.ratio(&format!("GET of nginx, {connections}"), &name("GET"), &theirs);
            }
        }
    }
}

/// Bytes of metadata for each object with one replica.
pub(crate) fn metadata(options: &Options, table: &mut Table) {
    let mut world = World::new();
    let s3 = world.s3();
    s3.create_bucket("bench");
    world.stop();
    let before = bytes_below(&world.config.data_dir);
    world.start();
    let count = (options.keys / 5).clamp(1000, 50_000);
    run(s3.addr, 16, &puts(&s3, "metadata", 0..count), NO_END, true);
    world.stop();
    let grown = bytes_below(&world.config.data_dir).saturating_sub(before);
    table.add("metadata of an object, 60 bytes of key", grown as f64 / count as f64, "bytes");
}

fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, meta)| if meta.is_dir() { bytes_below(&path) } else { meta.len() })
        .sum()
}

/// Pages of a thousand entries, flat and with a delimiter.
pub(crate) fn listing(options: &Options, table: &mut Table) {
    let world = World::new();
    let s3 = world.s3();
    s3.create_bucket("bench");
    s3.put("bench", "0", "x").send().expect(200);
    // Copies share their bytes: this fills the tables and not the disk.
    let place = |n: usize| format!("d{:03}/e{:02}/{n:09}", n % 1000, n / 1000 % 100);
    for begin in (0..options.keys).step_by(50_000) {
        let end = options.keys.min(begin + 50_000);
        let copies: Vec<Ready> = (begin..end)
            .map(|n| Ready::new(&s3.copy(("bench", "0"), ("bench", &place(n)))))
            .collect();
        let shown = run(s3.addr, 16, &copies, NO_END, true);
        table.add("copies, 16 connections", shown.per_second, "/s");
    }
    let span = Duration::from_secs(options.seconds);
    let page = |params: &[(&str, &str)]| {
        let request = s3.bucket("GET", "bench").query("list-type=2");
        Ready::new(
            &params.iter().fold(request, |request, (name, value)| request.param(name, value)),
        )
    };
    let starts: Vec<String> = (0..200).map(|n| place(n * 7919 % options.keys.max(1))).collect();
    let cases = [
        ("flat", starts.iter().map(|at| page(&[("start-after", at)])).collect::<Vec<_>>()),
        ("1000 common prefixes", vec![page(&[("delimiter", "/")])]),
        (
            "below a prefix, with a delimiter",
            (0..100)
                .map(|n| page(&[("delimiter", "/"), ("prefix", &format!("d{n:03}/"))]))
                .collect(),
        ),
    ];
    for _ in 0..options.rounds {
        for (what, requests) in &cases {
            let shown = run(s3.addr, 1, requests, span, false);
            let name = format!("listing page of {} keys, {what}", options.keys);
            table.add(&format!("{name}, median"), shown.median_ms, "ms");
            table.add(&format!("{name}, p99"), shown.p99_ms, "ms");
        }
    }
}
