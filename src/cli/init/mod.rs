//! `larder init`: asks for what only the owner can know, and makes a configuration of it.
//!
//! Whatever is asked can be said by an option instead, so that scripts need no terminal. The file
//! is checked as any configuration, and its backends are tried, before it takes its name.

mod ask;
mod file;
mod plan;

use std::fs;
use std::fs::OpenOptions;
use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use serde_json::json;

use self::ask::Asker;
use self::plan::Plan;
use super::Context;
use super::Exit;
use super::Failure;
use super::Outcome;
use super::block_on;
use super::bucket::bucket_name;
use super::output::pairs;
use super::output::print;
use super::output::print_json;
use super::output::print_warning;
use crate::app::offline;
use crate::base::ByteSize;
use crate::config;
use crate::config::BackendSettings;
use crate::config::Loaded;

const DEFAULT_FILE: &str = "larder.toml";

pub(crate) const AFTER_HELP: &str = "On a terminal it asks for whatever no option says; --yes takes the defaults instead.\n\
     Objects go below DIR/larder of each --disk; the directory itself must be there already.\n\
     Two or more disks on different devices keep two replicas of each object.\n\n\
     Examples:\n  \
     larder init\n  \
     larder init --yes --disk /mnt/a --disk /mnt/b --bucket photos\n  \
     larder init --yes --s3 r2 --s3-account ID --s3-bucket mine \\\n    \
     --s3-key-id KEY --s3-secret-file FILE";

#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Where the metadata goes: on a local disk
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Keep objects in DIR/larder; may be given several times
    #[arg(long, value_name = "DIR")]
    disk: Vec<PathBuf>,
    /// The most bytes on each backend, such as '500 GB'
    #[arg(long, value_name = "SIZE", value_parser = quota)]
    quota: Option<String>,
    /// Replicas of each object
    #[arg(long, value_name = "N")]
    replicas: Option<u32>,
    /// Let two directories on one device count as two places, to try replicas out
    #[arg(long)]
    same_device: bool,
    /// A bucket to begin with
    #[arg(long, value_name = "NAME", value_parser = bucket_name)]
    bucket: Option<String>,
    /// Where S3 is served
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<std::net::SocketAddr>,
    /// Where health is served
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<std::net::SocketAddr>,
    #[command(flatten)]
    s3: S3Args,
    /// Ask nothing: take the defaults for what is not said
    #[arg(long, short)]
    yes: bool,
    /// The file to write; left out: that of --config, or larder.toml here
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace a file that is there; its keys are lost
    #[arg(long)]
    force: bool,
    /// Do not try the backends first
    #[arg(long)]
    no_probe: bool,
}

#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "An S3 backend")]
struct S3Args {
    /// The provider
    #[arg(
        long = "s3",
        value_name = "PROVIDER",
        value_parser = config::providers().iter().map(|p| p.id.as_str()).collect::<Vec<_>>(),
        requires = "s3_bucket", requires = "s3_key_id",
        requires = "s3_secret_file"
    )]
    s3: Option<String>,
    /// The bucket there, which must exist
    #[arg(long, value_name = "BUCKET", requires = "s3")]
    s3_bucket: Option<String>,
    /// The directory in the bucket
    #[arg(long, value_name = "PREFIX", requires = "s3", default_value = "larder")]
    s3_root: String,
    /// The region
    #[arg(long, value_name = "REGION", requires = "s3")]
    s3_region: Option<String>,
    /// The account id or namespace, where the endpoint has one
    #[arg(long, value_name = "ACCOUNT", requires = "s3")]
    s3_account: Option<String>,
    /// The endpoint, where the provider does not say it
    #[arg(long, value_name = "URL", requires = "s3")]
    s3_endpoint: Option<String>,
    /// The id of the access key there
    #[arg(long, value_name = "ID", requires = "s3")]
    s3_key_id: Option<String>,
    /// A file that has its secret, and stays the place where it is read from
    #[arg(long, value_name = "FILE", requires = "s3")]
    s3_secret_file: Option<PathBuf>,
}

