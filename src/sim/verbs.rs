//! What is begun in the world, and what becomes of it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::model::At;
use super::model::BUCKETS;
use super::model::Content;
use super::model::KEYS;
use super::model::etag_of;
use super::model::key_of;
use super::world::OpenUpload;
use super::world::World;
use crate::engine::Body;
use crate::engine::CompletePart;
use crate::engine::CompleteUploadRequest;
use crate::engine::CopyObject;
use crate::engine::CreateUpload;
use crate::engine::EngineError;
use crate::engine::Expected;
use crate::engine::GetOptions;
use crate::engine::Leave;
use crate::engine::NewMeta;
use crate::engine::Next;
use crate::engine::PutObject;
use crate::engine::RangeWish;
use crate::engine::Step;
use crate::engine::Stored;
use crate::engine::UploadPart;
use crate::engine::WishRefused;
use crate::model::BucketName;
use crate::model::ObjectKey;
use crate::model::ReadConditions;
use crate::model::ReplicaState;
use crate::model::UploadId;
use crate::model::WriteConditions;
use crate::store::CensusBlob;
use crate::store::CensusReplica;
use crate::store::PartInfo;
use crate::store::StoreError;
use crate::store::Upload;
use crate::worker::Name;
use crate::worker::Turn;
use crate::worker::Worker;

/// Of a body's frames.
const FRAME: usize = 40_000;

/// A part that was acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) etag: String,
    pub(super) body: Bytes,
}

/// Something that is on its way.
pub(super) struct Flight {
    pub(super) verb: Verb,
    handle: JoinHandle<Answer>,
}

#[derive(Debug)]
pub(super) enum Verb {
    Put { op: u64, at: At, body: Bytes },
    Delete { op: u64, at: At },
    Get { op: u64, at: At, range: Option<(u64, u64)>, sure: Option<Sure> },
    Copy { op: u64, to: At },
    Create { at: At },
    Part { upload: UploadId, number: u32, body: Bytes },
    Complete { op: u64, at: At, upload: UploadId, body: Bytes },
    Abort { upload: UploadId },
    Step(Name),
    Watch,
    Wishes,
    Drain,
    Undrain,
    Remove,
}

/// Why a read must succeed: for each blob the sites that have it, and their troubles so far. As long
/// as one of them has no more, nothing hinders.
pub(super) type Sure = Vec<Vec<(usize, u64)>>;

#[allow(clippy::large_enum_variant, reason = "one lives at a time, and only in tests")]
pub(super) enum Answer {
    Stored(Result<Stored, EngineError>),
    Got(Result<Bytes, EngineError>),
    Upload(Box<Result<Upload, EngineError>>),
    Part(Result<PartInfo, EngineError>),
    Done(Result<(), EngineError>),
    Stepped(Box<dyn Worker>, Result<Step, EngineError>),
}

impl World {
    pub(super) fn fly(&mut self, verb: Verb, work: impl Future<Output = Answer> + Send + 'static) {
        let handle = {
            let _inside = self.life().runtime.enter();
            tokio::spawn(work)
        };
        self.flights.push(Flight { verb, handle });
        self.settle();
    }

    fn op(&mut self) -> u64 {
        self.ops += 1;
        self.ops
    }

    fn at(&mut self) -> At {
        (self.dice.index(BUCKETS.len()), self.dice.index(KEYS))
    }

    /// A body that no other is like.
    fn body(&mut self, op: u64) -> Bytes {
        let large = self.blob_max * 3;
        let (least, most) = self.dice.weighted(&[
            (5, (0, 0)),
            (60, (8, 2_000)),
            (25, (2_000, 30_000)),
            (6, (66_000, 120_000)),
            (if large > 1_000_000 { 1 } else { 4 }, (self.blob_max - 10, large)),
        ]);
        let size = self.dice.within(least, most) as usize;
        let mut dice = super::dice::Dice::new(self.seed ^ (op << 20));
        let words = (0..size.div_ceil(8)).flat_map(|_| dice.next().to_le_bytes());
        let mut body: Vec<u8> = words.collect();
        body.truncate(size);
        body.into()
    }

    // ---- Clients.

