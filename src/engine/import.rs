//! Import: files that lie on a backend and are not Larder's become objects, where they are.
//!
//! It walks over a listing once. Each file is decided by the store in the transaction that takes
//! it, so an import that broke off is only run again, and two at once do no harm.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;

use super::Engine;
use super::EngineError;
use super::content_type::content_type;
use crate::backend::Listed;
use crate::base::limits::BLOB_SIZE_MAX;
use crate::base::limits::WORK_ROWS_MAX;
use crate::model::BackendId;
use crate::model::Bucket;
use crate::model::Duty;
use crate::model::Etag;
use crate::model::Headers;
use crate::model::ObjectKey;
use crate::model::path::write_id;
use crate::store::FileObject;
use crate::store::Import;
use crate::store::ListedFile;
use crate::store::NewImport;

/// What is imported, and as what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportWish {
    pub backend: String,
    pub bucket: String,
    /// The directory whose files are imported; empty: all.
    pub prefix: String,
    /// The directory that keys do without.
    pub strip: String,
    /// Only say what would become of them.
    pub is_dry: bool,
    /// The files are Larder's own from then on, those imported before as well.
    pub takes_over: bool,
}

/// How far it is, for whoever waits. Shared with the run.
#[derive(Debug, Default)]
pub struct ImportProgress {
    pub files: AtomicU64,
    pub imported: AtomicU64,
    pub bytes: AtomicU64,
}

/// What became of the files; of a dry run, what would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Files that were listed.
    pub files: u64,
    pub imported: u64,
    /// Of those imported.
    pub bytes: u64,
    /// They are replicas already, Larder's own or imported before.
    pub known: u64,
    /// Their bucket gave them up before.
    pub suppressed: u64,
    /// Their key has an object.
    pub conflicts: u64,
    /// The bucket's quota has no room for them.
    pub quota: u64,
    /// They are larger than a blob may be.
    pub too_large: u64,
    /// They are empty, or their path makes no key.
    pub skipped: u64,
    /// Replicas that are no longer only borrowed.
    pub taken_over: u64,
}

impl Imported {
    fn count(&mut self, became: Import, size: u64) {
        let number = match became {
            Import::Imported => {
                self.bytes += size;
                &mut self.imported
            }
            Import::Known => &mut self.known,
            Import::Suppressed => &mut self.suppressed,
            Import::Conflict => &mut self.conflicts,
            Import::Quota => &mut self.quota,
            Import::TooLarge => &mut self.too_large,
        };
        *number += 1;
    }
}

impl Engine {
    /// What was imported stays when it fails or is given up; run again it goes on from there.
    pub async fn import(
        &self,
        wish: &ImportWish,
        progress: &ImportProgress,
    ) -> Result<Imported, EngineError> {
        let bucket = self.bucket(&wish.bucket)?;
        let row = self.backend_row(&wish.backend).await?;
        if row.duty != Duty::InUse {
            return Err(EngineError::Invalid("the backend is not in use"));
        }
        let fleet = self.fleet.load().for_work();
        let backend = fleet.get(row.id).ok_or(EngineError::NoSuchBackend)?;
        let (prefix, strip) = (below(&wish.prefix), below(&wish.strip));
        let listed = backend.list(&prefix).await.map_err(unlisted)?;
        let mut chunks = listed.ready_chunks(WORK_ROWS_MAX);
        let mut became = Imported::default();
        while let Some(chunk) = chunks.next().await {
            let mut files = Vec::with_capacity(chunk.len());
            let mut broken = None;
            for entry in chunk {
                match entry {
                    Ok(entry) => files.push(listed_file(entry)),
                    Err(err) => broken = Some(err),
                }
            }
            let seen = files.clone();
            self.import_some((row.id, &bucket), &strip, files, wish.is_dry, &mut became).await?;
            if wish.takes_over && !wish.is_dry {
                became.taken_over += self.take_over(row.id, seen).await?;
            }
            progress.files.store(became.files, Ordering::Relaxed);
            progress.imported.store(became.imported, Ordering::Relaxed);
            progress.bytes.store(became.bytes, Ordering::Relaxed);
            if let Some(err) = broken {
                return Err(unlisted(err));
            }
        }
        if became.imported > 0 {
            // They may be older than anything that was there.
            self.rules_changed().notify_one();
        }
        Ok(became)
    }

