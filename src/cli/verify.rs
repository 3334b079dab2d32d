//! `larder verify`: whether the store agrees with itself, and the backends with the store.

use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Context;
use super::Exit;
use super::Failure;
use super::Outcome;
use super::block_on;
use super::output::print;
use super::output::print_json;
use super::output::size;
use super::session::Session;
use super::session::refused;
use super::session::remote_failure;
use crate::admin::VerifyEvent;
use crate::admin::VerifyProgress;
use crate::admin::VerifyView;
use crate::admin::VerifyWish;
use crate::app::offline::Needs;
use crate::config::Config;

const PROGRESS_EVERY: Duration = Duration::from_millis(500);

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
    let (_, loaded) = context.load()?;
    let wish = VerifyWish { backends: args.backends, read: args.read };
    let is_shown = io::stderr().is_terminal() && !context.json && (args.backends || args.read);
    let view = block_on(verify(&loaded.config, wish, is_shown))?;
    if is_shown {
        let _ = write!(io::stderr().lock(), "\r\x1b[K");
    }
    let view = view?;
    if context.json {
        print_json(&serde_json::to_value(&view).map_err(anyhow::Error::from)?)?;
    } else {
        print(&words(&view, wish))?;
    }
    Ok(if view.clean { Exit::Done } else { Exit::Failed })
}

async fn verify(config: &Config, wish: VerifyWish, is_shown: bool) -> Result<VerifyView, Failure> {
    let needs = if wish.backends || wish.read { Needs::Backends } else { Needs::Store };
    let show = |replicas, bytes, total| {
        if is_shown {
            show(replicas, bytes, total);
        }
    };
    match Session::open(config, needs).await? {
        Session::Remote(remote) => {
            let tell = |event: &VerifyEvent| {
                if let VerifyEvent::Progress { replicas, bytes, total } = event {
                    show(*replicas, *bytes, *total);
                }
            };
            remote.verify(wish, tell).await.map_err(remote_failure)
        }
        Session::Offline(offline) => {
            let progress = VerifyProgress::default();
            let found = {
                let work = offline.desk.verify(wish, &progress);
                tokio::pin!(work);
                loop {
                    match tokio::time::timeout(PROGRESS_EVERY, work.as_mut()).await {
                        Ok(found) => break found,
                        Err(_) => show(
                            progress.replicas.load(Ordering::Relaxed),
                            progress.bytes.load(Ordering::Relaxed),
                            progress.total.load(Ordering::Relaxed),
                        ),
                    }
                }
            };
            offline.close().await;
            found.map_err(|err| refused(&err))
        }
    }
}

fn show(replicas: u64, bytes: u64, total: u64) {
    let of = if total >= replicas { format!(" of about {total}") } else { String::new() };
    let text = format!("\r\x1b[K{replicas}{of} replicas, {}", size(bytes));
    let mut err = io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
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