    pub(super) fn put(&mut self) {
        let (op, at) = (self.op(), self.at());
        let body = self.body(op);
        self.note(format!("#{op} put {at:?}, {}", Content::Body(body.clone()).name()));
        self.model.begins(op, at, Content::Body(body.clone()));
        let (engine, sent) = (self.engine(), stream_of(&body));
        let put = PutObject {
            bucket: BUCKETS[at.0].to_owned(),
            key: key(at),
            meta: NewMeta::default(),
            conditions: WriteConditions::default(),
            create_only: false,
            body: sent,
        };
        let work = async move { Answer::Stored(engine.put_object(put).await) };
        self.fly(Verb::Put { op, at, body }, work);
    }

    pub(super) fn delete(&mut self) {
        let at = self.at();
        self.delete_at(at);
    }

    fn delete_at(&mut self, at: At) {
        let op = self.op();
        self.note(format!("#{op} delete {at:?}"));
        self.model.begins(op, at, Content::Gone);
        let engine = self.engine();
        self.fly(Verb::Delete { op, at }, async move {
            let conditions = WriteConditions::default();
            let deleted = engine.delete_object(BUCKETS[at.0], key(at), conditions).await;
            Answer::Done(deleted.map(drop))
        });
    }

    pub(super) fn get(&mut self) {
        let at = self.at();
        self.get_at(at);
    }

    /// An object is deleted while it is read, and its bytes are to go at once.
    pub(super) fn race(&mut self) {
        let at = self.at();
        self.get_at(at);
        self.delete_at(at);
        self.work_as(Name::Cleanup, false);
    }

    fn get_at(&mut self, at: At) {
        let op = self.op();
        // What the store says of it now.
        self.check();
        let sure = self.sure(at);
        let range = match self.model.certain(at) {
            Some(Content::Body(body)) if body.len() > 1 && self.dice.chance(40) => {
                let first = self.dice.below(body.len() as u64);
                Some((first, self.dice.within(first, body.len() as u64)))
            }
            _ => None,
        };
        let is_sure = if sure.is_some() { ", which must succeed" } else { "" };
        self.note(format!("#{op} get {at:?} {range:?}{is_sure}"));
        self.model.read_begins(op, at);
        let engine = self.engine();
        self.fly(Verb::Get { op, at, range, sure }, async move {
            let range = range.map(|(first, last)| RangeWish::Between(first, last));
            let options = GetOptions { range, ..GetOptions::default() };
            Answer::Got(read(&engine, at, options).await)
        });
    }

    pub(super) fn copy(&mut self) {
        let (op, from, to) = (self.op(), self.at(), self.at());
        if from == to {
            return;
        }
        self.note(format!("#{op} copy {from:?} to {to:?}"));
        self.model.copy_begins(op, from, to);
        let engine = self.engine();
        let copy = CopyObject {
            source_bucket: BUCKETS[from.0].to_owned(),
            source_key: key(from),
            source_conditions: ReadConditions::default(),
            bucket: BUCKETS[to.0].to_owned(),
            key: key(to),
            conditions: WriteConditions::default(),
            create_only: false,
            headers: None,
            tags: None,
            algorithm: None,
        };
        let work = async move { Answer::Stored(engine.copy_object(copy).await) };
        self.fly(Verb::Copy { op, to }, work);
    }

    /// The next thing that can be done with uploads.
    pub(super) fn multipart(&mut self) {
        let free: Vec<usize> =
            (0..self.uploads.len()).filter(|&n| !self.uploads[n].is_busy).collect();
        if free.is_empty() || (self.uploads.len() < 3 && self.dice.chance(40)) {
            return self.create_upload();
        }
        let chosen = free[self.dice.index(free.len())];
        match (self.uploads[chosen].parts.is_empty(), self.dice.below(10)) {
            (_, 0) => self.abort_upload(chosen),
            (true, _) | (_, 1..4) => self.upload_part(chosen),
            _ => self.complete_upload(chosen),
        }
    }

    fn create_upload(&mut self) {
        let at = self.at();
        self.note(format!("upload begins for {at:?}"));
        let engine = self.engine();
        let create = CreateUpload {
            bucket: BUCKETS[at.0].to_owned(),
            key: key(at),
            meta: NewMeta::default(),
            checksum: None,
            initiator: "sim".to_owned(),
        };
        let work = async move { Answer::Upload(Box::new(engine.create_upload(create).await)) };
        self.fly(Verb::Create { at }, work);
    }

