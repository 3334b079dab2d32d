//! Who is let in, and when: rates and admission, each where it is cheapest.
//!
//! 1. *Before anything is looked at*, the rate of the client's address.
//! 2. *The signature.* From here to the permit nothing waits but the fields of a form, which have
//!    a small budget of their own: a request is read, checked and refused in one go, so as many
//!    are at it as the runtime has threads, and what each holds is its head. No byte of a body is
//!    asked for. A flood of strangers costs time on these threads, and no permit and no memory.
//! 3. *Well signed*, the rate of the key, then its grants, then a permit to read or to write.
//!    Documents, which are read whole before they are understood, take their bytes here too.
//!
//! What was given is held by the request ([`Held`]) until the last of its work is over.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::StatusCode;

use crate::base::Budget;
use crate::base::limits::GROUP_SIZE;
use crate::engine::Admission;
use crate::engine::Cause;
use crate::engine::Held;
use crate::engine::Refusals;
use crate::s3::crowd::Crowd;
use crate::s3::crowd::Place;
use crate::s3::guard::refusal::Refusal;
use crate::s3::rate::Client;
use crate::s3::rate::RateLimits;
use crate::s3::rate::RateSettings;
use crate::s3::rate::seconds;

/// Bytes of documents (lists of parts, of keys to delete, settings) that are in memory at once; as
/// in any [`Budget`], a part of it is for short ones.
const DOCUMENTS_MAX: u64 = 64 << 20;
/// Forms at a time whose fields are read.
pub(crate) const FORM_HEADS_MAX: usize = 128;
/// When those come back whom admission refused; permits are held for moments.
pub(crate) const SOON: Duration = Duration::from_secs(1);

/// The address at the other end of a connection: an extension of its requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// A request whose body is read whole before anything is done, with its length: an extension of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Document(pub(crate) u64);

/// What a request wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    Read,
    Write,
}

/// One for a listener.
pub(crate) struct Door {
    admission: Arc<Admission>,
    pub(crate) refusals: Arc<Refusals>,
    rates: ArcSwap<RateLimits>,
    /// Forms whose fields are read: nobody has signed for that memory yet.
    forms: Arc<Crowd>,
    documents: Budget,
    /// That of bodies in flight.
    bodies: Budget,
}

impl Door {
    pub(crate) fn new(
        admission: Arc<Admission>,
        refusals: Arc<Refusals>,
        bodies: Budget,
        rates: &RateSettings,
    ) -> Door {
        let rates = ArcSwap::from_pointee(RateLimits::new(rates, None));
        let (forms, documents) = (Crowd::new(FORM_HEADS_MAX), Budget::new(DOCUMENTS_MAX));
        Door { admission, refusals, rates, forms, documents, bodies }
    }

    pub(crate) fn reload(&self, rates: &RateSettings) {
        let before = self.rates.load_full();
        self.rates.store(Arc::new(RateLimits::new(rates, Some(&before))));
    }

    /// Whether `peer` speaks for others, so that what it does cannot be held against it.
    pub(crate) fn is_proxy(&self, peer: IpAddr) -> bool {
        self.rates.load().is_trusted(peer)
    }

    /// Whether a read may have to wait for what slow clients hold.
    pub(crate) fn is_memory_scarce(&self) -> bool {
        self.bodies.free_for_large() < GROUP_SIZE
    }

    pub(crate) fn check_address(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(), Refusal> {
        let taken = self.rates.load().take_address(peer, headers);
        taken.map_err(|wait| self.refuse(Cause::AddressRate, wait))
    }

    pub(crate) fn check_key(&self, id: &str) -> Result<(), Refusal> {
        let taken = self.rates.load().take_key(id);
        taken.map_err(|wait| self.refuse(Cause::KeyRate, wait))
    }

    /// Admits the request that is being worked for.
    pub(crate) async fn admit(
        &self,
        intent: Intent,
        document: Option<Document>,
    ) -> Result<(), Refusal> {
        let permit = match intent {
            Intent::Read => self.admission.read().await,
            Intent::Write => self.admission.write().await,
        };
        // Admission has counted it.
        let permit = permit.map_err(|_| slow_down(SOON))?;
        let memory = match document {
            Some(Document(length)) => {
                let memory = self.documents.try_take(length);
                Some(memory.ok_or_else(|| self.refuse(Cause::Busy, SOON))?)
            }
            None => None,
        };
        if let Some(held) = Held::current() {
            held.admit(permit, memory);
        }
        Ok(())
    }

    /// Lets the fields of a form be read. One client cannot keep the forms of all others away.
    pub(crate) fn begin_form(&self, peer: IpAddr, headers: &HeaderMap) -> Result<Place, Refusal> {
        let rates = self.rates.load();
        let client = rates.client(peer, headers);
        let place = self.forms.enter(Client::of(client), rates.is_trusted(client));
        place.ok_or_else(|| self.refuse(Cause::SignatureBudget, SOON))
    }

    fn refuse(&self, cause: Cause, wait: Duration) -> Refusal {
        self.refusals.count(cause);
        slow_down(wait)
    }
}

/// Too much, of whatever it is.
pub(crate) fn slow_down(wait: Duration) -> Refusal {
    let message = "Please reduce your request rate.";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", message).retry_after(seconds(wait))
}
