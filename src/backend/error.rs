//! What can go wrong at a backend, named by what the caller should do about it.
//!
//! A place (a disk, a service) answers with a [`Failure`], which knows nothing of names; the
//! backend around it adds who, what and where and makes a [`BackendError`] of it.

use std::error::Error;
use std::io;
use std::sync::Arc;

use super::breaker::Health;
use crate::base::chain;

/// What went wrong, named by what the caller should do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not there. The marker was seen in the same step, so this can be believed.
    Missing,
    /// It is there and it is wrong (for instance shorter than asked for).
    Damaged,
    /// No room. Place elsewhere.
    Full,
    /// Credentials, settings or permissions are wrong. Tell the operator.
    Refused,
    /// Anything that may be different in a moment.
    Passing,
    /// The marker cannot be seen: nothing that the backend says is believed.
    Absent,
    /// Its breaker is open, or it just failed at something else: it was not asked. It is tried again
    /// by itself.
    Resting,
    /// A limit of its owner is reached: it was not asked.
    Spent,
}

#[derive(Debug, thiserror::Error)]
#[error("{operation} {path:?} on backend {backend}: {}", .fault.words())]
pub struct BackendError {
    pub fault: Fault,
    pub backend: Arc<str>,
    pub operation: &'static str,
    pub path: String,
    /// Whether a write or delete may have happened all the same.
    pub unknown: bool,
    #[source]
    pub cause: Option<Box<dyn Error + Send + Sync>>,
}

impl BackendError {
    /// The same of another path in one request.
    pub(super) fn of(&self, path: &str) -> BackendError {
        let BackendError { fault, operation, unknown, .. } = *self;
        let cause = self.cause.as_ref().map(|cause| chain(&**cause).into());
        BackendError {
            fault,
            backend: Arc::clone(&self.backend),
            operation,
            path: path.to_owned(),
            unknown,
            cause,
        }
    }
}

impl Fault {
    pub(super) fn words(self) -> &'static str {
        match self {
            Fault::Missing => "it is not there",
            Fault::Damaged => "it is damaged",
            Fault::Full => "there is no room",
            Fault::Refused => "it was refused",
            Fault::Passing => "it failed for now",
            Fault::Absent => "the backend's marker cannot be seen; is the disk mounted?",
            Fault::Resting => "it failed several times and is left alone for a while",
            Fault::Spent => "a limit is reached",
        }
    }
}

/// What a place answers when something went wrong.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) fault: Fault,
    /// Whether it may have happened all the same.
    pub(crate) unknown: bool,
    /// What it says of the place as a whole.
    pub(crate) health: Health,
    pub(crate) cause: Option<Box<dyn Error + Send + Sync>>,
}

/// Whether an operation makes something: then a path that cannot be walked is no simple absence.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    Look,
    Make,
}

impl Failure {
    pub(crate) fn new(fault: Fault) -> Failure {
        Failure { fault, unknown: false, health: health(fault), cause: None }
    }

    pub(crate) fn because(fault: Fault, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure { cause: Some(cause.into()), ..Failure::new(fault) }
    }

    pub(crate) fn unknown(mut self) -> Failure {
        self.unknown = true;
        self
    }

    pub(crate) fn io(err: io::Error, aim: Aim) -> Failure {
        Failure::because(classify_io(&err, aim), err)
    }

    pub(crate) fn opendal(err: opendal::Error, aim: Aim) -> Failure {
        if let Some(&Carried { fault, unknown, .. }) = carried(&err) {
            return Failure { unknown, cause: Some(err.into()), ..Failure::new(fault) };
        }
        let fault = classify_opendal(&err, aim);
        let health = match (fault, err.kind()) {
            (
                Fault::Refused,
                opendal::ErrorKind::ConfigInvalid | opendal::ErrorKind::Unsupported,
            ) => Health::Alive,
            // It speaks of the one object that was put into an archive, behind Larder's back.
            (Fault::Refused, _) if err.message().contains("InvalidObjectState") => Health::Alive,
            (Fault::Refused, _) if !is_about_names(err.kind()) => Health::Denied,
            // A precondition of somebody's did not hold, or the thing is there already.
            (
                Fault::Passing,
                opendal::ErrorKind::ConditionNotMatch | opendal::ErrorKind::AlreadyExists,
            ) => Health::Alive,
            (fault, _) => health(fault),
        };
        let told = Told(without_queries(&with_causes(&err)));
        Failure { health, cause: Some(told.into()), ..Failure::new(fault) }
    }

    /// Adds who, what and where.
    pub(crate) fn at(
        self,
        backend: &Arc<str>,
        operation: &'static str,
        path: &str,
    ) -> BackendError {
        BackendError {
            fault: self.fault,
            backend: Arc::clone(backend),
            operation,
            path: path.to_owned(),
            unknown: self.unknown,
            cause: self.cause,
        }
    }
}

