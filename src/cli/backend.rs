//! `larder backend`: the backends, what they hold and how they are.

use clap::Subcommand;
use serde_json::Value;
use time::Date;
use time::macros::format_description;

use super::Context;
use super::Exit;
use super::Outcome;
use super::output::print;
use super::output::print_json;
use super::output::size;
use super::output::size_or_none;
use super::output::table;
use super::progress::Progress;
use super::session::ask;
use super::session::ask_long;
use super::usage::counted;
use super::worker::pass;
use crate::admin::BackendView;
use crate::admin::DrainView;
use crate::admin::Operation;
use crate::admin::ReachedView;
use crate::admin::RemoveWish;
use crate::admin::RemovedView;
use crate::app::offline::Needs;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// List all backends: how they are, and what they hold
    #[command(after_help = "A backend is absent while its marker cannot be seen: is the disk \
        mounted? It is new when the\nconfiguration names it and no server has added it yet. The \
        breaker of one that keeps failing\nopens: it is left alone for a while and then tried \
        again.\n\n\
        Example:\n  larder backend list --json")]
    List,
    /// Use a backend again at once, after what was wrong with it was mended
    #[command(after_help = "It closes the backend's breaker, which else is tried again after a \
        while by itself.\n\nExample:\n  larder backend reset cloud")]
    Reset {
        /// Its name in the configuration
        name: String,
    },
    /// Empty a backend: everything on it moves elsewhere, and nothing new goes there
    #[command(after_help = "It goes on in the background, also over restarts, until the backend \
        has no rows left;\n`larder backend list` shows how far it is and what cannot leave. Then \
        remove it, or take the\ndrain back.\n\n\
        Examples:\n  larder backend drain old-disk\n  larder backend drain old-disk --wait")]
    Drain {
        /// Its name in the configuration
        name: String,
        /// Wait until nothing more can leave, and say how it went
        #[arg(long)]
        wait: bool,
    },
    /// Take a drain, or a removal, back: what is left stays and counts again
    #[command(after_help = "Example:\n  larder backend undrain old-disk")]
    Undrain {
        /// Its name in the configuration
        name: String,
    },
    /// Take a backend out of use for good
    #[command(after_help = "Drain it first: it is refused while it has the only good replica of \
        anything, unless you confirm\nwith the word that the refusal gives. Its bytes stay where \
        they are; with --purge they are deleted\nin the background, which wants the word as well. \
        Afterwards take its [[backend]] out of the\nconfiguration (with --purge when it has no rows \
        left).\n\n\
        Examples:\n  larder backend remove old-disk\n  \
        larder backend remove old-disk --purge --confirm 6750a1b2-1f2e3d4c")]
    Remove {
        /// Its name in the configuration
        name: String,
        /// Delete the bytes that Larder has there
        #[arg(long)]
        purge: bool,
        /// The word that the refusal gave
        #[arg(long, value_name = "WORD")]
        confirm: Option<String>,
    },
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    match &args.what {
        What::List => list(context),
        What::Reset { name } => reset(context, name),
        What::Drain { name, wait } => drain(context, name, *wait),
        What::Undrain { name } => undrain(context, name),
        What::Remove { name, purge, confirm } => {
            let wish = RemoveWish { purge: *purge, confirm: confirm.clone() };
            remove(context, name, wish)
        }
    }
}

