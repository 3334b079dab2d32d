//! `larder verify`: recomputes what the store derives and says what differs.

use serde_json::json;

use super::Context;
use super::Exit;
use super::Failure;
use super::Outcome;
use super::block_on;
use super::output::print;
use super::output::print_json;
use crate::app::offline;
use crate::app::offline::OfflineError;

pub(crate) fn run(context: &Context) -> Outcome {
    let (_, loaded) = context.load()?;
    let faults = block_on(offline::verify(&loaded.config.data_dir))?.map_err(failure)?;
    let is_clean = faults.is_empty();
    if context.json {
        print_json(&json!({ "clean": is_clean, "faults": faults }))?;
    } else if is_clean {
        print("ok: every derived number is what it should be")?;
    } else {
        print(&faults.join("\n"))?;
    }
    Ok(if is_clean { Exit::Done } else { Exit::Failed })
}

fn failure(error: OfflineError) -> Failure {
    let exit = match &error {
        OfflineError::Unreachable(..) => Exit::Unreachable,
        OfflineError::NoDirectory(_) | OfflineError::Store(_) => Exit::Failed,
    };
    let hint = match exit {
        Exit::Unreachable => "verify works on a store that no server uses; stop the server first",
        _ => "the data directory could not be verified",
    };
    Failure { exit, error: anyhow::Error::new(error).context(hint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let path = dir.path().join("larder.toml");
        let text = format!(
            "data_dir = \"{}\"\n[[backend]]\nname = \"b\"\nservice = \"fs\"\n\
             options = {{ root = \"/nowhere/b\" }}\n",
            data.display()
        );
        std::fs::write(&path, text).unwrap();
        let failure = run(&Context { config: Some(path), json: false }).unwrap_err();
        assert_eq!(failure.exit, Exit::Failed);
        assert!(!data.exists());
    }
}
