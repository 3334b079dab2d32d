//! The operator's verbs for paths that cleanup has given up.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use super::desk::Desk;
use super::desk::value;
use super::error::ApiError;
use super::views::rfc3339;
use crate::engine::EngineError;
use crate::engine::Leftover;
use crate::model::BackendId;
use crate::model::WriteId;

/// Paths of one answer.
const LIST_MAX: usize = 1000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CleanupWish {
    /// Its name; `None`: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Also those that are still tried.
    #[serde(default)]
    pub all: bool,
}

/// Some parked paths by their ids, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChosenPaths {
    #[serde(default)]
    pub ids: Vec<String>,
    #[serde(default)]
    pub all: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanupView {
    pub items: Vec<LeftoverView>,
    /// There are more than are listed.
    pub more: bool,
}

/// A path whose bytes are to be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftoverView {
    pub id: String,
    pub backend: String,
    pub path: String,
    pub size: u64,
    pub reason: String,
    /// Nobody tries it any more.
    pub parked: bool,
    /// When it is tried next.
    pub due: Option<String>,
    pub attempts: u32,
    pub error: Option<String>,
}

impl LeftoverView {
    fn new(row: Leftover, names: &BTreeMap<BackendId, String>) -> LeftoverView {
        LeftoverView {
            id: row.id.to_string(),
            backend: names.get(&row.backend).cloned().unwrap_or_default(),
            path: row.path,
            size: row.size,
            reason: row.reason.name().to_owned(),
            parked: row.due.is_none(),
            due: row.due.map(rfc3339),
            attempts: row.attempts,
            error: row.error,
        }
    }
}

impl Desk {
    pub(super) async fn cleanup_list(&self, wish: &CleanupWish) -> Result<Value, ApiError> {
        let states = self.engine.backends().await?;
        let names: BTreeMap<BackendId, String> =
            states.into_iter().map(|state| (state.row.id, state.row.name)).collect();
        let backend = match &wish.backend {
            None => None,
            Some(wanted) => {
                let found = names.iter().find(|(_, name)| *name == wanted).map(|(id, _)| *id);
                let none = || ApiError::from(EngineError::NoSuchBackend).about("backend", wanted);
                Some(found.ok_or_else(none)?)
            }
        };
        let (rows, more) = self.engine.leftovers(backend, wish.all, LIST_MAX).await?;
        let items = rows.into_iter().map(|row| LeftoverView::new(row, &names)).collect();
        value(&CleanupView { items, more })
    }

    pub(super) async fn cleanup_retry(&self, chosen: &ChosenPaths) -> Result<Value, ApiError> {
        let ids = if chosen.all { None } else { Some(read(chosen)?) };
        let count = self.engine.leftovers_retry(ids).await?;
        value(&json!({ "retried": count }))
    }

    pub(super) async fn cleanup_forget(&self, chosen: &ChosenPaths) -> Result<Value, ApiError> {
        let count = self.engine.leftovers_forget(read(chosen)?).await?;
        value(&json!({ "forgotten": count }))
    }
}

fn read(chosen: &ChosenPaths) -> Result<Vec<WriteId>, ApiError> {
    let none = "no path is named";
    let hint = "`larder cleanup list` shows their ids";
    if chosen.ids.is_empty() {
        return Err(ApiError::invalid(none).hint(hint));
    }
    let id = |text: &String| {
        WriteId::from_text(text)
            .ok_or_else(|| ApiError::invalid(format!("`{text}` is no id")).hint(hint))
    };
    chosen.ids.iter().map(id).collect()
}
