//! `larder status`: whether a server runs, and what it and its backends suffer from.

use serde_json::json;

use super::Context;
use super::Exit;
use super::Failure;
use super::Outcome;
use super::backend::standing;
use super::block_on;
use super::output::pairs;
use super::output::print;
use super::output::print_json;
use super::session::remote_failure;
use crate::admin::BackendView;
use crate::admin::Operation;
use crate::admin::StatusView;
use crate::app::remote::Remote;
use crate::app::remote::RemoteError;
use crate::config as configuration;

pub(crate) fn run(context: &Context) -> Outcome {
    let path = context.find()?;
    // A mistake that was made since does not hide the server.
    let data_dir = match configuration::data_dir(&path, &configuration::environment) {
        Some(dir) => dir,
        None => context.load()?.1.config.data_dir,
    };
    let asked = async {
        let Some(remote) = Remote::connect(&data_dir).await? else { return Ok(None) };
        let status = remote.run(&Operation::Status).await?;
        let Some(remote) = Remote::connect(&data_dir).await? else { return Ok(None) };
        Ok(Some((status, remote.run(&Operation::BackendList).await?)))
    };
    let Some((status, backends)) = block_on(asked)?.map_err(remote_failure)? else {
        let text = anyhow::anyhow!("no server runs on {}", data_dir.display());
        return Err(Failure {
            code: Some("no_server".to_owned()),
            hint: Some("start it with `larder serve`".to_owned()),
            ..Failure::new(Exit::Unreachable, text)
        });
    };
    if context.json {
        print_json(&json!({ "server": status, "backends": backends }))?;
        return Ok(Exit::Done);
    }
    let other = |err| remote_failure(RemoteError::Answer(err));
    let status = serde_json::from_value(status).map_err(other)?;
    let backends: Vec<BackendView> = serde_json::from_value(backends).map_err(other)?;
    print(&told(&status, &backends))?;
    Ok(Exit::Done)
}

fn told(status: &StatusView, backends: &[BackendView]) -> String {
    let store = match status.store.as_str() {
        "tight" => "no room: reads, deletes and cleanup alone",
        "failing" => "cannot be written: reads alone",
        _ => "well",
    };
    let refused = status.refusals.iter().filter(|(_, count)| **count > 0);
    let mut refused: Vec<String> =
        refused.map(|(why, count)| format!("{count} {}", in_words(why))).collect();
    if refused.is_empty() {
        refused.push("nothing".to_owned());
    }
    let mut lines = vec![
        ("state", status.state.clone()),
        ("version", status.version.clone()),
        ("since", status.started.clone()),
        ("process", status.pid.to_string()),
        ("metadata", store.to_owned()),
    ];
    for (i, text) in refused.into_iter().enumerate() {
        lines.push((if i == 0 { "refused" } else { "" }, text));
    }
    for (i, backend) in backends.iter().enumerate() {
        let name = if i == 0 { "backends" } else { "" };
        lines.push((name, format!("{}: {}", backend.name, standing(backend))));
    }
    pairs(&lines)
}

/// A cause of refusals, so that it goes on from its count.
fn in_words(why: &str) -> String {
    let words = match why {
        "shed" => "as it was nearly too much at a time",
        "full" => "as it was too much at a time",
        "address_rate" => "too often from one address",
        "key_rate" => "too often with one key",
        "signature_budget" => "as too many signatures waited to be checked",
        "connection" => "connections, too many from one address",
        "slow" => "too slow",
        "busy" => "as a queue was full",
        "no_room" => "writes, for want of room or at a limit (507)",
        "allowance" => "reads at a limit (429)",
        "unavailable" => "as the store or too many backends failed (503)",
        other => match other.strip_prefix("worker:") {
            Some(worker) => return format!("steps of {worker}"),
            None => return other.to_owned(),
        },
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_is_wrong_and_where() {
        let mut status = StatusView {
            version: "1.2.3".into(),
            state: "ready".into(),
            pid: 7,
            started: "2026-01-01T00:00:00Z".into(),
            store: "well".into(),
            refusals: [("full".to_owned(), 0)].into(),
        };
        let well = "state     ready\nversion   1.2.3\nsince     2026-01-01T00:00:00Z\n\
             process   7\nmetadata  well\nrefused   nothing";
        assert_eq!(told(&status, &[]), well);
        status.store = "tight".into();
        status.refusals = [("shed".to_owned(), 2), ("busy".to_owned(), 1)].into();
        let backend = json!({
            "id": null, "name": "disk", "service": "fs", "state": "absent", "location": "",
            "quota": null, "used": 0, "reserved": 0, "orphan": 0, "free": null, "rows": 0,
        });
        let told = told(&status, &[serde_json::from_value(backend).unwrap()]);
        assert!(
            told.contains("no room")
                && told.contains("\nrefused   1 as a queue was full\n          2 as"),
            "{told}"
        );
        assert!(told.ends_with("backends  disk: absent"), "{told}");
    }
}
