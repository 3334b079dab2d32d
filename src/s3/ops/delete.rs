//! DeleteObject and DeleteObjects.

use s3s::S3Error;
use s3s::S3Request;
use s3s::S3Response;
use s3s::S3Result;
use s3s::dto::*;

use super::Larder;
use super::call;
use super::call::Call;
use crate::base::limits::PAGE_MAX;
use crate::model;
use crate::model::Action;
use crate::model::WriteConditions;
use crate::s3::convert::conditions;
use crate::s3::error;
use crate::s3::error::Refusal;
use crate::s3::finish::naming_keys;

/// Deleting what is not there succeeds.
pub(super) async fn one(
    larder: &Larder,
    req: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let (input, call) = Call::open(req)?;
    if input.if_match_size.is_some() || input.if_match_last_modified_time.is_some() {
        return Err(unsupported_condition().into());
    }
    let key = call::key(input.key)?;
    let conditions = conditions::write(&call.headers);
    let deleted = larder.engine.delete_object(&input.bucket, key.clone(), conditions).await;
    deleted.map_err(|err| call.unreadable(&input.bucket, &key, err))?;
    Ok(S3Response::new(DeleteObjectOutput::default()))
}

fn unsupported_condition() -> Refusal {
    Refusal::NotImplemented("A condition on size or time".into())
}

pub(super) async fn many(
    larder: &Larder,
    req: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let (input, call) = Call::open(req)?;
    let wishes = input.delete.objects;
    if wishes.is_empty() || wishes.len() > PAGE_MAX {
        return Err(Refusal::MalformedXml.into());
    }
    let mut errors = Vec::new();
    let mut named = Vec::new();
    let mut keys = Vec::new();
    for wish in wishes {
        match checked(&call, &input.bucket, &wish) {
            Ok(target) => {
                named.push((target.0.clone(), wish.version_id));
                keys.push(target);
            }
            Err(refusal) => errors.push(entry(wish.key, wish.version_id, refusal.into())),
        }
    }
    let outcomes = match keys.is_empty() {
        true => Vec::new(),
        false => {
            let outcomes = larder.engine.delete_objects(&input.bucket, keys).await;
            outcomes.map_err(error::engine)?
        }
    };
    let quiet = input.delete.quiet == Some(true);
    let mut deleted = Vec::new();
    for ((key, version_id), outcome) in named.into_iter().zip(outcomes) {
        match outcome {
            Ok(_) if quiet => (),
            Ok(_) => {
                let key = Some(key.as_str().to_owned());
                deleted.push(DeletedObject { key, version_id, ..Default::default() });
            }
            Err(err) => {
                let error = call.unreadable(&input.bucket, &key, err);
                errors.push(entry(key.as_str().to_owned(), version_id, error));
            }
        }
    }
    let deleted = (!deleted.is_empty()).then_some(deleted);
    let errors = (!errors.is_empty()).then_some(errors);
    Ok(naming_keys(DeleteObjectsOutput { deleted, errors, ..Default::default() }))
}

/// What is to be deleted, if the key may do so.
fn checked(
    call: &Call,
    bucket: &str,
    wish: &ObjectIdentifier,
) -> Result<(model::ObjectKey, WriteConditions), Refusal> {
    let key = call::key(wish.key.clone())?;
    if !call.may(bucket, &key, Action::Delete) {
        return Err(Refusal::AccessDenied);
    }
    call::current_only(wish.version_id.as_deref())?;
    if wish.size.is_some() || wish.last_modified_time.is_some() {
        return Err(unsupported_condition());
    }
    Ok((key, conditions::write_of_etag(wish.e_tag.as_ref())))
}

fn entry(key: String, version_id: Option<String>, error: S3Error) -> Error {
    Error {
        code: Some(error.code().as_str().to_owned()),
        key: Some(key),
        message: error.message().map(str::to_owned),
        version_id,
    }
}
