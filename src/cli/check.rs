//! `larder check`: what is wrong with the configuration, and with the backends that it names.

use std::path::Path;

use serde_json::Value;
use serde_json::json;

use super::Context;
use super::Exit;
use super::Outcome;
use super::block_on;
use super::output::finding_json;
use super::output::print;
use super::output::print_json;
use super::output::print_warning;
use super::output::table;
use crate::app::offline;
use crate::config;
use crate::config::Config;
use crate::config::ConfigErrors;
use crate::config::Finding;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also try every backend: write, read, list and delete something in its root
    #[arg(long)]
    probe: bool,
}

/// What a probe found of one backend, as far as it is shown.
struct Probed {
    backend: String,
    steps: Vec<(&'static str, Result<(), String>)>,
    warnings: Vec<String>,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let path = context.find()?;
    let loaded = match config::load(&path, &config::environment) {
        Ok(loaded) => loaded,
        Err(errors) if context.json => {
            print_json(&errors_json(&errors))?;
            return Ok(Exit::Configuration);
        }
        // What was asked for is whether there are mistakes, so they are the answer.
        Err(errors) => {
            print(&errors.to_string())?;
            return Ok(Exit::Configuration);
        }
    };
    let probed = match args.probe {
        true => Some(block_on(probe(&loaded.config))?),
        false => None,
    };
    let is_good = probed.iter().flatten().all(Probed::is_good);
    if context.json {
        print_json(&good_json(&path, &loaded.config, &loaded.warnings, probed.as_deref()))?;
    } else {
        for warning in &loaded.warnings {
            print_warning(&warning.render(&path));
        }
        if let Some(probed) = &probed {
            print_probes(probed)?;
        }
        if is_good {
            print(&summary(&loaded.config))?;
        }
    }
    Ok(if is_good { Exit::Done } else { Exit::Failed })
}

impl Probed {
    fn is_good(&self) -> bool {
        self.steps.iter().all(|(_, result)| result.is_ok())
    }
}

async fn probe(config: &Config) -> Vec<Probed> {
    let reports = offline::probe(&config.backends).await;
    let pairs = config.backends.iter().zip(reports);
    pairs
        .map(|(backend, report)| Probed {
            backend: backend.name.clone(),
            steps: report.steps,
            warnings: report.warnings,
        })
        .collect()
}

fn print_probes(probed: &[Probed]) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for backend in probed {
        for (step, result) in &backend.steps {
            let result = match result {
                Ok(()) => "ok".to_owned(),
                Err(why) => format!("failed: {why}"),
            };
            rows.push(vec![backend.backend.clone(), (*step).to_owned(), result]);
        }
    }
    print(&table(&["backend", "step", "result"], rows))?;
    for backend in probed {
        for warning in &backend.warnings {
            print_warning(&format!("{}: {warning}", backend.backend));
        }
    }
    Ok(())
}

fn summary(config: &Config) -> String {
    let counted = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    format!(
        "ok: {}, {}, {}",
        counted(config.backends.len(), "backend"),
        counted(config.buckets.len(), "bucket"),
        counted(config.keys.len(), "key")
    )
}

fn errors_json(errors: &ConfigErrors) -> Value {
    json!({
        "file": errors.file,
        "ok": false,
        "errors": errors.mistakes.iter().map(finding_json).collect::<Vec<_>>(),
    })
}

fn good_json(
    path: &Path,
    config: &Config,
    warnings: &[Finding],
    probed: Option<&[Probed]>,
) -> Value {
    let step = |(step, result): &(&'static str, Result<(), String>)| {
        let error = result.as_ref().err();
        json!({ "step": step, "ok": error.is_none(), "error": error })
    };
    let backend = |probed: &Probed| {
        json!({
            "backend": probed.backend,
            "ok": probed.is_good(),
            "steps": probed.steps.iter().map(step).collect::<Vec<_>>(),
            "warnings": probed.warnings,
        })
    };
    json!({
        "file": path,
        "ok": probed.iter().copied().flatten().all(Probed::is_good),
        "errors": [],
        "warnings": warnings.iter().map(finding_json).collect::<Vec<_>>(),
        "backends": config.backends.len(),
        "buckets": config.buckets.len(),
        "keys": config.keys.len(),
        "probes": probed.map(|probed| probed.iter().map(backend).collect::<Vec<_>>()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, json: bool) -> Outcome {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("larder.toml");
        std::fs::write(&path, text).unwrap();
        run(&Context { config: Some(path), json }, &Args { probe: false })
    }

    const GOOD: &str = "data_dir = \"/d\"\n[defaults]\nreplicas = 2\n[[backend]]\nname = \"b\"\n\
        service = \"fs\"\noptions = { root = \"/nowhere/b\" }\n";

    #[test]
    fn the_exit_code_says_whether_the_file_is_good() {
        for json in [false, true] {
            assert_eq!(check(GOOD, json).unwrap(), Exit::Done);
            assert_eq!(check("replicas = 1", json).unwrap(), Exit::Configuration);
        }
    }

    #[test]
    fn both_outcomes_have_one_shape_in_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("larder.toml");
        std::fs::write(&path, GOOD).unwrap();
        let loaded = config::load(&path, &|_| None).unwrap();
        let failed = Probed {
            backend: "b".to_owned(),
            steps: vec![("write", Ok(())), ("list", Err("refused".to_owned()))],
            warnings: vec!["slow".to_owned()],
        };
        let good = good_json(&path, &loaded.config, &loaded.warnings, None);
        assert_eq!(good["ok"], true);
        assert_eq!(good["warnings"][0]["line"], 3);
        assert_eq!(good["probes"], Value::Null);
        let bad = good_json(&path, &loaded.config, &[], Some(&[failed]));
        assert_eq!(bad["ok"], false);
        assert_eq!(bad["probes"][0]["steps"][1]["error"], "refused");
        std::fs::write(&path, "replicas = 1").unwrap();
        let errors = errors_json(&config::load(&path, &|_| None).unwrap_err());
        assert_eq!(errors["ok"], false);
        assert_eq!(errors["errors"].as_array().map(Vec::len), Some(3));
        assert_eq!(summary(&loaded.config), "ok: 1 backend, 0 buckets, 0 keys");
    }
}