/// What a place's own word says of it: whatever it answers, it is alive. That credentials are
/// refused is said by remote services alone.
fn health(fault: Fault) -> Health {
    match fault {
        Fault::Passing => Health::Failing,
        Fault::Missing
        | Fault::Damaged
        | Fault::Full
        | Fault::Refused
        | Fault::Absent
        | Fault::Resting
        | Fault::Spent => Health::Alive,
    }
}

fn is_about_names(kind: opendal::ErrorKind) -> bool {
    matches!(kind, opendal::ErrorKind::IsADirectory | opendal::ErrorKind::NotADirectory)
}

fn classify_io(err: &io::Error, aim: Aim) -> Fault {
    use io::ErrorKind as Kind;
    match err.kind() {
        Kind::NotFound => Fault::Missing,
        Kind::NotADirectory if aim == Aim::Look => Fault::Missing,
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Fault::Full,
        Kind::PermissionDenied
        | Kind::ReadOnlyFilesystem
        | Kind::NotADirectory
        | Kind::InvalidFilename
        | Kind::InvalidInput => Fault::Refused,
        Kind::UnexpectedEof | Kind::IsADirectory => Fault::Damaged,
        Kind::StaleNetworkFileHandle => Fault::Absent,
        _ => Fault::Passing,
    }
}

fn classify_opendal(err: &opendal::Error, aim: Aim) -> Fault {
    use opendal::ErrorKind as Kind;
    match err.kind() {
        Kind::NotFound => Fault::Missing,
        Kind::RangeNotSatisfied => Fault::Damaged,
        // Some say with the same status that there is no room, or that it is too much at once.
        Kind::PermissionDenied if says_full(err.message()) => Fault::Full,
        Kind::PermissionDenied if says_later(err.message()) => Fault::Passing,
        Kind::PermissionDenied | Kind::ConfigInvalid | Kind::Unsupported => Fault::Refused,
        Kind::IsADirectory | Kind::NotADirectory if aim == Aim::Look => Fault::Missing,
        Kind::IsADirectory | Kind::NotADirectory => Fault::Refused,
        _ => match err.to_string() {
            text if says_full(&text) => Fault::Full,
            text if text.contains("status: 401") => Fault::Refused,
            _ => Fault::Passing,
        },
    }
}

/// What a service said. Only its words are kept: the error itself holds addresses with the
/// signatures and tokens in them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);

/// All in one line. OpenDAL prints the first of the causes itself, and none below it: those say
/// that nobody listens there, or that a name is not known.
fn with_causes(err: &opendal::Error) -> String {
    let mut text = err.to_string();
    let mut cause = Error::source(err).and_then(Error::source);
    while let Some(below) = cause {
        text.push_str(&format!(": {below}"));
        cause = below.source();
    }
    text
}

/// `text` without the query strings of the addresses in it.
fn without_queries(text: &str) -> String {
    let mut parts = text.split('?');
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find([' ', ',', '"', '\'', '}', ')', '\n']).unwrap_or(part.len());
        // A question mark that ends a sentence has nothing after it.
        clean.push_str(if end == 0 { "?" } else { "?..." });
        clean.push_str(&part[end..]);
    }
    clean
}

/// A failure of our own on its way through OpenDAL's error type.
#[derive(Debug, thiserror::Error)]
#[error("{}", .fault.words())]
struct Carried {
    fault: Fault,
    unknown: bool,
    #[source]
    cause: Option<Box<dyn Error + Send + Sync>>,
}

/// What the local service said, which speaks through OpenDAL too.
fn carried(err: &opendal::Error) -> Option<&Carried> {
    let mut cause = Error::source(err);
    while let Some(err) = cause {
        if let Some(carried) = err.downcast_ref() {
            return Some(carried);
        }
        cause = err.source();
    }
    None
}

impl From<Failure> for opendal::Error {
    fn from(failure: Failure) -> opendal::Error {
        let kind = match failure.fault {
            Fault::Missing => opendal::ErrorKind::NotFound,
            Fault::Damaged => opendal::ErrorKind::RangeNotSatisfied,
            Fault::Refused => opendal::ErrorKind::PermissionDenied,
            Fault::Full | Fault::Passing | Fault::Absent | Fault::Resting | Fault::Spent => {
                opendal::ErrorKind::Unexpected
            }
        };
        let Failure { fault, unknown, cause, .. } = failure;
        opendal::Error::new(kind, "local directory").set_source(Carried { fault, unknown, cause })
    }
}

/// Services have no common way to say that they are full; these are their words for it.
fn says_full(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "insufficient_space",
        "InsufficientStorage",
        "Insufficient Storage",
        "status: 507",
        "storageQuotaExceeded",
        "quotaLimitReached",
        "QuotaExceeded",
        "storage_cap_exceeded",
        "\"cap_exceeded\"",
        "storage quota has been exceeded",
        "XMinioStorageFull",
        "StorageFull",
        "No space left on device",
    ];
    WORDS.iter().any(|word| text.contains(word))
}

