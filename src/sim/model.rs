//! What every object may be, as far as its clients were told.
//!
//! A change that was acknowledged is what the object is from then on, but for changes that went on
//! at the same time, which may have come before or after it. One whose answer was lost in a crash
//! may have happened or not. One that was refused has not happened.

use std::collections::BTreeMap;

use bytes::Bytes;
use md5::Digest;
use md5::Md5;

use crate::model::Etag;

pub(super) const BUCKETS: [&str; 2] = ["larch", "maple"];
pub(super) const KEYS: usize = 5;

/// An object: the number of its bucket and its own.
pub(super) type At = (usize, usize);

pub(super) fn key_of(at: At) -> String {
    // Some share a directory, one has a name that is another's directory.
    ["a", "a/b", "a/c", "d/e/f", "a long name + ü"][at.1].to_owned()
}

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Gone,
    Body(Bytes),
}

impl Content {
    pub(super) fn name(&self) -> String {
        match self {
            Content::Gone => "nothing".to_owned(),
            Content::Body(body) => format!("{} bytes {}", body.len(), short(body)),
        }
    }

    /// Whether a body is what `etag`, of one that was written at once, says.
    fn is(&self, etag: &Etag) -> bool {
        match self {
            Content::Gone => false,
            Content::Body(body) => etag_of(body) == *etag,
        }
    }
}

pub(super) fn etag_of(body: &[u8]) -> Etag {
    Etag::of_body(Md5::digest(body).into())
}

