//! `larder object`: where the bytes of an object lie, and how they are.

use clap::Subcommand;

use super::Context;
use super::Exit;
use super::Outcome;
use super::output::pairs;
use super::output::print;
use super::output::print_json;
use super::output::size;
use super::output::table;
use super::session::ask;
use crate::admin::BlobView;
use crate::admin::ObjectView;
use crate::admin::Operation;
use crate::app::offline::Needs;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Show an object: its version, its blobs, on which backends they lie, and why not on more
    #[command(after_help = "Example:\n  larder object show photos 2026/cat.jpg")]
    Show { bucket: String, key: String },
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let What::Show { bucket, key } = &args.what;
    let operation = Operation::ObjectShow(bucket.clone(), key.clone());
    let view: ObjectView = ask(context, operation, Needs::Backends)?;
    match context.json {
        true => print_json(&serde_json::to_value(&view).map_err(anyhow::Error::from)?)?,
        false => print(&words(&view))?,
    }
    Ok(Exit::Done)
}

fn words(view: &ObjectView) -> String {
    let mut parts = vec![pairs(&[
        ("object", format!("{}/{}", view.bucket, view.key)),
        ("version", view.version.clone()),
        ("size", format!("{} ({} bytes)", size(view.size), view.size)),
        ("etag", view.etag.clone()),
        ("modified", view.modified.clone()),
    ])];
    parts.extend(view.blobs.iter().map(blob));
    if view.more_blobs > 0 {
        parts.push(format!("and {} more blobs", view.more_blobs));
    }
    parts.join("\n\n")
}

fn blob(blob: &BlobView) -> String {
    let good = format!("{} of {} replicas good", blob.good, blob.replicas_wished);
    let mut lines = vec![format!("blob {}, {}, {good}", blob.id, size(blob.size))];
    for entry in &blob.entries {
        let part = if entry.part > 0 { format!("part {}: ", entry.part) } else { String::new() };
        lines.push(format!("{part}{} bytes from {}", entry.length, entry.offset));
    }
    let rows = blob.replicas.iter().map(|replica| {
        let mut state = replica.state.clone();
        if !replica.present {
            state.push_str(", backend absent");
        }
        if replica.borrowed {
            state.push_str(", borrowed");
        }
        let checked = replica.checked.clone().unwrap_or_else(|| "-".to_owned());
        vec![replica.backend.clone(), state, checked, replica.path.clone()]
    });
    lines.push(table(&["backend", "state", "checked", "path"], rows.collect()));
    lines.extend(blob.why.clone());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::EntryView;
    use crate::admin::ReplicaView;

    #[test]
    fn an_object_is_told_with_all_its_places_and_what_is_missing() {
        let replica = ReplicaView {
            write: "w".into(),
            backend: "disk1".into(),
            state: "missing".into(),
            present: false,
            path: "photos/cat".into(),
            checked: None,
            borrowed: true,
        };
        let blob = BlobView {
            id: "b".into(),
            size: 2048,
            replicas_wished: 2,
            min_replicas: 1,
            good: 1,
            deficit: 1,
            why: Some("1 of 2 replicas are good: there are only 1 backends".into()),
            entries: vec![EntryView { part: 3, offset: 7, length: 9 }],
            replicas: vec![replica],
        };
        let view = ObjectView {
            bucket: "photos".into(),
            key: "cat".into(),
            version: "5".into(),
            size: 9,
            etag: "e".into(),
            modified: "now".into(),
            blobs: vec![blob],
            more_blobs: 2,
        };
        let text = words(&view);
        for part in [
            "photos/cat",
            "9 B (9 bytes)",
            "blob b, 2 KiB, 1 of 2 replicas good",
            "part 3: 9 bytes from 7",
            "missing, backend absent, borrowed",
            "there are only 1 backends",
            "and 2 more blobs",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