    fn upload_part(&mut self, chosen: usize) {
        let op = self.op();
        let (body, number) = (self.body(op), self.dice.within(1, 3) as u32);
        self.uploads[chosen].is_busy = true;
        let (at, upload) = (self.uploads[chosen].at, self.uploads[chosen].id);
        self.note(format!("part {number} of {upload:?} for {at:?}, {} bytes", body.len()));
        let part = UploadPart {
            bucket: BUCKETS[at.0].to_owned(),
            key: key(at),
            upload,
            number,
            body: stream_of(&body),
        };
        let engine = self.engine();
        let work = async move { Answer::Part(engine.upload_part(part).await) };
        self.fly(Verb::Part { upload, number, body }, work);
    }

    /// With one of the parts: only a last one may be as small as ours are.
    fn complete_upload(&mut self, chosen: usize) {
        let op = self.op();
        let open = &mut self.uploads[chosen];
        open.is_busy = true;
        let (at, upload) = (open.at, open.id);
        let (number, part) = open.parts.iter().next_back().map(|(n, p)| (*n, p.clone())).unwrap();
        self.note(format!("#{op} complete {upload:?} for {at:?} with part {number}"));
        self.model.begins(op, at, Content::Body(part.body.clone()));
        let request = CompleteUploadRequest {
            bucket: BUCKETS[at.0].to_owned(),
            key: key(at),
            upload,
            parts: vec![CompletePart { number, etag: part.etag, checksums: Vec::new() }],
            conditions: WriteConditions::default(),
            create_only: false,
            checksums: Vec::new(),
            checksum_type: None,
            size: None,
        };
        let engine = self.engine();
        let work = async move { Answer::Stored(engine.complete_upload(request).await) };
        self.fly(Verb::Complete { op, at, upload, body: part.body }, work);
    }

    fn abort_upload(&mut self, chosen: usize) {
        self.uploads[chosen].is_busy = true;
        let (at, upload) = (self.uploads[chosen].at, self.uploads[chosen].id);
        self.note(format!("abort {upload:?}"));
        let engine = self.engine();
        self.fly(Verb::Abort { upload }, async move {
            Answer::Done(engine.abort_upload(BUCKETS[at.0], key(at), upload).await)
        });
    }

    // ---- Background work.

    pub(super) fn work(&mut self) {
        let names: Vec<Name> = self.idle.keys().copied().collect();
        if names.is_empty() {
            return;
        }
        let mut name = self.dice.of(&names);
        if self.has_surplus() && names.contains(&Name::OverReplication) && self.dice.chance(40) {
            name = Name::OverReplication;
        }
        let full = match name {
            Name::Rebalancer => 60,
            // Whoever asks for a full pass gets a worker of his own.
            Name::Reconciler | Name::Scrubber => 0,
            _ => 20,
        };
        let is_full = self.dice.chance(full);
        self.work_as(name, is_full);
    }

    fn has_surplus(&self) -> bool {
        let census = &self.census;
        let good = |blob: &CensusBlob| {
            let of = |r: &&CensusReplica| r.blob == blob.id && r.state == ReplicaState::Good;
            census.replicas.iter().filter(of).count()
        };
        census.blobs.iter().any(|blob| good(blob) > blob.wish.replicas as usize)
    }

    pub(super) fn work_as(&mut self, name: Name, is_full: bool) {
        let Some(mut worker) = self.idle.remove(&name) else { return };
        self.note(format!("{name} steps{}", if is_full { ", in full" } else { "" }));
        let settings = Arc::clone(&self.crew);
        let turn = Turn { settings, is_full, stop: CancellationToken::new() };
        self.fly(Verb::Step(name), async move {
            let step = worker.step(&turn).await;
            Answer::Stepped(worker, step)
        });
    }

    pub(super) fn watch(&mut self) {
        if self.flights.iter().any(|flight| matches!(flight.verb, Verb::Watch)) {
            return;
        }
        self.note("the fleet is looked at".to_owned());
        let engine = self.engine();
        self.fly(Verb::Watch, async move {
            engine.look_for_absent().await;
            Answer::Done(Ok(()))
        });
    }

    // ---- The operator.

