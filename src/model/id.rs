//! Typed ids, so that one kind cannot be passed for another.

use std::fmt;

use crate::base::Timestamp;
use crate::base::ids;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The id whose [`fmt::Display`] form this is.
            pub fn from_text(text: &str) -> Option<$name> {
                ids::from_text(text).map($name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&ids::to_text(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self)
            }
        }
    };
}

id!(
    /// A bucket. A bucket deleted and made again under its old name has another id.
    BucketId
);
id!(
    /// An immutable string of bytes.
    BlobId
);
id!(
    /// One attempt to write one replica. Paths end in it, so no path is used twice.
    WriteId
);
impl WriteId {
    /// About when the write was registered.
    pub fn made(self) -> Timestamp {
        ids::made(self.0)
    }
}

id!(
    /// A backend, as its marker says; its name in the configuration is only a label.
    BackendId
);
id!(PlacementId);
id!(UploadId);
id!(
    /// The order of commits: a version is newer than another when its number is greater.
    VersionSeq
);