fn quota(text: &str) -> Result<String, String> {
    text.parse::<ByteSize>().map(|_| text.to_owned())
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let output = args.output.clone().or_else(|| context.config.clone());
    let output = output.unwrap_or_else(|| DEFAULT_FILE.into());
    if output.exists() && !args.force {
        let text = format!(
            "{} is there already; keep it, name another with --output, or replace it with --force",
            output.display()
        );
        return Err(Failure::new(Exit::Failed, anyhow::anyhow!(text)));
    }
    let is_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !args.yes && !is_terminal {
        let text = "this is no terminal to ask on; add --yes to take the defaults for what no \
            option says";
        return Err(Failure::new(Exit::Usage, anyhow::anyhow!(text)));
    }
    let plan = match args.yes {
        true => Plan::of(args, &config::environment)?,
        false => {
            let mut asker = Asker::new(io::stdin().lock(), io::stderr().lock());
            Plan::ask(args, &config::environment, &mut asker)?
        }
    };
    make(context, args, &plan, &output)?;
    for backend in plan.backends.iter().filter(|backend| backend.is_limited && args.yes) {
        let Some(free) = backend.free() else { continue };
        let name = &backend.name;
        print_warning(&match &args.quota {
            None => format!("{name} will use no more than is free there, {free}"),
            Some(quota) => format!("{name} may hold {quota}; free there, {free}"),
        });
    }
    told(context, &plan, &output)?;
    Ok(Exit::Done)
}

/// Writes, checks and tries the file, and gives it its name.
fn make(context: &Context, args: &Args, plan: &Plan, output: &Path) -> Result<(), Failure> {
    if let Some(dir) = output.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::create_dir_all(dir).map_err(|err| unwritten(output, err))?;
    }
    let mut new = output.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // What an earlier attempt left behind is worth nothing.
    let _ = fs::remove_file(&new);
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).and_then(
            |mut file| file.write_all(plan.text().as_bytes()).and_then(|()| file.sync_all()),
        );
    let made = match written {
        Ok(()) => check(context, args, &new, output).and_then(|()| {
            // A link, unlike a rename, does not replace what came there meanwhile.
            let named = match args.force {
                true => fs::rename(&new, output),
                false => fs::hard_link(&new, output),
            };
            named.map_err(|err| unwritten(output, err))
        }),
        Err(err) => Err(unwritten(output, err)),
    };
    let _ = fs::remove_file(&new);
    made
}

fn unwritten(output: &Path, err: io::Error) -> Failure {
    let text = format!("{} cannot be written", output.display());
    Failure::new(Exit::Failed, anyhow::Error::new(err).context(text))
}

fn check(context: &Context, args: &Args, new: &Path, output: &Path) -> Result<(), Failure> {
    let Loaded { config, warnings, .. } =
        config::load(new, &config::environment).map_err(|mut errors| {
            errors.file = output.to_owned();
            let text = format!("what was asked for is no good configuration\n{errors}");
            Failure::new(Exit::Configuration, anyhow::anyhow!(text))
        })?;
    for warning in &warnings {
        print_warning(&warning.render(output));
    }
    if args.no_probe {
        return Ok(());
    }
    if !context.json {
        let _ = writeln!(io::stderr().lock(), "trying the backends ...");
    }
    probe(&config.backends)
}

fn probe(backends: &[BackendSettings]) -> Result<(), Failure> {
    let mut failed = Vec::new();
    for (backend, report) in backends.iter().zip(block_on(offline::probe(backends))?) {
        for warning in &report.warnings {
            print_warning(&format!("{}: {warning}", backend.name));
        }
        for (step, result) in &report.steps {
            if let Err(why) = result {
                failed.push(format!("\n  {}: {step}: {why}", backend.name));
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let text = format!(
        "a backend does not work as it must, so nothing was written (--no-probe writes it all \
         the same){}",
        failed.concat()
    );
    Err(Failure::new(Exit::Failed, anyhow::anyhow!(text)))
}

fn told(context: &Context, plan: &Plan, output: &Path) -> anyhow::Result<()> {
    let endpoint = format!("http://{}", plan.listen);
    if context.json {
        return print_json(&json!({
            "file": output,
            "endpoint": endpoint,
            "access_key_id": plan.key_id,
            "secret_access_key": plan.secret,
            "bucket": plan.bucket,
        }));
    }
    let told = [
        ("configuration", output.display().to_string()),
        ("endpoint", endpoint),
        ("access key id", plan.key_id.clone()),
        ("secret access key", plan.secret.clone()),
    ];
    print(&format!("{}\n\nServe it:\n  larder --config {} serve", pairs(&told), output.display()))
}
