//! `larder import`: files that lie on a backend become objects, where they are.

use super::Context;
use super::Exit;
use super::Outcome;
use super::bucket::bucket_name;
use super::output::print;
use super::output::print_json;
use super::output::size;
use super::progress::Progress;
use super::session::ask_long;
use crate::admin::ImportAsked;
use crate::admin::ImportFar;
use crate::admin::ImportView;
use crate::admin::Operation;
use crate::app::offline::Needs;

pub(crate) const AFTER_HELP: &str = "No byte is moved. A file that is imported stays its owner's: \
    Larder never deletes it, and when\nits owner changes it the object has a new version. With \
    --take-over the listed files are Larder's, those\nimported before as well, and go with their \
    objects. A file of more than 4 GiB is left. An import that broke off is run again.\n\nExamples:\n  \
    larder import disk1 photos --dry-run\n  \
    larder import disk1 photos --prefix Pictures/2024 --strip Pictures";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The backend that the files lie on
    backend: String,

    /// The bucket whose objects they become
    #[arg(value_parser = bucket_name)]
    bucket: String,

    /// The directory whose files are imported; all without it
    #[arg(long, value_name = "DIR", default_value = "")]
    prefix: String,

    /// The directory that keys do without
    #[arg(long, value_name = "DIR", default_value = "")]
    strip: String,

    /// Change nothing, and say what would be done
    #[arg(long)]
    dry_run: bool,

    /// Delete files with their objects from now on, also those that were imported before
    #[arg(long)]
    take_over: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let asked = ImportAsked {
        backend: args.backend.clone(),
        bucket: args.bucket.clone(),
        prefix: args.prefix.clone(),
        strip: args.strip.clone(),
        dry_run: args.dry_run,
        take_over: args.take_over,
    };
    let progress = Progress::new(!context.json);
    let show = |far: ImportFar| {
        let (files, imported, bytes) = (far.files, far.imported, size(far.bytes));
        progress.show(&format!("{files} files, {imported} imported, {bytes}"));
    };
    let view: ImportView = ask_long(context, Operation::Import(asked), Needs::Backends, show)?;
    drop(progress);
    if context.json {
        print_json(&serde_json::to_value(&view).map_err(anyhow::Error::from)?)?;
    } else {
        print(&words(&view))?;
    }
    Ok(Exit::Done)
}

fn words(view: &ImportView) -> String {
    let done = if view.dry_run { "would be imported" } else { "imported" };
    let mut lines =
        vec![format!("{done}: {} of {} files, {}", view.imported, view.files, size(view.bytes))];
    let others = [
        (view.known, "already Larder's or imported"),
        (view.conflicts, "left: their keys have objects"),
        (view.suppressed, "left: their objects were deleted or overwritten"),
        (view.quota, "left: the bucket's quota has no room for them"),
        (view.too_large, "left: they are larger than 4 GiB, the most that one file may have"),
        (view.skipped, "left: they are empty, or their paths make no keys"),
        (view.taken_over, "are Larder's own from now on"),
    ];
    let told = others.iter().filter(|(number, _)| *number > 0);
    lines.extend(told.map(|(number, what)| format!("{number} {what}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_is_told_with_its_reason() {
        let view = ImportView {
            dry_run: true,
            files: 9,
            imported: 3,
            bytes: 2048,
            conflicts: 4,
            too_large: 2,
            ..ImportView::default()
        };
        assert_eq!(
            words(&view),
            "would be imported: 3 of 9 files, 2 KiB\n4 left: their keys have objects\n\
             2 left: they are larger than 4 GiB, the most that one file may have"
        );
    }
}