    /// Those that their owner changed become new versions before they are taken over.
    async fn take_over(
        &self,
        backend: BackendId,
        files: Vec<ListedFile>,
    ) -> Result<u64, EngineError> {
        let (taken, changed) = self.store.files_take_over(backend, files).await?;
        if changed.is_empty() {
            return Ok(taken);
        }
        let files = changed.iter().map(|(_, file)| file.clone()).collect();
        let object = |(write, file)| Some((write, changed_object(backend, file)?));
        self.store.files_changed(changed.into_iter().filter_map(object).collect()).await?;
        let (others, _) = self.store.files_take_over(backend, files).await?;
        Ok(taken + others)
    }

    async fn import_some(
        &self,
        (backend, bucket): (BackendId, &Bucket),
        strip: &str,
        files: Vec<ListedFile>,
        is_dry: bool,
        became: &mut Imported,
    ) -> Result<(), EngineError> {
        let mut imports = Vec::with_capacity(files.len());
        for file in files {
            became.files += 1;
            if write_id(&file.path).is_some() {
                became.known += 1;
                continue;
            }
            let key = file.path.strip_prefix(strip);
            match key.and_then(|key| import_of(backend, bucket, key, file.clone())) {
                Some(import) => imports.push(import),
                None => became.skipped += 1,
            }
        }
        let sizes: Vec<u64> = imports.iter().map(|import| import.object.file.size).collect();
        let fates = match is_dry {
            true => self.store.files_import_dry(backend, imports).await?,
            false => self.store.files_import(backend, imports).await?,
        };
        fates.into_iter().zip(sizes).for_each(|(fate, size)| became.count(fate, size));
        Ok(())
    }
}

/// The directory as what paths in it begin with.
fn below(directory: &str) -> String {
    match directory.trim_matches('/') {
        "" => String::new(),
        directory => format!("{directory}/"),
    }
}

fn unlisted(err: crate::backend::BackendError) -> EngineError {
    EngineError::Unavailable(Some(Arc::new(err)))
}

pub(crate) fn listed_file(entry: Listed) -> ListedFile {
    ListedFile { path: entry.path, size: entry.size, modified: entry.modified }
}

/// `None` for a file that is empty, or whose name is no key.
pub(crate) fn import_of(
    backend: BackendId,
    bucket: &Bucket,
    key: &str,
    file: ListedFile,
) -> Option<NewImport> {
    let key = ObjectKey::new(key).ok()?;
    let object = file_object(backend, file)?;
    Some(NewImport { bucket: bucket.id, key, object })
}

/// The new version that a changed file makes; `None` when it has no bytes that one could have.
pub(crate) fn changed_object(backend: BackendId, file: ListedFile) -> Option<FileObject> {
    file_object(backend, file).filter(|object| object.file.size <= BLOB_SIZE_MAX)
}

/// What a file says as an object; `None` for an empty one.
fn file_object(backend: BackendId, file: ListedFile) -> Option<FileObject> {
    let headers =
        Headers { content_type: content_type(&file.path).map(str::to_owned), ..Headers::default() };
    (file.size > 0).then(|| FileObject { etag: etag(backend, &file), headers, file })
}

/// Another one when the file was changed, as far as its length and time tell.
fn etag(backend: BackendId, file: &ListedFile) -> Etag {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&backend.0.to_be_bytes());
    hasher.update(&file.size.to_be_bytes());
    hasher.update(&file.modified.map_or(0, |modified| modified.0).to_be_bytes());
    hasher.update(file.path.as_bytes());
    let mut md5 = [0; 16];
    md5.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Etag { md5, parts: Some(1) }
}
