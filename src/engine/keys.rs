//! Access keys: made, changed, looked up.
//!
//! An id is not secret and a secret is shown once, when it is made; both are random. A change
//! takes effect with its transaction: the next request is judged by it.

use ring::rand::SecureRandom;
use ring::rand::SystemRandom;

use super::Engine;
use super::EngineError;
use crate::model::AccessKey;
use crate::model::Grant;
use crate::model::Grants;
use crate::store::StoreError;

const ID_PREFIX: &str = "LK";
/// Characters after the prefix.
const ID_RANDOM: usize = 18;
const ID_ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const SECRET_LEN: usize = 40;
const SECRET_ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Random ids that all exist already are no accident.
const TRIES: usize = 4;

/// What shall be different about a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// Instead of all that it has.
    pub grants: Option<Vec<Grant>>,
    /// Beside what it has.
    pub more: Vec<Grant>,
    pub create_buckets: Option<bool>,
    /// A new secret; the old one is worth nothing any more.
    pub new_secret: bool,
}

/// A fresh id and secret.
pub fn new_credentials() -> (String, String) {
    let id = format!("{ID_PREFIX}{}", random_text(ID_ALPHABET, ID_RANDOM));
    (id, random_text(SECRET_ALPHABET, SECRET_LEN))
}

/// Characters of `alphabet`, each as likely as the others.
fn random_text(alphabet: &[u8], len: usize) -> String {
    let random = SystemRandom::new();
    // Bytes from here on would make the first characters likelier.
    let fair = 256 - 256 % alphabet.len();
    let mut text = String::with_capacity(len);
    while text.len() < len {
        let mut bytes = [0; 64];
        random.fill(&mut bytes).expect("the system gives random bytes");
        let fair = bytes.iter().map(|&byte| usize::from(byte)).filter(|&byte| byte < fair);
        let chars = fair.map(|byte| char::from(alphabet[byte % alphabet.len()]));
        text.extend(chars.take(len - text.len()));
    }
    text
}

impl Engine {
    /// The access key of this id, as it is now: a changed secret takes effect at once.
    pub fn key(&self, id: &str) -> Option<AccessKey> {
        self.store.keys().get(id).cloned()
    }

    /// In the order of ids.
    pub fn keys(&self) -> Vec<AccessKey> {
        let mut keys: Vec<AccessKey> = self.store.keys().values().cloned().collect();
        keys.sort_by(|a, b| a.id.cmp(&b.id));
        keys
    }

    /// Makes a key with a fresh id and secret.
    pub async fn create_key(&self, grants: Grants) -> Result<AccessKey, EngineError> {
        for _ in 0..TRIES {
            let (id, secret) = new_credentials();
            let key = AccessKey { id, secret, grants: grants.clone(), declared: false };
            match self.store.key_create(key.clone()).await {
                Ok(()) => return Ok(key),
                Err(StoreError::Exists) => (),
                Err(err) => return Err(err.into()),
            }
        }
        Err(EngineError::Busy)
    }

    /// The key as it is then. `Declared` when the configuration says what it may.
    pub async fn change_key(&self, id: &str, change: KeyChange) -> Result<AccessKey, EngineError> {
        let secret = change.new_secret.then(|| new_credentials().1);
        let changed = self.store.key_change(id, move |key| {
            if let Some(grants) = change.grants {
                key.grants.list = grants;
            }
            for grant in change.more {
                if !key.grants.list.contains(&grant) {
                    key.grants.list.push(grant);
                }
            }
            if let Some(create_buckets) = change.create_buckets {
                key.grants.create_buckets = create_buckets;
            }
            if let Some(secret) = secret {
                key.secret = secret;
            }
        });
        Ok(changed.await?)
    }

    pub async fn delete_key(&self, id: &str) -> Result<(), EngineError> {
        Ok(self.store.key_delete(id).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_have_their_form_and_differ() {
        let (id, secret) = new_credentials();
        assert_eq!((id.len(), secret.len()), (20, 40));
        assert!(id.starts_with("LK") && id.bytes().all(|b| ID_ALPHABET.contains(&b)));
        assert!(secret.bytes().all(|b| SECRET_ALPHABET.contains(&b)));
        assert_ne!(new_credentials(), (id, secret));
    }

    #[test]
    fn every_character_is_drawn_about_as_often() {
        let text = random_text(SECRET_ALPHABET, 62_000);
        for &c in SECRET_ALPHABET {
            let count = text.bytes().filter(|&b| b == c).count();
            assert!((800..1200).contains(&count), "{}: {count}", char::from(c));
        }
    }
}