fn list(context: &Context) -> Outcome {
    let views: Vec<BackendView> = ask(context, Operation::BackendList, Needs::Backends)?;
    if context.json {
        print_json(&serde_json::to_value(&views).map_err(anyhow::Error::from)?)?;
        return Ok(Exit::Done);
    }
    let row = |view: &BackendView| {
        vec![
            view.name.clone(),
            view.service.clone(),
            in_short(view),
            view.breaker.as_ref().map_or_else(|| "-".to_owned(), |breaker| breaker.state.clone()),
            size(view.used),
            size(view.reserved),
            size(view.orphan),
            size_or_none(view.quota),
            view.free.map_or_else(|| "?".to_owned(), size),
            view.rows.to_string(),
        ]
    };
    let heads = [
        "backend", "service", "state", "breaker", "used", "reserved", "orphan", "quota", "free",
        "rows",
    ];
    let mut text = table(&heads, views.iter().map(row).collect());
    let notes = views.iter().filter(|view| !is_well(view));
    let notes: Vec<String> =
        notes.map(|view| format!("{}: {}", view.name, standing(view))).collect();
    if !notes.is_empty() {
        text.push_str(&format!("\n\n{}", notes.join("\n")));
    }
    print(&text)?;
    Ok(Exit::Done)
}

/// Its duty where that is another than to be used, or else whether it is there.
fn in_short(view: &BackendView) -> String {
    match view.duty.as_str() {
        "" | "in use" => view.state.clone(),
        duty => duty.to_owned(),
    }
}

fn is_well(view: &BackendView) -> bool {
    let has_duty = matches!(view.duty.as_str(), "" | "in use") && view.absent_since.is_none();
    has_duty && view.reached.is_none() && view.breaker.as_ref().is_none_or(|b| b.state == "closed")
}

/// How a backend is, in a sentence.
pub(crate) fn standing(view: &BackendView) -> String {
    let mut said = vec![view.state.clone()];
    match view.duty.as_str() {
        "away" => said.push("its replicas do not count and are made elsewhere".to_owned()),
        "removed" => said.push("removed: take it out of the configuration".to_owned()),
        _ => {}
    }
    said.extend(view.absent_since.as_ref().map(|since| format!("out of reach since {since}")));
    said.extend(view.drain.as_ref().filter(|_| view.duty == "draining").map(emptied));
    if let Some(breaker) = view.breaker.as_ref().filter(|breaker| breaker.state != "closed") {
        let mut text = format!("its breaker is {}", breaker.state);
        if let Some(seconds) = breaker.retry_in_seconds.filter(|_| breaker.state == "open") {
            text.push_str(&format!(", tried again in {}", span(seconds)));
        }
        if let Some(why) = &breaker.why {
            text.push_str(&format!(" ({why})"));
        }
        said.push(text);
    }
    said.extend(view.reached.as_ref().map(reached));
    said.join("; ")
}

fn reached(reached: &ReachedView) -> String {
    let most = counted(&reached.what, reached.limit);
    let period = period_in_words(&reached.period);
    match reached.is_share {
        true => format!("what work may use of {most} {period} is used up"),
        false => format!("the limit of {most} {period} is reached"),
    }
}

/// `in November 2026`, `on 23 November 2026`.
fn period_in_words(period: &str) -> String {
    let day = format_description!("[year]-[month]-[day]");
    let in_month = format_description!("in [month repr:long] [year]");
    let on_day = format_description!("on [day padding:none] [month repr:long] [year]");
    let words = match Date::parse(period, &day) {
        Ok(date) => date.format(&on_day),
        Err(_) => match Date::parse(&format!("{period}-01"), &day) {
            Ok(date) => date.format(&in_month),
            Err(_) => return format!("in {period}"),
        },
    };
    words.unwrap_or_else(|_| format!("in {period}"))
}

