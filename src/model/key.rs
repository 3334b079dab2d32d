//! The key of an object.

use std::borrow::Borrow;
use std::fmt;

use crate::base::limits::KEY_MAX;

/// A key: 1 to 1024 bytes of UTF-8, every byte of which is kept. Keys sort by their bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Box<str>);

/// Why something is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a key has at least one byte")]
    Empty,
    #[error("a key has at most {KEY_MAX} bytes")]
    TooLong,
}

impl ObjectKey {
    pub fn new(key: impl Into<Box<str>>) -> Result<ObjectKey, KeyError> {
        let key = key.into();
        match key.len() {
            0 => Err(KeyError::Empty),
            len if len > KEY_MAX => Err(KeyError::TooLong),
            _ => Ok(ObjectKey(key)),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Borrow<str> for ObjectKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_counted_in_bytes() {
        assert_eq!(ObjectKey::new(""), Err(KeyError::Empty));
        assert!(ObjectKey::new("é".repeat(512)).is_ok());
        assert_eq!(ObjectKey::new("é".repeat(513)), Err(KeyError::TooLong));
    }
}
