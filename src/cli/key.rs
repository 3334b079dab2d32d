//! `larder key`: access keys and what they may do.

use clap::Subcommand;
use serde_json::Value;

use super::Context;
use super::Exit;
use super::Outcome;
use super::bucket::bucket_name;
use super::output::pairs;
use super::output::print;
use super::output::print_json;
use super::output::table;
use super::session::ask;
use crate::admin::ANY_BUCKET;
use crate::admin::ChangedKey;
use crate::admin::GrantView;
use crate::admin::KeyView;
use crate::admin::NewKey;
use crate::admin::Operation;
use crate::admin::PRESETS;
use crate::app::offline::Needs;
use crate::model::Action;

const PRESETS_HELP: &str = "Presets:\n  \
    read-only    read, list\n  \
    write-only   create, write\n  \
    append-only  create, list: what is there stays\n  \
    read-write   read, list, write, delete\n  \
    admin        all, and the bucket itself\n\n";

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Make an access key; its secret is shown once, here
    #[command(after_help = format!("{PRESETS_HELP}Examples:\n  \
        larder key create --preset read-write --bucket photos\n  \
        larder key create --preset append-only --bucket backups --prefix host1/\n  \
        larder key create --allow read,list --bucket photos --bucket music\n  \
        larder key create --create-buckets"))]
    #[command(group = clap::ArgGroup::new("may").required(true).multiple(true).args([
        "preset", "allow", "create_buckets",
    ]))]
    Create {
        #[command(flatten)]
        grants: GrantArgs,
        /// The key may make buckets, and then has all grants on them
        #[arg(long)]
        create_buckets: bool,
    },
    /// List all access keys, without their secrets
    List,
    /// Show what one access key may do
    Show { id: String },
    /// Change what an access key may do; it takes effect at once
    #[command(after_help = format!("A key that the configuration declares is changed there. \
        Without --add, the grants that are named replace all that the key has.\n\n{PRESETS_HELP}\
        Examples:\n  \
        larder key set LK... --preset read-only --bucket photos\n  \
        larder key set LK... --add --preset read-only --bucket music\n  \
        larder key set LK... --create-buckets false\n  \
        larder key set LK... --new-secret"))]
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args([
        "preset", "allow", "create_buckets", "new_secret",
    ]))]
    Set {
        id: String,
        #[command(flatten)]
        grants: GrantArgs,
        /// Add the grants to those that the key has
        #[arg(long)]
        add: bool,
        /// Whether the key may make buckets
        #[arg(long, value_name = "BOOL")]
        create_buckets: Option<bool>,
        /// Give it a new secret, shown once; the old one is worth nothing any more
        #[arg(long)]
        new_secret: bool,
    },
    /// Delete an access key; whoever uses it is refused from then on
    Delete { id: String },
}

#[derive(clap::Args)]
struct GrantArgs {
    /// What it may do, by a name for the usual sets
    #[arg(long, value_parser = PRESETS, conflicts_with = "allow")]
    preset: Option<String>,
    /// What it may do, one by one
    #[arg(long, value_name = "ACTIONS", value_delimiter = ',', value_parser = Action::ALL.map(Action::name))]
    allow: Option<Vec<String>>,
    /// The bucket where it may; several times for several; left out: every bucket
    #[arg(long, value_name = "BUCKET", value_parser = bucket_or_any)]
    bucket: Vec<String>,
    /// Only keys that begin with this
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
}

impl GrantArgs {
    /// `None` when no actions are named.
    fn grants(&self) -> Option<Vec<GrantView>> {
        if self.preset.is_none() && self.allow.is_none() {
            return None;
        }
        let any = [ANY_BUCKET.to_owned()];
        let buckets = if self.bucket.is_empty() { &any[..] } else { &self.bucket };
        let grant = |bucket: &String| GrantView {
            bucket: bucket.clone(),
            prefix: self.prefix.clone(),
            preset: self.preset.clone(),
            allow: self.allow.clone(),
        };
        Some(buckets.iter().map(grant).collect())
    }
}

fn bucket_or_any(text: &str) -> Result<String, String> {
    if text == ANY_BUCKET { Ok(text.to_owned()) } else { bucket_name(text) }
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    match &args.what {
        What::Create { grants, create_buckets } => {
            let grants = grants.grants().unwrap_or_default();
            let new = NewKey { create_buckets: *create_buckets, grants };
            one(context, Operation::KeyCreate(new))
        }
        What::Set { id, grants, add, create_buckets, new_secret } => {
            let grants = grants.grants();
            let (grants, add) = match add {
                true => (None, grants.unwrap_or_default()),
                false => (grants, Vec::new()),
            };
            let change = ChangedKey {
                grants,
                add,
                create_buckets: *create_buckets,
                new_secret: *new_secret,
            };
            one(context, Operation::KeySet(id.clone(), change))
        }
        What::Show { id } => one(context, Operation::KeyShow(id.clone())),
        What::List => list(context),
        What::Delete { id } => {
            let answer: Value = ask(context, Operation::KeyDelete(id.clone()), Needs::Names)?;
            match context.json {
                true => print_json(&answer)?,
                false => print(&format!("deleted: the access key {id}"))?,
            }
            Ok(Exit::Done)
        }
    }
}

fn one(context: &Context, operation: Operation) -> Outcome {
    let view: KeyView = ask(context, operation, Needs::Names)?;
    if context.json {
        print_json(&serde_json::to_value(&view).map_err(anyhow::Error::from)?)?;
        return Ok(Exit::Done);
    }
    let mut told = vec![("access key id", view.id.clone())];
    if let Some(secret) = &view.secret {
        told.push(("secret access key", secret.clone()));
        told.push(("", "(shown only now: keep it)".to_owned()));
    }
    told.push(("declared", yes_no(view.declared).to_owned()));
    told.push(("may make buckets", yes_no(view.create_buckets).to_owned()));
    print(&pairs(&told))?;
    print(&table(&["bucket", "prefix", "may"], grant_rows(&view)))?;
    Ok(Exit::Done)
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn grant_rows(view: &KeyView) -> Vec<Vec<String>> {
    let row = |grant: &GrantView| {
        let actions = grant.allow.clone().unwrap_or_default().join(", ");
        let may = match &grant.preset {
            Some(preset) => format!("{preset}: {actions}"),
            None => actions,
        };
        vec![grant.bucket.clone(), grant.prefix.clone(), may]
    };
    view.grants.iter().map(row).collect()
}

fn list(context: &Context) -> Outcome {
    let views: Vec<KeyView> = ask(context, Operation::KeyList, Needs::Names)?;
    if context.json {
        print_json(&serde_json::to_value(&views).map_err(anyhow::Error::from)?)?;
        return Ok(Exit::Done);
    }
    let row = |view: &KeyView| {
        let grants: Vec<String> = grant_rows(view)
            .into_iter()
            .map(|grant| format!("{}/{} {}", grant[0], grant[1], grant[2]))
            .collect();
        vec![
            view.id.clone(),
            yes_no(view.declared).to_owned(),
            yes_no(view.create_buckets).to_owned(),
            grants.join("\n"),
        ]
    };
    let heads = ["access key", "declared", "makes buckets", "grants"];
    print(&table(&heads, views.iter().map(row).collect()))?;
    Ok(Exit::Done)
}
