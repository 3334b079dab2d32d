//! The plan as TOML.

use super::plan::Plan;
use super::plan::PlannedBackend;
use crate::config::Free;

impl Plan {
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "# Larder's configuration. `larder config example` prints every key there is, and\n\
             # `larder check --probe` says what is wrong. A running server notices a change.\n\n\
             data_dir = {}\n\n\
             [server]\n\
             listen = {}         # S3\n\
             admin_listen = {}   # health\n\n\
             [defaults]\n\
             replicas = {}\n",
            quoted(&self.data_dir.to_string_lossy()),
            quoted(&self.listen.to_string()),
            quoted(&self.admin_listen.to_string()),
            self.replicas,
        );
        if self.same_device {
            text.push_str(
                "# Two replicas on one device protect from a damaged file, not from a lost disk.\n\
                 same_device = true\n",
            );
        }
        for backend in &self.backends {
            text.push_str(&backend.text());
        }
        if let Some(bucket) = &self.bucket {
            text.push_str(&format!("\n[[bucket]]\nname = {}\n", quoted(bucket)));
        }
        text.push_str(&format!(
            "\n[[key]]\nid = {}\nsecret = {}\ncreate_buckets = true\n\
             grants = [{{ bucket = \"*\", preset = \"admin\" }}]\n",
            quoted(&self.key_id),
            quoted(&self.secret),
        ));
        text
    }
}

impl PlannedBackend {
    fn text(&self) -> String {
        let options: Vec<String> = self
            .options
            .iter()
            .map(|(name, value)| format!("{name} = {}\n", quoted(value)))
            .collect();
        let mut text = format!(
            "\n[[backend]]\nname = {}\nservice = {}\nlabels = {{ provider = {} }}\n",
            quoted(&self.name),
            quoted(self.service),
            quoted(&self.provider),
        );
        if let Some(known) = self.known {
            text.push_str(&format!("profile = {}\n", quoted(&known.id)));
        }
        if let Some(free) = self.free().filter(|_| self.is_limited) {
            text.push_str(&format!("# Free there, {free}.\n"));
        }
        if let Some(quota) = &self.quota {
            text.push_str(&format!("quota = {}\n", quoted(quota)));
        }
        text.push_str(&self.limits());
        text.push_str(&format!("[backend.options]\n{}", options.concat()));
        text
    }
}

impl PlannedBackend {
    /// `[backend.limits]`, where something but the quota is limited.
    fn limits(&self) -> String {
        let Some(known) = self.known.filter(|_| self.is_limited) else { return String::new() };
        let Free { requests_month, egress_month, .. } = &known.allowances;
        let mut lines = String::new();
        if !requests_month.is_empty() {
            let counts = requests_month.iter().map(|(class, count)| format!("{class} = {count}"));
            let counts: Vec<String> = counts.collect();
            lines.push_str(&format!("requests_month = {{ {} }}\n", counts.join(", ")));
        }
        if let Some(egress) = egress_month {
            lines.push_str(&format!("egress_month = {}\n", quoted(egress)));
        }
        if lines.is_empty() { lines } else { format!("[backend.limits]\n{lines}") }
    }
}