    pub(super) fn change_wishes(&mut self) {
        let (bucket, wishes) = (self.dice.of(&BUCKETS), self.wishes());
        self.note(format!("bucket {bucket} wishes {wishes:?}"));
        let (engine, name) = (self.engine(), BucketName::new(bucket).unwrap());
        self.fly(Verb::Wishes, async move {
            Answer::Done(match engine.change_bucket(name, wishes).await {
                Err(WishRefused::Engine(err)) => Err(err),
                Ok(_) | Err(WishRefused::Impossible(_)) => Ok(()),
            })
        });
    }

    pub(super) fn drain(&mut self, site: usize) {
        self.note(format!("drain {site}"));
        let (engine, name) = (self.engine(), self.sites[site].name());
        self.fly(Verb::Drain, async move { Answer::Done(engine.drain(&name).await.map(drop)) });
    }

    pub(super) fn undrain(&mut self, site: usize) {
        self.note(format!("undrain {site}"));
        let (engine, name) = (self.engine(), self.sites[site].name());
        self.fly(Verb::Undrain, async move { Answer::Done(engine.undrain(&name).await.map(drop)) });
    }

    pub(super) fn remove(&mut self, site: usize) {
        self.note(format!("remove {site}"));
        let (engine, name) = (self.engine(), self.sites[site].name());
        self.fly(Verb::Remove, async move {
            let removed = engine.remove_backend(&name, Leave::Nothing, false).await;
            Answer::Done(removed.map(drop))
        });
    }

    // ---- Answers.

    /// Takes the answers that there are.
    pub(super) fn land(&mut self) {
        while let Some(at) = self.flights.iter().position(|flight| flight.handle.is_finished()) {
            let Flight { verb, handle } = self.flights.remove(at);
            match self.ask(handle) {
                Ok(answer) => self.take(verb, answer),
                Err(panic) => panic!("{verb:?} panicked: {panic}"),
            }
        }
    }

    /// The answers of what is on its way are lost.
    pub(super) fn forget_flights(&mut self) {
        for flight in std::mem::take(&mut self.flights) {
            match flight.verb {
                Verb::Put { op, at, .. } | Verb::Delete { op, at } | Verb::Copy { op, to: at } => {
                    self.model.is_unknown(op, at);
                }
                Verb::Get { op, at, .. } => drop(self.model.read_ends(op, at)),
                Verb::Complete { op, at, upload, .. } => {
                    self.model.is_unknown(op, at);
                    self.uploads.retain(|open| open.id != upload);
                }
                Verb::Part { upload, .. } | Verb::Abort { upload } => {
                    // What it consists of is not known any more.
                    self.uploads.retain(|open| open.id != upload);
                }
                _ => {}
            }
        }
    }

    fn take(&mut self, verb: Verb, answer: Answer) {
        if let Some(err) = error_of(&answer) {
            let sane =
                !matches!(err, EngineError::Store(why) if matches!(**why, StoreError::Sqlite(_)));
            assert!(sane, "{verb:?} met a store that is broken: {err:?}");
        }
        match (verb, answer) {
            (Verb::Put { op, at, body }, Answer::Stored(stored)) => {
                self.changed(op, at, "put", Content::Body(body), stored.map(drop));
            }
            (Verb::Delete { op, at }, Answer::Done(done)) => {
                self.changed(op, at, "delete", Content::Gone, done);
            }
            (Verb::Copy { op, to }, Answer::Stored(stored)) => self.copied(op, to, stored),
            (Verb::Get { op, at, range, sure }, Answer::Got(got)) => {
                self.got((op, at), range, sure, got);
            }
            (Verb::Complete { op, at, upload, body }, Answer::Stored(stored)) => {
                self.uploads.retain(|open| open.id != upload);
                if let Ok(stored) = &stored {
                    self.model.composes(stored.etag, body.clone());
                }
                self.changed(op, at, "complete", Content::Body(body), stored.map(drop));
            }
            (Verb::Create { at }, Answer::Upload(upload)) => {
                let Ok(upload) = *upload else { return };
                let (id, parts) = (upload.id, Default::default());
                self.uploads.push(OpenUpload { at, id, parts, is_busy: false });
            }
            (Verb::Part { upload, number, body }, Answer::Part(part)) => {
                self.part_came(upload, number, body, part);
            }
            (Verb::Abort { upload }, Answer::Done(_)) => {
                self.uploads.retain(|open| open.id != upload);
            }
            (Verb::Step(name), Answer::Stepped(worker, step)) => {
                self.idle.insert(name, worker);
                self.stepped(name, step);
            }
            (verb, Answer::Done(done)) => {
                self.note(format!("{verb:?}: {:?}", done.as_ref().map_err(ToString::to_string)));
                if done.is_ok() {
                    self.count(verb.name());
                }
            }
            (verb, _) => panic!("{verb:?} got the answer to another question"),
        }
    }

