//! `larder bucket`: buckets and what they wish.

use clap::Subcommand;
use serde_json::Value;

use super::Context;
use super::Exit;
use super::Outcome;
use super::lifecycle;
use super::output::pairs;
use super::output::print;
use super::output::print_json;
use super::output::print_warning;
use super::output::size;
use super::output::size_or_none;
use super::output::table;
use super::session::ask;
use crate::admin::BucketView;
use crate::admin::NewBucket;
use crate::admin::Operation;
use crate::admin::Wishes;
use crate::app::offline::Needs;
use crate::base::ByteSize;
use crate::model::BucketName;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Make a bucket; what is not said comes from [defaults]
    #[command(after_help = "Examples:\n  larder bucket create photos\n  \
        larder bucket create photos --replicas 2 --routing spread --quota '500 GB'")]
    Create {
        #[arg(value_parser = bucket_name)]
        name: String,
        #[command(flatten)]
        wishes: WishArgs,
    },
    /// List all buckets
    List,
    /// Show one bucket: its wishes, and how much it holds
    Show { name: String },
    /// Change what a bucket wishes; it holds for new objects
    #[command(after_help = "A bucket that the configuration declares is changed there.\n\n\
        Examples:\n  larder bucket set photos --replicas 3\n  \
        larder bucket set photos --quota none")]
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args([
        "replicas", "min_replicas", "routing", "require_distinct", "max_uploads", "quota",
        "import",
    ]))]
    Set {
        #[arg(value_parser = bucket_name)]
        name: String,
        #[command(flatten)]
        wishes: WishArgs,
    },
    /// Show and change the rules by which objects of a bucket expire
    Lifecycle(lifecycle::Args),
    /// Delete a bucket that is empty
    Delete {
        #[arg(value_parser = bucket_name)]
        name: String,
    },
}

#[derive(clap::Args)]
struct WishArgs {
    /// Replicas of each object, on as many backends
    #[arg(long, value_name = "N")]
    replicas: Option<u32>,
    /// Durable replicas before a write is acknowledged
    #[arg(long, value_name = "N")]
    min_replicas: Option<u32>,
    /// The first backend in order with room, or the one with the lowest used share
    #[arg(long, value_parser = ["pack", "spread"])]
    routing: Option<String>,
    /// A label whose values must differ between replicas; may be given several times, '' for none
    #[arg(long, value_name = "LABEL")]
    require_distinct: Option<Vec<String>>,
    /// Active multipart uploads; 0 for no limit
    #[arg(long, value_name = "N")]
    max_uploads: Option<u32>,
    /// The most bytes it may hold, such as '500 GB'; `none` for no limit
    #[arg(long, value_name = "SIZE", value_parser = quota)]
    quota: Option<u64>,
    /// Files found below its name on a backend: only report them, or import them as its objects
    #[arg(long, value_parser = ["report", "import"])]
    import: Option<String>,
}

impl WishArgs {
    fn wishes(&self) -> Wishes {
        let labels = |labels: &Vec<String>| {
            labels.iter().filter(|label| !label.is_empty()).cloned().collect()
        };
        Wishes {
            replicas: self.replicas,
            min_replicas: self.min_replicas,
            routing: self.routing.clone(),
            require_distinct: self.require_distinct.as_ref().map(labels),
            max_uploads: self.max_uploads,
            quota: self.quota,
            imports: self.import.as_ref().map(|rule| rule == "import"),
        }
    }
}

pub(crate) fn bucket_name(text: &str) -> Result<String, String> {
    BucketName::new(text).map(|name| name.to_string()).map_err(|why| why.to_string())
}

/// 0 for none.
fn quota(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        text => text.parse::<ByteSize>().map(|size| size.0),
    }
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    match &args.what {
        What::Create { name, wishes } => {
            let new = NewBucket { name: name.clone(), wishes: wishes.wishes() };
            one(context, Operation::BucketCreate(new), "made")
        }
        What::Set { name, wishes } => {
            one(context, Operation::BucketSet(name.clone(), wishes.wishes()), "changed")
        }
        What::Show { name } => one(context, Operation::BucketShow(name.clone()), ""),
        What::List => list(context),
        What::Lifecycle(args) => lifecycle::run(context, args),
        What::Delete { name } => {
            let answer: Value = ask(context, Operation::BucketDelete(name.clone()), Needs::Names)?;
            match context.json {
                true => print_json(&answer)?,
                false => print(&format!("deleted: the bucket {name}"))?,
            }
            Ok(Exit::Done)
        }
    }
}

fn one(context: &Context, operation: Operation, done: &str) -> Outcome {
    let view: BucketView = ask(context, operation, Needs::Names)?;
    if context.json {
        print_json(&serde_json::to_value(&view).map_err(anyhow::Error::from)?)?;
        return Ok(Exit::Done);
    }
    for warning in &view.warnings {
        print_warning(warning);
    }
    if !done.is_empty() {
        print(&format!("{done}: the bucket {}", view.name))?;
    }
    print(&pairs(&details(&view)))?;
    Ok(Exit::Done)
}

fn details(view: &BucketView) -> Vec<(&'static str, String)> {
    let no_limit = |number: u32| match number {
        0 => "no limit".to_owned(),
        number => number.to_string(),
    };
    vec![
        ("name", view.name.clone()),
        ("made", view.created.clone()),
        ("declared", if view.declared { "in the configuration" } else { "no" }.to_owned()),
        ("replicas", format!("{}, {} before a write is done", view.replicas, view.min_replicas)),
        ("routing", view.routing.clone()),
        ("require distinct", view.require_distinct.join(", ")),
        ("uploads", format!("{}, at most {}", view.uploads, no_limit(view.max_uploads))),
        ("quota", size_or_none(view.quota)),
        ("import", if view.imports { "files found on backends" } else { "no" }.to_owned()),
        ("objects", view.objects.to_string()),
        ("bytes", size(view.bytes)),
    ]
}

fn list(context: &Context) -> Outcome {
    let views: Vec<BucketView> = ask(context, Operation::BucketList, Needs::Names)?;
    if context.json {
        print_json(&serde_json::to_value(&views).map_err(anyhow::Error::from)?)?;
        return Ok(Exit::Done);
    }
    let row = |view: &BucketView| {
        vec![
            view.name.clone(),
            view.objects.to_string(),
            size(view.bytes),
            size_or_none(view.quota),
            format!("{}/{}", view.min_replicas, view.replicas),
            view.routing.clone(),
            if view.declared { "yes" } else { "no" }.to_owned(),
        ]
    };
    let heads = ["bucket", "objects", "bytes", "quota", "replicas", "routing", "declared"];
    print(&table(&heads, views.iter().map(row).collect()))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_has_a_unit_or_is_none() {
        assert_eq!(quota("none"), Ok(0));
        assert_eq!(quota("1 KiB"), Ok(1024));
        assert!(quota("5").is_err());
    }
}
