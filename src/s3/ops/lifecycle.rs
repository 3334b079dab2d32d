//! The lifecycle rules of a bucket: the same ones that the command line and the configuration set.

use s3s::S3Request;
use s3s::S3Response;
use s3s::S3Result;
use s3s::dto::*;

use super::Larder;
use super::call::Call;
use crate::engine::WishRefused;
use crate::s3::convert::lifecycle;
use crate::s3::error;
use crate::s3::error::Refusal;
use crate::s3::error::Setting;
use crate::s3::finish::naming_keys;

pub(super) async fn get(
    larder: &Larder,
    req: S3Request<GetBucketLifecycleConfigurationInput>,
) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
    let (input, _) = Call::open(req)?;
    let found = larder.engine.lifecycle(&input.bucket).await.map_err(error::engine)?;
    let found = found.ok_or(Refusal::NoSetting(Setting::Lifecycle))?;
    let rules = Some(lifecycle::write(&found.rules));
    // Prefixes are beginnings of keys.
    Ok(naming_keys(GetBucketLifecycleConfigurationOutput { rules, ..Default::default() }))
}

pub(super) async fn put(
    larder: &Larder,
    req: S3Request<PutBucketLifecycleConfigurationInput>,
) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
    let (input, _) = Call::open(req)?;
    let wanted = input.lifecycle_configuration.ok_or(Refusal::MalformedXml)?;
    let rules = lifecycle::read(wanted.rules)?;
    larder.engine.put_lifecycle(&input.bucket, rules).await.map_err(|err| match err {
        WishRefused::Impossible(why) => Refusal::InvalidRequest(why.into()).into(),
        WishRefused::Engine(err) => error::engine(err),
    })?;
    Ok(S3Response::new(PutBucketLifecycleConfigurationOutput::default()))
}

/// Deleting what is not there succeeds.
pub(super) async fn delete(
    larder: &Larder,
    req: S3Request<DeleteBucketLifecycleInput>,
) -> S3Result<S3Response<DeleteBucketLifecycleOutput>> {
    let (input, _) = Call::open(req)?;
    larder.engine.delete_lifecycle(&input.bucket).await.map_err(error::engine)?;
    Ok(S3Response::new(DeleteBucketLifecycleOutput::default()))
}
