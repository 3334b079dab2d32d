//! Backends that hang: a clear answer, nothing lost, and on it goes.

use std::time::{Duration, Instant};

use crate::content::content;
use crate::other_s3::{OtherS3, Wire};
use crate::world::World;

const MIB: usize = 1 << 20;

#[test]
fn a_backend_that_hangs_stops_nobody() {
    let other = OtherS3::start();
    let wire = Wire::to(other.port);
    let mut world = World::with(1, |config| {
        config.defaults.push("replicas = 2\nmin_replicas = 1".into());
        config.backends.push(other.backend_at("cloud", wire.port));
        config.more =
            "[timeouts]\nconnect = \"2 s\"\nfirst_byte = \"2 s\"\nstall = \"2 s\"\n".into();
    });
    world.expect_errors();
    let s3 = world.s3();
    s3.create_bucket("hang");
    s3.put("hang", "before", content("before", 0, MIB)).send().expect(200);
    world.wait("both hold it", |world| world.files(1).len() == 1 && other.files().len() == 1);
    wire.hang(true);
    for (n, size) in [(0, 100), (1, 100_000), (2, 12 * MIB)] {
        let key = format!("k{n}");
        let begin = Instant::now();
        s3.put("hang", &key, content(&key, n, size)).send().expect(200);
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
        assert!(s3.read("hang", &key) == content(&key, n, size));
    }
    assert!(s3.read("hang", "before") == content("before", 0, MIB));
    s3.delete("hang", "before").send().expect(204);
    wire.hang(false);
    world.wait("writes reach the server again", |world| {
        let before = other.files().len();
        world.s3().put("hang", "after", content("after", 0, 1000)).send().expect(200);
        other.files().len() > before
    });
    world.restart();
    assert!(world.s3().read("hang", "k2") == content("k2", 2, 12 * MIB));
}
