//! `larder version`: which build this is, and which one serves, if one does.

use std::time::Duration;

use serde_json::json;

use super::Context;
use super::Exit;
use super::Outcome;
use super::block_on;
use super::output::pairs;
use super::output::print;
use super::output::print_json;
use crate::admin::Operation;
use crate::admin::StatusView;
use crate::app::remote::Remote;
use crate::config as configuration;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// A server that is slow to answer is left out.
const SERVER_WAIT: Duration = Duration::from_secs(2);

pub(crate) fn run(context: &Context) -> Outcome {
    let server = server(context);
    if context.json {
        print_json(&json!({ "name": "larder", "version": VERSION, "server": server }))?;
        return Ok(Exit::Done);
    }
    print(&format!("larder {VERSION}"))?;
    if let Some(server) = server {
        let told = format!(
            "{}, {}, since {}, process {}",
            server.version, server.state, server.started, server.pid
        );
        print(&pairs(&[("server", told)]))?;
    }
    Ok(Exit::Done)
}

/// The server of the configuration in use, where there is one of either. It may run with what the
/// file said before a mistake was made.
fn server(context: &Context) -> Option<StatusView> {
    let path = context.find().ok()?;
    let data_dir = configuration::data_dir(&path, &configuration::environment)?;
    let asked = async {
        let remote = Remote::connect(&data_dir).await.ok()??;
        remote.run(&Operation::Status).await.ok()
    };
    let answer = block_on(async { tokio::time::timeout(SERVER_WAIT, asked).await });
    serde_json::from_value(answer.ok()?.ok()??).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_needs_neither_a_configuration_nor_a_server() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("larder.toml");
        for text in [
            "no toml",
            "data_dir = \"/nowhere\"\n[[backend]]\nname = \"b\"\nservice = \"memory\"\n",
        ] {
            std::fs::write(&file, text).unwrap();
            let context = Context { config: Some(file.clone()), json: false };
            assert_eq!(server(&context), None);
            assert_eq!(run(&context).unwrap(), Exit::Done);
        }
    }
}