/// A TOML string that is read back as `value`: a dollar would begin a variable.
fn quoted(value: &str) -> String {
    toml::Value::String(value.replace('$', "$$")).to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::Context;
    use crate::cli::Exit;
    use crate::cli::init::Args;
    use crate::cli::init::S3Args;
    use crate::cli::init::ask::Asker;
    use crate::cli::init::run;
    use crate::config;

    fn args(dir: &std::path::Path, disks: &[&str]) -> Args {
        let disk = |name: &&str| {
            let disk = dir.join(name);
            fs::create_dir_all(&disk).unwrap();
            disk
        };
        Args {
            data_dir: Some(dir.join("da\"ta $x")),
            disk: disks.iter().map(disk).collect(),
            yes: true,
            output: Some(dir.join("conf/larder.toml")),
            ..Args::default()
        }
    }

    #[test]
    fn what_is_written_is_a_good_configuration_and_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let args = Args {
            replicas: Some(2),
            same_device: true,
            quota: Some("5 GB".into()),
            bucket: Some("photos".into()),
            ..args(dir.path(), &["a", "b"])
        };
        let context = Context { config: None, json: true };
        assert_eq!(run(&context, &args).unwrap(), Exit::Done);
        let file = dir.path().join("conf/larder.toml");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let loaded = config::load(&file, &|_| None).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let config = loaded.config;
        assert_eq!(config.data_dir, dir.path().join("da\"ta $x"));
        assert_eq!(config.default_placement.replicas, 2);
        assert_eq!(
            config.backends[1].options["root"],
            dir.path().join("b/larder").to_str().unwrap()
        );
        assert_eq!(config.backends[0].quota, Some(5_000_000_000));
        assert_eq!((config.buckets.len(), config.keys.len()), (1, 1));
        assert_eq!(fs::read_dir(dir.path().join("conf")).unwrap().count(), 1);
        // The probe left nothing behind, and nothing is a backend yet.
        assert!(!dir.path().join("b/larder").exists());

        let failure = run(&context, &args).unwrap_err();
        assert_eq!(failure.exit, Exit::Failed);
        assert!(failure.error.to_string().contains("--force"));
        let before = fs::read(&file).unwrap();
        assert_eq!(run(&context, &Args { force: true, ..args }).unwrap(), Exit::Done);
        assert_ne!(fs::read(&file).unwrap(), before, "the keys are fresh");
    }

    #[test]
    fn what_cannot_work_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let context = Context { config: None, json: true };
        let good = args(dir.path(), &["a"]);
        let unmounted = Args { disk: vec![dir.path().join("nowhere")], ..good.clone() };
        let failure = run(&context, &unmounted).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.error.to_string().contains("mounted"));
        let wrong = Args { replicas: Some(99), ..good.clone() };
        assert_eq!(run(&context, &wrong).unwrap_err().exit, Exit::Configuration);
        // A file in the place of the root: the probe fails.
        fs::write(dir.path().join("a/larder"), "").unwrap();
        assert_eq!(run(&context, &good).unwrap_err().exit, Exit::Failed);
        assert!(!dir.path().join("conf/larder.toml").exists());
        assert_eq!(run(&context, &Args { no_probe: true, ..good }).unwrap(), Exit::Done);
    }

    #[test]
    fn answers_make_the_same_plan_as_options() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().to_str().unwrap();
        let answers = format!(
            "{disk}/data\ndisk\n/no/where\n{disk}\n1 TB\nyes\ns3\nr2\nme\nmine\n\nkey\nsecret\n\n\n\
             no\n\nphotos\n"
        );
        let mut asker = Asker::new(answers.as_bytes(), Vec::new());
        let plan = Plan::ask(&Args::default(), &|_| None, &mut asker).unwrap();
        assert_eq!(plan.data_dir, dir.path().join("data"));
        assert_eq!(plan.replicas, 2);
        assert_eq!(plan.bucket.as_deref(), Some("photos"));
        let names: Vec<&str> = plan.backends.iter().map(|b| b.name.as_str()).collect();
        assert_eq!(names, ["disk1", "r2"]);
        assert_eq!(plan.backends[0].quota.as_deref(), Some("1 TB"));
        let endpoint = ("endpoint", "https://me.r2.cloudflarestorage.com".to_owned());
        assert!(plan.backends[1].options.contains(&endpoint));
        let file = dir.path().join("larder.toml");
        fs::write(&file, plan.text()).unwrap();
        let config = config::load(&file, &|_| None).unwrap().config;
        assert_eq!(config.backends[1].options["region"], "auto");
        assert_eq!(config.backends[1].options["root"], "/larder");
    }

    #[test]
    fn what_is_free_is_shown_with_its_date_and_written_as_the_owners_limit() {
        let dir = tempfile::tempdir().unwrap();
        let answers = |said: &str| {
            format!(
                "{}\ns3\noci\nspace\neu\nmine\n\nkey\nsecret\n{said}\nno\nnone\n",
                dir.path().join("data").display()
            )
        };
        let plan = |said: &str| {
            let (answers, mut heard) = (answers(said), Vec::new());
            let mut asker = Asker::new(answers.as_bytes(), &mut heard);
            let plan = Plan::ask(&Args::default(), &|_| None, &mut asker).unwrap();
            let file = dir.path().join("larder.toml");
            fs::write(&file, plan.text()).unwrap();
            let loaded = config::load(&file, &|_| None).unwrap();
            assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
            (loaded.config, plan.text(), String::from_utf8(heard).unwrap())
        };
        // Yes to the limits, and the quota that goes with them.
        let (config, text, heard) = plan("\n");
        let told = "as listed in spring 2026 (check with your provider): 10 GB stored, 50000 \
            requests a month, 10 GB of egress a month";
        assert!(heard.contains(told), "{heard}");
        assert!(text.contains(told), "{text}");
        let backend = &config.backends[0];
        assert_eq!((backend.profile.name.as_str(), backend.quota), ("oci", Some(10_000_000_000)));
        assert_eq!(backend.limits.month.requests, Some(50_000));
        assert_eq!(backend.limits.month.egress, Some(10_000_000_000));
        // No to both: nothing is limited, and nothing claims to be.
        let (config, text, _) = plan("no\nnone");
        let backend = &config.backends[0];
        assert_eq!((backend.profile.name.as_str(), backend.quota), ("oci", None));
        assert!(!backend.limits.is_set() && !text.contains("listed"), "{text}");
    }

    #[test]
    fn options_alone_make_a_good_configuration_of_every_provider() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        for known in config::providers() {
            let mine = || Some("mine".to_owned());
            let s3 = S3Args {
                s3: Some(known.id.clone()),
                s3_bucket: mine(),
                s3_root: "larder".into(),
                s3_region: mine(),
                s3_account: mine(),
                s3_endpoint: Some("https://s3.example.org".into()),
                s3_key_id: mine(),
                s3_secret_file: Some(secret.clone()),
            };
            let args = Args { s3, ..args(dir.path(), &[]) };
            let text = Plan::of(&args, &|_| None).unwrap().text();
            let file = dir.path().join("larder.toml");
            fs::write(&file, &text).unwrap();
            let loaded = config::load(&file, &|_| None).unwrap();
            assert!(loaded.warnings.is_empty(), "{}: {:?}", known.id, loaded.warnings);
            let backend = &loaded.config.backends[0];
            let profile = if known.id == "other" { "" } else { &known.id };
            assert_eq!(backend.profile.name, profile);
            assert_eq!(text.contains(&known.listed), !known.free().is_empty(), "{text}");
            assert_eq!(backend.quota.is_some(), known.allowances.stored.is_some(), "{text}");
            let own = Args { quota: Some("1 TB".into()), ..args };
            let text = Plan::of(&own, &|_| None).unwrap().text();
            assert!(text.contains("quota = \"1 TB\""), "{text}");
        }
    }

    #[test]
    fn dollars_and_quotes_are_kept() {
        assert_eq!(quoted("a$b"), "\"a$$b\"");
        let table: toml::Table = format!("x = {}", quoted("a\"\\'\n")).parse().unwrap();
        assert_eq!(table["x"].as_str(), Some("a\"\\'\n"));
    }
}
