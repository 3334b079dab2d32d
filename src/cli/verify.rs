//! `larder verify`: whether the store agrees with itself, and the backends with the store.

use super::Context;
use super::Exit;
use super::Outcome;
use super::output::print;
use super::output::print_json;
use super::output::size;
use super::progress::Progress;
use super::session::ask_long;
use crate::admin::Operation;
use crate::admin::VerifyFar;
use crate::admin::VerifyView;
use crate::admin::VerifyWish;
use crate::app::offline::Needs;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also look at every replica on its backend, and count files that no row knows
    #[arg(long)]
    backends: bool,

    /// Also read every replica whole and compare it with its hash
    #[arg(long)]
    read: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let wish = VerifyWish { backends: args.backends, read: args.read };
    let progress = Progress::new(!context.json && (args.backends || args.read));
    let needs = if wish.backends || wish.read { Needs::Backends } else { Needs::Store };
    let show = |far: VerifyFar| progress.show(&how_far(&far));
    let view: VerifyView = ask_long(context, Operation::Verify(wish), needs, show)?;
    drop(progress);
    if context.json {
        print_json(&serde_json::to_value(&view).map_err(anyhow::Error::from)?)?;
    } else {
        print(&words(&view, wish))?;
    }
    Ok(if view.clean { Exit::Done } else { Exit::Failed })
}

fn how_far(far: &VerifyFar) -> String {
    let VerifyFar { replicas, bytes, total } = *far;
    let of = if total >= replicas { format!(" of about {total}") } else { String::new() };
    format!("{replicas}{of} replicas, {}", size(bytes))
}

fn words(view: &VerifyView, wish: VerifyWish) -> String {
    let mut lines = view.faults.clone();
    if view.more_faults > 0 {
        lines.push(format!("and {} more", view.more_faults));
    }
    if wish.backends || wish.read {
        let (done, bytes) = (if wish.read { "read" } else { "looked at" }, size(view.bytes));
        lines.push(format!("{done}: {} replicas, {bytes}", view.replicas));
    }
    if let (Some(foreign), Some(debris)) = (view.foreign, view.debris) {
        lines.push(format!("files that no row knows: {debris} of Larder's form, {foreign} others"));
    }
    if view.clean {
        lines.push(match wish.backends || wish.read {
            true => "ok: the store agrees with itself, and the backends with the store".to_owned(),
            false => "ok: every derived number is what it should be".to_owned(),
        });
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_told_before_what_was_done() {
        let view = VerifyView {
            clean: false,
            faults: vec!["a".into(), "b".into()],
            more_faults: 3,
            replicas: 7,
            bytes: 2048,
            foreign: Some(1),
            debris: Some(0),
        };
        let text = words(&view, VerifyWish { backends: true, read: false });
        assert_eq!(
            text,
            "a\nb\nand 3 more\nlooked at: 7 replicas, 2 KiB\n\
             files that no row knows: 0 of Larder's form, 1 others"
        );
        let clean =
            VerifyView { clean: true, faults: vec![], more_faults: 0, foreign: None, ..view };
        assert!(words(&clean, VerifyWish::default()).starts_with("ok: every derived"));
    }

    #[test]
    fn it_says_how_far_it_is() {
        let far = |replicas, total| how_far(&VerifyFar { replicas, bytes: 2048, total });
        assert_eq!(far(7, 9), "7 of about 9 replicas, 2 KiB");
        assert_eq!(far(7, 0), "7 replicas, 2 KiB");
    }

    #[test]
    fn a_store_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let file = dir.path().join("larder.toml");
        std::fs::write(
            &file,
            format!(
                "data_dir = {data:?}\n[[backend]]\nname = \"b\"\nservice = \"fs\"\n\
                 options = {{ root = {:?} }}\n",
                dir.path().join("b")
            ),
        )
        .unwrap();
        let context = Context { config: Some(file), json: false };
        let failure = run(&context, &Args { backends: false, read: false }).unwrap_err();
        assert_eq!(failure.exit, Exit::Failed);
        assert!(!data.exists());
    }
}
