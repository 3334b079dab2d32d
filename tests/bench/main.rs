//! What Larder does in a second, and what the machine could: one run, one machine, ratios.
//!
//! `cargo bench --bench larder -- [--quick] [--seconds N] [--rounds N] [--keys N] [--big GIB]
//! [--objects N] [--minutes N] [--only WORD,WORD]`. `TMPDIR` says on which disk, `LARDER_BINARY` which binary; both default to
//! the usual. Everything runs over loopback, with a client that signs ahead of the clock and
//! parses as little as it can, so that the figures are the server's. Each figure is the median
//! of several rounds, and yardsticks are taken in the same rounds as what they measure.

#[allow(dead_code)]
#[path = "../it/content.rs"]
mod content;
mod large;
mod load;
mod many;
mod moves;
mod process;
mod protection;
mod scrub;
#[allow(dead_code)]
#[path = "../it/mounts.rs"]
mod mounts;
#[allow(dead_code)]
#[path = "../it/signer.rs"]
mod signer;
#[allow(dead_code)]
#[path = "../it/sigv4.rs"]
mod sigv4;
mod small;
mod table;
#[allow(dead_code)]
#[path = "../it/wire.rs"]
mod wire;
#[allow(dead_code)]
#[path = "../it/world.rs"]
mod world;
mod yardstick;

use table::Table;

/// What the caller may choose.
pub(crate) struct Options {
    pub(crate) seconds: u64,
    pub(crate) rounds: usize,
    /// Objects that the listings go over.
    pub(crate) keys: usize,
    /// GiB of the large object.
    pub(crate) big: u64,
    /// Objects of an appliance that reconciles, has nothing to do, and idles.
    pub(crate) objects: usize,
    /// For how long it idles.
    pub(crate) minutes: u64,
    pub(crate) quick: bool,
    only: String,
}

impl Options {
    fn from_args(args: &[String]) -> Options {
        let number = |name: &str, usual: u64| {
            let at = args.iter().position(|arg| arg == name);
            at.map_or(usual, |at| args[at + 1].parse().expect("a number follows"))
        };
        let quick = args.iter().any(|arg| arg == "--quick");
        let pick = |full, short| if quick { short } else { full };
        Options {
            seconds: number("--seconds", pick(5, 1)),
            rounds: number("--rounds", pick(3, 1)) as usize,
            keys: number("--keys", pick(100_000, 5_000)) as usize,
            big: number("--big", 1),
            objects: number("--objects", pick(1_000_000, 20_000)) as usize,
            minutes: number("--minutes", pick(10, 1)),
            quick,
            only: args
                .iter()
                .position(|arg| arg == "--only")
                .map_or(String::new(), |at| args[at + 1].clone()),
        }
    }

    /// Whether the part of this name, or one of several names, is to run.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.split(',').any(|only| name.contains(only))
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` starts this, too; only `cargo bench` says so.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let options = Options::from_args(&args);
    let mut table = Table::new();
    type Case = fn(&Options, &mut Table);
    let cases: [(&str, Case); 10] = [
        ("hash", yardstick::hashes),
        ("small", small::requests),
        ("metadata", small::metadata),
        ("large", large::objects),
        ("multipart", large::multipart),
        ("listing", small::listing),
        ("protection", protection::protection),
        ("scrub", scrub::scrub),
        ("replicate drain", moves::moves),
        ("reconcile nothing idle", many::many),
    ];
    for (name, case) in cases {
        if options.wants(name) {
            eprintln!("{name} ...");
            case(&options, &mut table);
        }
    }
    table.print();
}
