//! Tags of objects.

use s3s::S3Request;
use s3s::S3Response;
use s3s::S3Result;
use s3s::dto::*;

use super::Larder;
use super::call;
use super::call::Call;
use crate::model;
use crate::s3::convert::tags;

pub(super) async fn get(
    larder: &Larder,
    req: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let (input, call) = Call::open(req)?;
    let key = call::key(input.key)?;
    let found = larder.engine.get_tags(&input.bucket, key.clone()).await;
    let found = found.map_err(|err| call.unreadable(&input.bucket, &key, err))?;
    let tag_set = tags::to_set(&found);
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set, ..Default::default() }))
}

pub(super) async fn put(
    larder: &Larder,
    req: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let (input, call) = Call::open(req)?;
    let tags = tags::from_set(input.tagging.tag_set)?;
    set(larder, &call, &input.bucket, input.key, tags).await?;
    Ok(S3Response::new(PutObjectTaggingOutput::default()))
}

pub(super) async fn delete(
    larder: &Larder,
    req: S3Request<DeleteObjectTaggingInput>,
) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
    let (input, call) = Call::open(req)?;
    set(larder, &call, &input.bucket, input.key, model::Tags::default()).await?;
    Ok(S3Response::new(DeleteObjectTaggingOutput::default()))
}

async fn set(
    larder: &Larder,
    call: &Call,
    bucket: &str,
    key: String,
    tags: model::Tags,
) -> S3Result<()> {
    let key = call::key(key)?;
    let done = larder.engine.put_tags(bucket, key.clone(), tags).await;
    done.map_err(|err| call.unreadable(bucket, &key, err))
}
