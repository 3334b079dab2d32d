//! Moving one replica: a copy to another backend, and one transaction in which it takes the place
//! of the old one.
//!
//! The new replica is looked at on its backend before the old one is given up for it, and the two
//! change places in the transaction that records it: at no time does the blob have fewer good
//! replicas than before.

use std::sync::Arc;

use super::Engine;
use super::copy_blob::CopyBlobError;
use super::copy_blob::Ending;
use super::write::Between;
use crate::backend::Fleet;
use crate::model::BackendId;
use crate::model::BlobId;
use crate::model::CondemnReason;
use crate::model::WriteId;
use crate::store::CopyWhen;

/// A replica that is to move, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) blob: BlobId,
    pub(crate) write: WriteId,
    pub(crate) from: BackendId,
    pub(crate) to: BackendId,
}

impl Engine {
    /// `Store(Changed)` when the replica is not there to be moved any more, `Store(NoRoom)` when
    /// its new backend does not take it: after either nothing has changed.
    pub(crate) async fn move_replica(
        &self,
        fleet: &Arc<Fleet>,
        wanted: Move,
        reason: CondemnReason,
    ) -> Result<(), CopyBlobError> {
        let facts = self.store.blob(wanted.blob).await?;
        let between = Between { from: wanted.from, to: wanted.to };
        let choose = self.move_chooser(fleet, &facts.wish, facts.stem, between);
        let how = (CopyWhen::Always, Ending::InsteadOf(wanted.write, reason));
        self.copy_blob(Arc::clone(fleet), wanted.blob, how, choose).await.map(drop)
    }
}
