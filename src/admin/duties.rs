//! The operator's verbs that move bytes: emptying and removing backends, and plans before they are
//! carried out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use super::desk::Desk;
use super::desk::value;
use super::error::ApiError;
use super::long::Long;
use super::views::rfc3339;
use crate::engine::DrainProgress;
use crate::engine::Holdings;
use crate::engine::Leave;
use crate::engine::Skipped;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::worker::RunProgress;
use crate::worker::rebalance_rules;

/// How long a confirmation holds.
const CONFIRM_WITHIN: Duration = Duration::from_secs(60);
/// Blobs that are looked at for a plan of what would be given up, unless more are asked for.
const SURPLUS_BATCH: usize = 1000;
pub(super) const SURPLUS_BATCH_MAX: usize = 10_000;

/// How a backend shall be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveWish {
    /// Delete its bytes through the cleanup queue.
    #[serde(default)]
    pub purge: bool,
    /// What the first, refused call gave.
    #[serde(default)]
    pub confirm: Option<String>,
}

/// What a plan of surplus replicas shall look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SurplusWish {
    /// Blobs; 0 for the usual number.
    #[serde(default)]
    pub batch: usize,
}

/// How far a backend is emptied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    pub backend: String,
    /// Whether it is being emptied.
    pub draining: bool,
    /// Replicas and condemned paths that are still there.
    pub rows: u64,
    pub bytes: u64,
    pub began: Option<String>,
    pub bytes_at_begin: Option<u64>,
    /// At the pace so far.
    pub seconds_left: Option<u64>,
    /// Replicas that cannot leave now, by the reason.
    pub stuck: BTreeMap<String, u64>,
}

/// What was on a backend that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedView {
    pub removed: String,
    /// Replicas that it still had.
    pub replicas: u64,
    pub bytes: u64,
    /// Of those, the only good ones: their objects cannot be read until it is back.
    pub lost: u64,
    pub purge: bool,
}

/// A replica that would move, or be given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveView {
    pub blob: String,
    pub from: String,
    /// `None`: it would be given up.
    pub to: Option<String>,
    pub bytes: u64,
    /// In the currency of the configured prices, where all that count are known.
    pub money: Option<f64>,
}

/// What a run would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    pub moves: Vec<MoveView>,
    /// Why there are none: `threshold` or `empty_plan`.
    pub skipped: Option<String>,
    pub bytes: u64,
    pub money: Option<f64>,
}

impl Desk {
    pub(super) async fn drain(&self, name: &str) -> Result<Value, ApiError> {
        let begun = self.engine.drain(name).await;
        begun.map_err(|err| ApiError::from(err).about("backend", name))?;
        value(&self.drain_view(name).await?)
    }

    pub(super) async fn undrain(&self, name: &str) -> Result<Value, ApiError> {
        let ended = self.engine.undrain(name).await;
        ended.map_err(|err| ApiError::from(err).about("backend", name))?;
        value(&self.drain_view(name).await?)
    }

    pub(super) async fn drain_view(&self, name: &str) -> Result<DrainView, ApiError> {
        let progress = self.engine.drain_progress(name).await;
        let progress = progress.map_err(|err| ApiError::from(err).about("backend", name))?;
        Ok(DrainView::new(name, progress))
    }

    /// Bytes that would be lost, or deleted, want a second call with the word that the first gave.
    /// It goes on by itself when nobody waits any more.
    pub(super) fn remove(&self, name: String, wish: RemoveWish) -> Long<'_> {
        let progress = Arc::new(RunProgress::default());
        let seen = Arc::clone(&progress);
        let work = async move {
            let removed = self.remove_begin(&name, wish).await?;
            self.drain_pass(&progress).await?;
            value(&removed)
        };
        Long::new(work, move || json!({ "processed": seen.now().processed }))
    }

    async fn remove_begin(&self, name: &str, wish: RemoveWish) -> Result<RemovedView, ApiError> {
        let about = |err| ApiError::from(err).about("backend", name);
        let (id, holdings) = self.engine.backend_holdings(name).await.map_err(about)?;
        let leave = if wish.purge { Leave::Nothing } else { Leave::Bytes };
        if wish.purge && holdings.sole > 0 {
            return Err(sole(name, &holdings).hint(
                "drain it first; or remove it without --purge, which keeps the bytes where they are",
            ));
        }
        if holdings.sole > 0 || wish.purge && holdings.replicas > 0 {
            let now = self.engine.clock.now();
            let is_confirmed = wish.confirm.is_some_and(|word| {
                confirmation_holds(&word, id, &holdings, wish.purge, now.seconds())
            });
            if !is_confirmed {
                let until = now.plus(CONFIRM_WITHIN).seconds();
                let word = confirmation(id, &holdings, wish.purge, until);
                let hint = format!("to do it all the same, add --confirm {word} within a minute");
                let refusal = match wish.purge {
                    true => would_delete(name, &holdings),
                    false => sole(name, &holdings),
                };
                return Err(refusal.hint(hint));
            }
        }
        let removed = self.engine.remove_backend(name, leave, holdings.sole > 0).await;
        let held = removed.map_err(about)?;
        Ok(RemovedView {
            removed: name.to_owned(),
            replicas: held.replicas,
            bytes: held.bytes,
            lost: held.sole,
            purge: wish.purge,
        })
    }

    pub(super) async fn rebalance_plan(&self) -> Result<Value, ApiError> {
        let rules = rebalance_rules(&self.crew.settings());
        let names = self.names().await?;
        let view = match self.engine.rebalance_plan(rules).await? {
            Ok(moves) => PlanView::of(moves.into_iter().map(|planned| MoveView {
                blob: planned.blob.to_string(),
                from: name_of(&names, planned.from),
                to: Some(name_of(&names, planned.to)),
                bytes: planned.bytes,
                money: planned.money,
            })),
            Err(skipped) => {
                let skipped = Some(Skipped::name(skipped).to_owned());
                PlanView { skipped, ..PlanView::of(std::iter::empty()) }
            }
        };
        value(&view)
    }

    pub(super) async fn surplus_plan(&self, wish: SurplusWish) -> Result<Value, ApiError> {
        let batch = match wish.batch {
            0 => SURPLUS_BATCH,
            batch => batch.min(SURPLUS_BATCH_MAX),
        };
        let names = self.names().await?;
        let (planned, _) = self.engine.surplus_plan(BlobId(0), batch).await?;
        value(&PlanView::of(planned.into_iter().map(|replica| MoveView {
            blob: replica.blob.to_string(),
            from: name_of(&names, replica.backend),
            to: None,
            bytes: replica.size,
            money: None,
        })))
    }

    pub(super) async fn names(&self) -> Result<BTreeMap<BackendId, String>, ApiError> {
        let states = self.engine.backends().await?;
        Ok(states.into_iter().map(|state| (state.row.id, state.row.name)).collect())
    }
}