/// The words of services that refuse what comes too fast.
fn says_later(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["rate limit exceeded", "ratelimitexceeded"].iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_becomes_what_to_do() {
        let fault = |kind: io::ErrorKind, aim| Failure::io(kind.into(), aim).fault;
        assert_eq!(fault(io::ErrorKind::StorageFull, Aim::Make), Fault::Full);
        assert_eq!(fault(io::ErrorKind::QuotaExceeded, Aim::Make), Fault::Full);
        assert_eq!(fault(io::ErrorKind::ReadOnlyFilesystem, Aim::Make), Fault::Refused);
        assert_eq!(fault(io::ErrorKind::NotADirectory, Aim::Look), Fault::Missing);
        assert_eq!(fault(io::ErrorKind::NotADirectory, Aim::Make), Fault::Refused);
        assert_eq!(fault(io::ErrorKind::UnexpectedEof, Aim::Look), Fault::Damaged);
        let eio = io::Error::from(rustix::io::Errno::IO);
        assert_eq!(Failure::io(eio, Aim::Look).fault, Fault::Passing);
    }

    #[test]
    fn our_own_failures_pass_through_opendal_unchanged() {
        for fault in [Fault::Full, Fault::Absent, Fault::Missing, Fault::Damaged, Fault::Passing] {
            let err = opendal::Error::from(Failure::new(fault)).with_operation("write");
            assert_eq!(Failure::opendal(err, Aim::Make).fault, fault);
        }
    }

    #[test]
    fn what_is_told_goes_down_to_the_last_cause_in_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("error sending request")]
        struct Sending(#[source] io::Error);
        let err = opendal::Error::new(opendal::ErrorKind::Unexpected, "send http request");
        let refused = io::Error::other("tcp connect error: Connection refused");
        let failure = Failure::opendal(err.set_source(Sending(refused)), Aim::Look);
        let told = failure.cause.unwrap().to_string();
        assert!(
            told.ends_with("error sending request: tcp connect error: Connection refused"),
            "{told}"
        );
        assert!(!told.contains('\n'), "{told}");
    }

    #[test]
    fn services_say_full_in_words() {
        let err = opendal::Error::new(
            opendal::ErrorKind::Unexpected,
            "{\"error_summary\": \"path/insufficient_space/..\"}",
        );
        assert_eq!(Failure::opendal(err, Aim::Make).fault, Fault::Full);
        let err = opendal::Error::new(opendal::ErrorKind::RateLimited, "slow down");
        assert_eq!(Failure::opendal(err, Aim::Make).fault, Fault::Passing);
    }

    #[test]
    fn only_credentials_and_what_passes_speak_against_a_place() {
        use opendal::ErrorKind as Kind;
        for (kind, text, health) in [
            (Kind::Unexpected, "status: 500", Health::Failing),
            (Kind::Unexpected, "status: 401 Unauthorized", Health::Denied),
            (Kind::PermissionDenied, "status: 403", Health::Denied),
            (Kind::PermissionDenied, "storageQuotaExceeded", Health::Alive),
            (Kind::PermissionDenied, "S3Error { code: \"InvalidObjectState\" }", Health::Alive),
            (Kind::PermissionDenied, "rate limit exceeded", Health::Failing),
            (Kind::RateLimited, "slow down", Health::Failing),
            (Kind::NotFound, "status: 404", Health::Alive),
            (Kind::ConditionNotMatch, "status: 412", Health::Alive),
            (Kind::RangeNotSatisfied, "status: 416", Health::Alive),
            (Kind::Unsupported, "no", Health::Alive),
            (Kind::ConfigInvalid, "no", Health::Alive),
            (Kind::NotADirectory, "no", Health::Alive),
        ] {
            let failure = Failure::opendal(opendal::Error::new(kind, text), Aim::Make);
            assert_eq!(failure.health, health, "{kind} {text}");
        }
        // A disk's permissions are no credentials, whichever way the word comes.
        let own = Failure::io(io::ErrorKind::PermissionDenied.into(), Aim::Make);
        assert_eq!((own.fault, own.health), (Fault::Refused, Health::Alive));
        let carried = Failure::opendal(own.into(), Aim::Make);
        assert_eq!((carried.fault, carried.health), (Fault::Refused, Health::Alive));
    }

    #[test]
    fn addresses_lose_their_secrets() {
        let text = "at http://x/a?sig=SECRET&x=1, uri: http://y/?token=SECRET } really? yes";
        let clean = without_queries(text);
        assert_eq!(clean, "at http://x/a?..., uri: http://y/?... } really? yes");
        let err = opendal::Error::new(opendal::ErrorKind::Unexpected, text);
        let failure = Failure::opendal(err, Aim::Look);
        assert!(!format!("{failure:?}").contains("SECRET"));
    }

    #[test]
    fn the_message_says_who_what_and_where() {
        let err = Failure::new(Fault::Full).at(&"disk1".into(), "write", "a/b");
        assert_eq!(err.to_string(), "write \"a/b\" on backend disk1: there is no room");
    }
}