/// Rounded up, so that nobody comes too early.
fn span(seconds: u64) -> String {
    match seconds {
        0..=90 => format!("{seconds} s"),
        91..=5400 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}

/// How far a backend is emptied, in words.
fn emptied(drain: &DrainView) -> String {
    if drain.rows == 0 {
        return "it is empty and can be removed".to_owned();
    }
    let mut text = format!("{} rows and {} are still on it", drain.rows, size(drain.bytes));
    if let Some(seconds) = drain.seconds_left {
        text.push_str(&format!(", about {} at this pace", span(seconds)));
    }
    for (why, number) in &drain.stuck {
        text.push_str(&format!("; {number} cannot leave: {why}"));
    }
    text
}

fn drain(context: &Context, name: &str, wait: bool) -> Outcome {
    let begun: DrainView = ask(context, Operation::BackendDrain(name.to_owned()), Needs::Backends)?;
    if wait {
        let exit = pass(context, "drain", None)?;
        if !context.json {
            let views: Vec<BackendView> = ask(context, Operation::BackendList, Needs::Backends)?;
            let drain = views.iter().find(|view| view.name == name).and_then(|v| v.drain.as_ref());
            drain.map_or(Ok(()), |drain| print(&format!("{name}: {}", emptied(drain))))?;
        }
        return Ok(exit);
    }
    told(context, &begun, &format!("{name} is being emptied: {}", emptied(&begun)))
}

fn undrain(context: &Context, name: &str) -> Outcome {
    let ended: DrainView =
        ask(context, Operation::BackendUndrain(name.to_owned()), Needs::Backends)?;
    told(context, &ended, &format!("{name} is kept: nothing leaves it"))
}

fn remove(context: &Context, name: &str, wish: RemoveWish) -> Outcome {
    let operation = Operation::BackendRemove(name.to_owned(), wish);
    let progress = Progress::new(!context.json);
    let show = |far: Value| progress.show(&format!("{} replicas are gone", far["processed"]));
    let removed: RemovedView = ask_long(context, operation, Needs::Backends, show)?;
    drop(progress);
    let then = match removed.purge {
        true => {
            "its bytes are being deleted; take it out of the configuration when `larder backend \
             list` shows no rows on it"
        }
        false => "take its [[backend]] out of the configuration",
    };
    told(context, &removed, &format!("{name} is out of use; {then}"))
}

fn told(context: &Context, view: &impl serde::Serialize, words: &str) -> Outcome {
    match context.json {
        true => print_json(&serde_json::to_value(view).map_err(anyhow::Error::from)?)?,
        false => print(words)?,
    }
    Ok(Exit::Done)
}

fn reset(context: &Context, name: &str) -> Outcome {
    let answer: Value = ask(context, Operation::BackendReset(name.to_owned()), Needs::Store)?;
    if context.json {
        print_json(&answer)?;
    } else if let Some(note) = answer["note"].as_str() {
        print(&format!("there is nothing to reset: {note}"))?;
    } else {
        print(&format!("{name} is used again"))?;
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_backend_says_how_it_is() {
        let view = |more: Value| -> BackendView {
            let mut view = json!({
                "id": "1", "name": "cloud", "service": "s3", "state": "present", "location": "",
                "quota": null, "used": 0, "reserved": 0, "orphan": 0, "free": null, "rows": 0,
            });
            view.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value(view).unwrap()
        };
        let breaker = |state: &str, retry: Option<u64>, why: Option<&str>| {
            json!({"breaker": {"state": state, "failures": 5, "since_seconds": 1,
                "retry_in_seconds": retry, "why": why}})
        };
        let reached = |what: &str, is_share: bool| {
            json!({"reached": {"what": what, "period": "2026-11", "limit": 50_000,
                "is_share": is_share}})
        };
        for (more, well, text) in [
            (json!({}), true, "present"),
            (breaker("closed", None, Some("old")), true, "present"),
            (
                breaker("open", Some(170), Some("the key was refused")),
                false,
                "present; its breaker is open, tried again in 3 min (the key was refused)",
            ),
            (breaker("half-open", Some(9), None), false, "present; its breaker is half-open"),
            (
                reached("requests_a", false),
                false,
                "present; the limit of 50,000 class A requests in November 2026 is reached",
            ),
            (
                reached("egress", true),
                false,
                "present; what work may use of 48.8 KiB of egress in November 2026 is used up",
            ),
        ] {
            let view = view(more);
            assert_eq!((standing(&view).as_str(), is_well(&view)), (text, well));
        }
        assert_eq!(period_in_words("2026-11-03"), "on 3 November 2026");
        assert_eq!([span(1), span(90), span(91), span(5401)], ["1 s", "90 s", "2 min", "2 h"]);
    }
}
