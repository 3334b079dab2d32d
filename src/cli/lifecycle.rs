//! `larder bucket lifecycle`: by which rules objects of a bucket expire.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use clap::Subcommand;

use super::Context;
use super::Exit;
use super::Failure;
use super::Outcome;
use super::bucket::bucket_name;
use super::output::print;
use super::output::print_json;
use super::output::table;
use super::session::ask;
use crate::admin::LifecycleView;
use crate::admin::NewLifecycle;
use crate::admin::Operation;
use crate::admin::RuleView;
use crate::app::offline::Needs;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Show the rules of a bucket
    Show { bucket: String },
    /// Replace all rules of a bucket by those in a file
    #[command(after_help = "The file is TOML or JSON and has a list `lifecycle`, as a bucket in \
        the configuration has it\nand as `show --json` prints it.\n\nExample:\n  \
        larder bucket lifecycle set photos rules.toml")]
    Set {
        #[arg(value_parser = bucket_name)]
        bucket: String,
        file: PathBuf,
    },
    /// Add a rule to those of a bucket
    #[command(after_help = "An object must meet all filters. Objects that are old enough already \
        go soon after.\n\nExamples:\n  \
        larder bucket lifecycle add photos --prefix tmp/ --expire-after '30 d'\n  \
        larder bucket lifecycle add photos --tag kind=cache --expire-on 2027-01-01\n  \
        larder bucket lifecycle add photos --abort-uploads-after '7 d'")]
    #[command(group = clap::ArgGroup::new("does").required(true).multiple(true).args([
        "expire_after", "expire_on", "abort_uploads_after",
    ]))]
    Add {
        #[arg(value_parser = bucket_name)]
        bucket: String,
        #[command(flatten)]
        rule: Box<RuleArgs>,
    },
    /// Delete one rule of a bucket, or all
    Delete {
        #[arg(value_parser = bucket_name)]
        bucket: String,
        /// The rule; left out: all
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        id: Option<String>,
    },
}

#[derive(clap::Args)]
struct RuleArgs {
    /// What the rule is called; left out: a name is made up
    #[arg(long, default_value = "", hide_default_value = true)]
    id: String,
    /// Only keys that begin with this
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only objects with this tag; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = tag)]
    tag: Vec<(String, String)>,
    /// Only objects with more bytes, such as '1 MiB'
    #[arg(long, value_name = "SIZE", default_value = "", hide_default_value = true)]
    larger_than: String,
    /// Only objects with fewer bytes
    #[arg(long, value_name = "SIZE", default_value = "", hide_default_value = true)]
    smaller_than: String,
    /// Objects expire so long after they were written: whole days, such as '30 d'
    #[arg(long, value_name = "DAYS", conflicts_with = "expire_on")]
    expire_after: Option<String>,
    /// Objects expire from this day on, such as 2027-01-01
    #[arg(long, value_name = "DATE")]
    expire_on: Option<String>,
    /// Uploads that were not completed are aborted so long after they began
    #[arg(long, value_name = "DAYS")]
    abort_uploads_after: Option<String>,
    /// Keep the rule, but do not go by it
    #[arg(long)]
    disabled: bool,
}

impl RuleArgs {
    fn view(&self) -> RuleView {
        let tags: BTreeMap<String, String> = self.tag.iter().cloned().collect();
        RuleView {
            id: self.id.clone(),
            enabled: !self.disabled,
            prefix: self.prefix.clone(),
            tags,
            larger_than: self.larger_than.clone(),
            smaller_than: self.smaller_than.clone(),
            expire_after: self.expire_after.clone().unwrap_or_default(),
            expire_on: self.expire_on.clone().unwrap_or_default(),
            abort_uploads_after: self.abort_uploads_after.clone().unwrap_or_default(),
        }
    }
}

fn tag(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("a tag is NAME=VALUE")?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let operation = match &args.what {
        What::Show { bucket } => Operation::LifecycleShow(bucket.clone()),
        What::Set { bucket, file } => Operation::LifecycleSet(bucket.clone(), read(file)?),
        What::Add { bucket, rule } => Operation::LifecycleAdd(bucket.clone(), rule.view()),
        What::Delete { bucket, id } => Operation::LifecycleDelete(bucket.clone(), id.clone()),
    };
    let view: LifecycleView = ask(context, operation, Needs::Names)?;
    if context.json {
        print_json(&serde_json::to_value(&view).map_err(anyhow::Error::from)?)?;
        return Ok(Exit::Done);
    }
    if view.lifecycle.is_empty() {
        print(&format!("the bucket {} has no lifecycle rules: nothing expires", view.bucket))?;
        return Ok(Exit::Done);
    }
    let heads = ["rule", "on", "prefix", "tags", "bytes", "objects expire", "uploads end"];
    print(&table(&heads, view.lifecycle.iter().map(row).collect()))?;
    if view.declared {
        print("the configuration declares these rules: change them there")?;
    }
    Ok(Exit::Done)
}

fn row(rule: &RuleView) -> Vec<String> {
    let after = |span: &str| match span {
        "" => String::new(),
        span => format!("after {span}"),
    };
    let tags: Vec<String> =
        rule.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let bounds = [("> ", &rule.larger_than), ("< ", &rule.smaller_than)];
    let bounds = bounds.into_iter().filter(|(_, size)| !size.is_empty());
    let bytes: Vec<String> = bounds.map(|(sign, size)| format!("{sign}{size}")).collect();
    vec![
        rule.id.clone(),
        if rule.enabled { "yes" } else { "no" }.to_owned(),
        rule.prefix.clone(),
        tags.join(", "),
        bytes.join(", "),
        match rule.expire_on.as_str() {
            "" => after(&rule.expire_after),
            day => format!("on {day}"),
        },
        after(&rule.abort_uploads_after),
    ]
}

/// The rules in a file: JSON, if it is that, and TOML otherwise.
fn read(file: &Path) -> Result<NewLifecycle, Failure> {
    let named =
        |err: anyhow::Error| Failure::new(Exit::Failed, err.context(file.display().to_string()));
    let text = std::fs::read_to_string(file).map_err(|err| named(err.into()))?;
    match text.trim_start().starts_with('{') {
        true => serde_json::from_str(&text).map_err(|err| named(err.into())),
        false => toml::from_str(&text).map_err(|err| named(err.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_from_both_forms_of_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rules");
        let written = |text: &str| {
            std::fs::write(&file, text).unwrap();
            read(&file)
        };
        let toml = written("lifecycle = [{ prefix = \"a\", expire_after = \"1 d\" }]\n").unwrap();
        let other = written("[[lifecycle]]\nprefix = \"a\"\nexpire_after = \"1 d\"\n").unwrap();
        // What `show --json` prints.
        let json = "{ \"bucket\": \"b\", \"declared\": false, \"lifecycle\": \
            [{ \"prefix\": \"a\", \"expire_after\": \"1 d\" }] }";
        assert_eq!(written(json).unwrap(), toml);
        assert_eq!(other, toml);
        assert_eq!((toml.lifecycle.len(), toml.lifecycle[0].prefix.as_str()), (1, "a"));
        for wrong in ["", "{}", "lifecycle = 3", "[[lifecycle]]\nexpires = \"1 d\"\n", "{"] {
            let failure = written(wrong).unwrap_err();
            assert!(format!("{:#}", failure.error).contains("rules: "), "{wrong}");
        }
        assert!(read(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn a_tag_is_a_name_and_a_value() {
        assert_eq!(tag("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(tag("a="), Ok(("a".into(), String::new())));
        assert!(tag("a").is_err());
    }
}