/// Enough of a body to tell it from others.
fn short(body: &[u8]) -> String {
    body.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What one object may be.
#[derive(Debug)]
struct Possible {
    may_be: Vec<Content>,
    /// What changes on their way may make of it, and those that were made since each began.
    on_the_way: BTreeMap<u64, Vec<Content>>,
    made_since: BTreeMap<u64, Vec<Content>>,
    /// What each read on its way may find.
    readers: BTreeMap<u64, Vec<Content>>,
}

impl Default for Possible {
    fn default() -> Possible {
        Possible {
            may_be: vec![Content::Gone],
            on_the_way: BTreeMap::new(),
            made_since: BTreeMap::new(),
            readers: BTreeMap::new(),
        }
    }
}

impl Possible {
    fn now(&self) -> Vec<Content> {
        let mut now = self.may_be.clone();
        self.on_the_way.values().flatten().for_each(|content| add(&mut now, content));
        now
    }
}

fn add(to: &mut Vec<Content>, content: &Content) {
    if !to.contains(content) {
        to.push(content.clone());
    }
}

/// What all objects may be.
#[derive(Debug, Default)]
pub(super) struct Model {
    objects: BTreeMap<At, Possible>,
    /// Copies on their way: from where, and to where.
    copies: BTreeMap<u64, (At, At)>,
    /// Multipart etags of objects, and their bodies.
    composed: Vec<(Etag, Bytes)>,
}

impl Model {
    pub(super) fn now(&self, at: At) -> Vec<Content> {
        self.objects.get(&at).map_or_else(|| vec![Content::Gone], Possible::now)
    }

    /// What it certainly is, while nothing changes it.
    pub(super) fn certain(&self, at: At) -> Option<Content> {
        let now = self.now(at);
        let is_calm = self.objects.get(&at).is_none_or(|object| object.on_the_way.is_empty());
        (is_calm && now.len() == 1).then(|| now[0].clone())
    }

    pub(super) fn begins(&mut self, op: u64, at: At, content: Content) {
        let object = self.objects.entry(at).or_default();
        object.on_the_way.insert(op, Vec::new());
        object.made_since.insert(op, Vec::new());
        self.may_become(op, at, vec![content]);
    }

    pub(super) fn copy_begins(&mut self, op: u64, from: At, to: At) {
        let object = self.objects.entry(to).or_default();
        object.on_the_way.insert(op, Vec::new());
        object.made_since.insert(op, Vec::new());
        self.copies.insert(op, (from, to));
        let mut contents = self.now(from);
        contents.retain(|content| *content != Content::Gone);
        self.may_become(op, to, contents);
    }

    /// A change on its way may make more of its object than was known: readers and copies follow.
    fn may_become(&mut self, op: u64, at: At, contents: Vec<Content>) {
        let object = self.objects.entry(at).or_default();
        let Some(known) = object.on_the_way.get_mut(&op) else { return };
        let before = known.len();
        contents.iter().for_each(|content| add(known, content));
        if known.len() == before {
            return;
        }
        for seen in object.readers.values_mut() {
            contents.iter().for_each(|content| add(seen, content));
        }
        let bodies: Vec<Content> = contents.into_iter().filter(|c| *c != Content::Gone).collect();
        let follow: Vec<(u64, At)> = self
            .copies
            .iter()
            .filter(|(_, (from, _))| *from == at)
            .map(|(op, (_, to))| (*op, *to))
            .collect();
        for (copy, to) in follow {
            self.may_become(copy, to, bodies.clone());
        }
    }

    /// It was acknowledged, and made this of its object.
    pub(super) fn is_made(&mut self, op: u64, at: At, content: Content) {
        self.copies.remove(&op);
        let object = self.objects.entry(at).or_default();
        object.on_the_way.remove(&op);
        let overlapping = object.made_since.remove(&op).unwrap_or_default();
        let mut may_be = vec![content.clone()];
        overlapping.iter().for_each(|content| add(&mut may_be, content));
        object.on_the_way.values().flatten().for_each(|content| add(&mut may_be, content));
        object.may_be = may_be;
        object.made_since.values_mut().for_each(|since| add(since, &content));
    }

    /// The copy was acknowledged with this etag; what it made, if it can have been.
    pub(super) fn copy_is_made(&mut self, op: u64, to: At, etag: &Etag) -> Option<Content> {
        let known = self.objects.get(&to)?.on_the_way.get(&op)?;
        let composed = |body: &Content| {
            let is_it = |(known, whole): &(Etag, Bytes)| {
                known == etag && *body == Content::Body(whole.clone())
            };
            self.composed.iter().any(is_it)
        };
        let found = known.iter().find(|body| body.is(etag) || composed(body)).cloned()?;
        self.is_made(op, to, found.clone());
        Some(found)
    }

    /// The etag of an object that was made of parts.
    pub(super) fn composes(&mut self, etag: Etag, body: Bytes) {
        self.composed.push((etag, body));
    }

    /// It certainly did not happen.
    pub(super) fn is_refused(&mut self, op: u64, at: At) {
        self.copies.remove(&op);
        let object = self.objects.entry(at).or_default();
        object.on_the_way.remove(&op);
        object.made_since.remove(&op);
    }

    /// Nobody was told whether it happened.
    pub(super) fn is_unknown(&mut self, op: u64, at: At) {
        self.copies.remove(&op);
        let object = self.objects.entry(at).or_default();
        object.made_since.remove(&op);
        for content in object.on_the_way.remove(&op).unwrap_or_default() {
            add(&mut object.may_be, &content);
            object.made_since.values_mut().for_each(|since| add(since, &content));
        }
    }

    pub(super) fn read_begins(&mut self, op: u64, at: At) {
        let object = self.objects.entry(at).or_default();
        let now = object.now();
        object.readers.insert(op, now);
    }

    /// What the read may have found.
    pub(super) fn read_ends(&mut self, op: u64, at: At) -> Vec<Content> {
        self.objects.entry(at).or_default().readers.remove(&op).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: At = (0, 0);

    fn body(text: &'static str) -> Content {
        Content::Body(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn what_was_acknowledged_is_but_for_what_went_on_at_once() {
        let mut model = Model::default();
        assert_eq!(model.certain(AT), Some(Content::Gone));
        model.begins(1, AT, body("one"));
        assert_eq!(model.now(AT), [Content::Gone, body("one")]);
        model.begins(2, AT, body("two"));
        model.is_made(2, AT, body("two"));
        assert_eq!(model.now(AT), [body("two"), body("one")]);
        model.is_made(1, AT, body("one"));
        assert_eq!(model.now(AT), [body("one"), body("two")]);
        model.begins(3, AT, body("three"));
        model.is_made(3, AT, body("three"));
        assert_eq!(model.certain(AT), Some(body("three")));
        model.begins(4, AT, Content::Gone);
        model.is_refused(4, AT);
        assert_eq!(model.certain(AT), Some(body("three")));
        model.begins(5, AT, Content::Gone);
        model.is_unknown(5, AT);
        assert_eq!(model.now(AT), [body("three"), Content::Gone]);
    }

    #[test]
    fn a_copy_may_be_all_that_its_source_was_meanwhile() {
        let mut model = Model::default();
        model.begins(1, AT, body("one"));
        model.is_made(1, AT, body("one"));
        model.copy_begins(2, AT, (0, 1));
        model.read_begins(9, (0, 1));
        model.begins(3, AT, body("two"));
        let all = [Content::Gone, body("one"), body("two")];
        assert_eq!(model.now((0, 1)), all);
        assert_eq!(model.read_ends(9, (0, 1)), all);
        assert_eq!(model.copy_is_made(2, (0, 1), &etag_of(b"three")), None);
        assert_eq!(model.copy_is_made(2, (0, 1), &etag_of(b"two")), Some(body("two")));
        assert_eq!(model.certain((0, 1)), Some(body("two")));
    }
}
