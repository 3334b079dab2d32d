//! Buckets: create, list, look, delete.

use s3s::S3Request;
use s3s::S3Response;
use s3s::S3Result;
use s3s::dto::*;

use super::Larder;
use super::call::Call;
use super::owner;
use crate::engine::EngineError;
use crate::model;
use crate::model::BucketName;
use crate::s3::convert::dates;
use crate::s3::convert::paging;
use crate::s3::error;
use crate::s3::error::Refusal;

/// The region whose buckets have, for historical reasons, no location.
const NAMELESS_REGION: &str = "us-east-1";
/// Buckets of one ListBuckets, when the client does not say.
const BUCKETS_MAX: i32 = 10_000;

pub(super) async fn create(
    larder: &Larder,
    req: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let (input, call) = Call::open(req)?;
    if input.object_lock_enabled_for_bucket == Some(true) {
        return Err(Refusal::NotImplemented("Object Lock".into()).into());
    }
    let ownership = input.object_ownership.as_ref().map(ObjectOwnership::as_str);
    if ownership.is_some_and(|wish| wish != ObjectOwnership::BUCKET_OWNER_ENFORCED) {
        return Err(Refusal::NotImplemented("This object ownership".into()).into());
    }
    if let Some(configuration) = &input.create_bucket_configuration {
        check_configuration(configuration, &larder.region)?;
    }
    let name = BucketName::new(&input.bucket)
        .map_err(|why| Refusal::InvalidBucketName(why.to_string()))?;
    // One's own bucket is there as it was asked for, whether it is new or not.
    let creator = Some(call.granted.key.id.as_str());
    larder.engine.create_bucket(name.clone(), creator).await.map_err(error::engine)?;
    Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{name}")) }))
}

fn check_configuration(wish: &CreateBucketConfiguration, region: &str) -> Result<(), Refusal> {
    if wish.bucket.is_some() || wish.location.is_some() {
        return Err(Refusal::NotImplemented("A directory bucket".into()));
    }
    match wish.location_constraint.as_ref().map(BucketLocationConstraint::as_str) {
        None | Some("") => Ok(()),
        Some(location) if location == region => Ok(()),
        Some(location) => Err(Refusal::IllegalLocation(location.to_owned())),
    }
}

pub(super) async fn delete(
    larder: &Larder,
    req: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    let (input, _) = Call::open(req)?;
    let name =
        BucketName::new(&input.bucket).map_err(|_| error::engine(EngineError::NoSuchBucket))?;
    larder.engine.delete_bucket(&name).await.map_err(error::engine)?;
    Ok(S3Response::new(DeleteBucketOutput::default()))
}

pub(super) async fn head(
    larder: &Larder,
    req: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    let (input, _) = Call::open(req)?;
    larder.engine.bucket(&input.bucket).map_err(error::engine)?;
    let bucket_region = Some(larder.region.clone());
    Ok(S3Response::new(HeadBucketOutput { bucket_region, ..Default::default() }))
}

pub(super) async fn location(
    larder: &Larder,
    req: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    let (input, _) = Call::open(req)?;
    larder.engine.bucket(&input.bucket).map_err(error::engine)?;
    let named = (larder.region != NAMELESS_REGION).then(|| larder.region.clone());
    let location_constraint = named.map(BucketLocationConstraint::from);
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
}

/// The buckets that the key may know of.
pub(super) async fn list(
    larder: &Larder,
    req: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let (input, call) = Call::open(req)?;
    let max = input.max_buckets.unwrap_or(BUCKETS_MAX);
    if !(1..=BUCKETS_MAX).contains(&max) {
        let why = format!("Argument max-buckets must be an integer between 1 and {BUCKETS_MAX}");
        return Err(Refusal::InvalidArgument(why.into()).into());
    }
    let after = input.continuation_token.as_deref().map(paging::read_name_token).transpose()?;
    let prefix = input.prefix.clone().unwrap_or_default();
    let elsewhere = input.bucket_region.as_ref().is_some_and(|region| *region != larder.region);
    let shown = |bucket: &model::Bucket| {
        !elsewhere
            && bucket.name.as_str().starts_with(&prefix)
            && after.as_deref().is_none_or(|after| bucket.name.as_str() > after)
            && call.granted.key.grants.see(&bucket.name)
    };
    let mut found = larder.engine.buckets();
    found.retain(|bucket| shown(bucket));
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let more = found.len() > max as usize;
    found.truncate(max as usize);
    let last = found.last().filter(|_| more);
    let continuation_token = last.map(|bucket| paging::name_token(bucket.name.as_str()));
    let buckets = found.iter().map(|bucket| Bucket {
        name: Some(bucket.name.to_string()),
        creation_date: Some(dates::dto(bucket.created)),
        bucket_region: Some(larder.region.clone()),
    });
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets.collect()),
        continuation_token,
        owner: Some(owner()),
        prefix: input.prefix,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_made_in_the_servers_own_region() {
        let wish = |location: &str| CreateBucketConfiguration {
            location_constraint: Some(BucketLocationConstraint::from(location.to_owned())),
            ..Default::default()
        };
        assert_eq!(check_configuration(&Default::default(), "home"), Ok(()));
        assert_eq!(check_configuration(&wish(""), "home"), Ok(()));
        assert_eq!(check_configuration(&wish("home"), "home"), Ok(()));
        let away = check_configuration(&wish("eu-west-1"), "home");
        assert_eq!(away, Err(Refusal::IllegalLocation("eu-west-1".into())));
        let directory =
            CreateBucketConfiguration { bucket: Some(BucketInfo::default()), ..wish("home") };
        assert!(matches!(check_configuration(&directory, "home"), Err(Refusal::NotImplemented(_))));
    }
}
