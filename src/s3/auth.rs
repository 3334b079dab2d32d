//! The secrets that signatures are checked against.

use std::sync::Arc;

use s3s::S3Result;
use s3s::auth::S3Auth;
use s3s::auth::SecretKey;
use s3s::s3_error;

use crate::engine::Engine;
use crate::model::AccessKey;

/// Where access keys are looked up, anew for every request: a changed secret counts at once.
pub(crate) trait Keys: Send + Sync + 'static {
    fn key(&self, id: &str) -> Option<AccessKey>;
}

impl Keys for Engine {
    fn key(&self, id: &str) -> Option<AccessKey> {
        Engine::key(self, id)
    }
}

pub(crate) struct Auth {
    pub(crate) keys: Arc<dyn Keys>,
}

#[async_trait::async_trait]
impl S3Auth for Auth {
    async fn get_secret_key(&self, id: &str) -> S3Result<SecretKey> {
        match self.keys.key(id) {
            Some(key) => Ok(SecretKey::from(key.secret)),
            None => Err(s3_error!(
                InvalidAccessKeyId,
                "The AWS access key ID you provided does not exist in our records."
            )),
        }
    }
}