    fn changed(
        &mut self,
        op: u64,
        at: At,
        what: &str,
        made: Content,
        done: Result<(), EngineError>,
    ) {
        match done {
            Ok(()) => {
                self.note(format!("#{op} {what} is acknowledged"));
                self.count(what);
                self.model.is_made(op, at, made);
            }
            Err(err) => self.not_changed(op, at, &err),
        }
    }

    fn not_changed(&mut self, op: u64, at: At, err: &EngineError) {
        self.note(format!("#{op} fails: {}", crate::base::chain(err)));
        match err {
            EngineError::Store(_) => self.model.is_unknown(op, at),
            _ => self.model.is_refused(op, at),
        }
    }

    fn copied(&mut self, op: u64, to: At, stored: Result<Stored, EngineError>) {
        let stored = match stored {
            Ok(stored) => stored,
            Err(err) => return self.not_changed(op, to, &err),
        };
        let Some(made) = self.model.copy_is_made(op, to, &stored.etag) else {
            panic!("copy #{op} made {}, which its source never was", stored.etag);
        };
        self.count("copy");
        self.note(format!("#{op} copied {}", made.name()));
    }

    fn part_came(
        &mut self,
        upload: UploadId,
        number: u32,
        body: Bytes,
        part: Result<PartInfo, EngineError>,
    ) {
        let said = part.as_ref().map(|part| part.number).map_err(ToString::to_string);
        self.note(format!("part of {upload:?}: {said:?}"));
        let Some(open) = self.uploads.iter_mut().find(|open| open.id == upload) else { return };
        open.is_busy = false;
        match part {
            Ok(_) => {
                let etag = etag_of(&body).to_string();
                open.parts.insert(number, Part { etag, body });
                self.count("part");
            }
            // The old part of this number may still be there, or not.
            Err(EngineError::Store(_)) => drop(open.parts.remove(&number)),
            Err(_) => {}
        }
    }

    fn stepped(&mut self, name: Name, step: Result<Step, EngineError>) {
        let is_now = step.as_ref().is_ok_and(|step| step.next == Next::Now);
        self.has_said_now = is_now.then_some(name);
        match step {
            Ok(step) => {
                let Step { processed, failed, next, counts, .. } = step;
                self.note(format!("{name}: {processed} done, {failed} not, {counts:?}, {next:?}"));
                *self.tally.entry(name.to_string()).or_default() += processed;
            }
            Err(err) => self.note(format!("{name} fails: {}", crate::base::chain(&err))),
        }
    }
}

impl Verb {
    fn name(&self) -> &'static str {
        match self {
            Verb::Drain => "drains",
            Verb::Undrain => "undrains",
            Verb::Remove => "removals",
            Verb::Wishes => "changed wishes",
            _ => "looks at the fleet",
        }
    }
}

fn error_of(answer: &Answer) -> Option<&EngineError> {
    match answer {
        Answer::Stored(result) => result.as_ref().err(),
        Answer::Got(result) => result.as_ref().err(),
        Answer::Upload(result) => result.as_ref().as_ref().err(),
        Answer::Part(result) => result.as_ref().err(),
        Answer::Done(result) => result.as_ref().err(),
        Answer::Stepped(_, result) => result.as_ref().err(),
    }
}

fn key(at: At) -> ObjectKey {
    ObjectKey::new(key_of(at)).unwrap()
}

fn stream_of(body: &Bytes) -> Body {
    let frames: Vec<_> =
        body.chunks(FRAME).map(|frame| Ok(Bytes::copy_from_slice(frame))).collect();
    Body {
        size: body.len() as u64,
        stream: stream::iter(frames).boxed(),
        expected: Expected::default(),
        trailer: None,
        draws: true,
        waits: false,
    }
}

pub(super) async fn read(
    engine: &crate::engine::Engine,
    at: At,
    options: GetOptions,
) -> Result<Bytes, EngineError> {
    let got = engine.get_object(BUCKETS[at.0], key(at), options).await?;
    let pieces: Vec<Bytes> = got.body.try_collect().await?;
    Ok(pieces.concat().into())
}
