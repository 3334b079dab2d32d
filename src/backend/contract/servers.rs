//! The contract over real servers, which `tests/run` starts beside the tests.
//!
//! Each run needs the address of its server in the environment. Without it the run is left out,
//! and says so past the test harness, which hides what a passing test prints. A run that happened
//! leaves a file of its name where [`HAPPENED`] says, so that `tests/run` notices one that did not.

use std::io::Write;
use std::path::Path;

use super::*;
use crate::backend::open::fresh_name;

/// The directory where a run that happened leaves a file.
const HAPPENED: &str = "LARDER_TEST_HAPPENED";

/// The emulator's account, the same in every installation and printed in its manual.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// The address of a server, or nothing and a word about it.
fn address(variable: &str) -> Option<String> {
    let address = std::env::var(variable).ok();
    if address.is_none() {
        let said =
            writeln!(std::io::stderr(), "*** LEFT OUT: there is no {variable}: see tests/run");
        said.expect("the terminal takes a line");
    }
    address
}

fn happened(name: &str) {
    if let Ok(dir) = std::env::var(HAPPENED) {
        std::fs::write(Path::new(&dir).join(name), "").unwrap();
    }
}

/// Everything that a backend promises, from its probe to a second start.
async fn run(settings: BackendSettings) {
    let report = Backend::probe(&settings, &meter()).await;
    assert_eq!(report.failure(), None, "{:?}", report.warnings);
    assert_eq!(Backend::find_marker(&settings, &meter()).await.unwrap(), None);
    let backend = Backend::add(settings.clone(), 7, BackendId(9), meter()).await.unwrap();
    check(&backend).await;
    large_streams(&backend).await;
    let marker = Marker { store: 7, backend: BackendId(9) };
    assert_eq!(Backend::find_marker(&settings, &meter()).await.unwrap(), Some(marker));
    let other = Backend::add(settings.clone(), 8, BackendId(9), meter()).await.err().unwrap();
    assert!(matches!(other, AddError::Claimed(_)), "{other}");
    let mut below = settings.clone();
    let root = below.options.get_mut("root").unwrap();
    root.push_str("/inside");
    let nested = Backend::add(below, 7, BackendId(10), meter()).await.err().unwrap();
    assert!(matches!(nested, AddError::Claimed(_)), "{nested}");
    let again = Backend::open(settings, 7, BackendId(9), meter()).await.unwrap();
    assert!(again.is_present());
}

/// Streams that end at and beside the borders of parts.
async fn large_streams(backend: &Backend) {
    for size in [8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 16 * MIB] {
        let bytes = pattern(size);
        let path = format!("border/{size}");
        let mut writer = backend.write(&path, size as u64).await.unwrap();
        for piece in bytes.chunks(MIB) {
            writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        writer.finish().await.unwrap();
        assert!(read(backend, &path, 0..size as u64).await.unwrap() == bytes, "{size}");
        backend.delete(&path).await.unwrap();
    }
    assert_eq!(listed(backend, "").await, []);
}

#[tokio::test]
async fn a_webdav_server_keeps_the_contract() {
    let Some(endpoint) = address("LARDER_TEST_WEBDAV") else { return };
    let root = fresh_name("/contract/of");
    run(settings("webdav", &[("endpoint", &endpoint), ("root", &root)])).await;
    happened("webdav");
}

#[tokio::test]
async fn an_azure_emulator_keeps_the_contract() {
    let Some(endpoint) = address("LARDER_TEST_AZURITE") else { return };
    let root = fresh_name("/contract/of");
    let options = [
        ("endpoint", endpoint.as_str()),
        ("container", "larder"),
        ("account_name", AZURITE_ACCOUNT),
        ("account_key", AZURITE_KEY),
        ("root", &root),
    ];
    run(settings("azblob", &options)).await;
    happened("azurite");
}