impl DrainView {
    pub(super) fn new(name: &str, progress: Option<DrainProgress>) -> DrainView {
        let draining = progress.is_some();
        let progress = progress.unwrap_or_default();
        DrainView {
            backend: name.to_owned(),
            draining,
            rows: progress.rows,
            bytes: progress.bytes,
            began: progress.began.map(|(at, _)| rfc3339(at)),
            bytes_at_begin: progress.began.map(|(_, bytes)| bytes),
            seconds_left: progress.time_left.map(|left| left.as_secs()),
            stuck: progress.stuck,
        }
    }
}

impl PlanView {
    fn of(moves: impl Iterator<Item = MoveView>) -> PlanView {
        let moves: Vec<MoveView> = moves.collect();
        let bytes = moves.iter().map(|planned| planned.bytes).sum();
        let money = moves.iter().map(|planned| planned.money).sum::<Option<f64>>();
        PlanView { skipped: None, bytes, money: money.filter(|_| !moves.is_empty()), moves }
    }
}

fn name_of(names: &BTreeMap<BackendId, String>, id: BackendId) -> String {
    names.get(&id).cloned().unwrap_or_else(|| id.to_string())
}

fn sole(name: &str, holdings: &Holdings) -> ApiError {
    let Holdings { sole, sole_bytes, .. } = holdings;
    let text = format!(
        "backend {name} has the only good replicas of {sole} blobs ({sole_bytes} bytes): their \
         objects could not be read any more"
    );
    ApiError::new(StatusCode::CONFLICT, "sole_replicas", text)
        .hint(format!("`larder backend drain {name}` moves them elsewhere first"))
}

fn would_delete(name: &str, holdings: &Holdings) -> ApiError {
    let Holdings { replicas, bytes, .. } = holdings;
    let text =
        format!("this deletes {replicas} replicas ({bytes} bytes) on backend {name} for good");
    ApiError::new(StatusCode::CONFLICT, "confirm", text)
}

/// A word for exactly this removal, until that second. It is no secret: it keeps an owner from
/// doing by one line what he has not seen.
fn confirmation(id: BackendId, holdings: &Holdings, purge: bool, until: i64) -> String {
    let said = format!("{id} {} {} {purge} {until}", holdings.sole, holdings.replicas);
    let hash = blake3::hash(said.as_bytes()).to_hex();
    format!("{until:x}-{}", &hash[..8])
}

fn confirmation_holds(
    word: &str,
    id: BackendId,
    holdings: &Holdings,
    purge: bool,
    now: i64,
) -> bool {
    let until = word.split_once('-').and_then(|(until, _)| i64::from_str_radix(until, 16).ok());
    until.is_some_and(|until| {
        now <= until
            && until <= now + CONFIRM_WITHIN.as_secs() as i64
            && confirmation(id, holdings, purge, until) == word
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_is_for_one_backend_one_state_and_one_minute() {
        let holdings = Holdings { replicas: 9, sole: 2, ..Holdings::default() };
        let word = confirmation(BackendId(7), &holdings, false, 1060);
        let holds = |word: &str, id, holdings: &Holdings, purge, now| {
            confirmation_holds(word, BackendId(id), holdings, purge, now)
        };
        assert!(holds(&word, 7, &holdings, false, 1000));
        assert!(holds(&word, 7, &holdings, false, 1060));
        assert!(!holds(&word, 7, &holdings, false, 1061), "it is too late");
        assert!(!holds(&word, 7, &holdings, false, 999), "it was given for later");
        assert!(!holds(&word, 8, &holdings, false, 1000));
        assert!(!holds(&word, 7, &holdings, true, 1000));
        let more = Holdings { sole: 3, ..holdings };
        assert!(!holds(&word, 7, &more, false, 1000), "there is more to lose by now");
        for wrong in ["", "-", "424-", "zz-12345678", &word[..5]] {
            assert!(!holds(wrong, 7, &holdings, false, 1000), "{wrong}");
        }
    }
}
