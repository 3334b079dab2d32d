//! Settings that can be read, though none can be made: what S3 answers where nothing was set.
//!
//! Most are one line in the table of operations. Here are those with something to say.

use s3s::S3Request;
use s3s::S3Response;
use s3s::S3Result;
use s3s::dto::*;

use super::Larder;
use super::OWNER;
use super::call;
use super::call::Call;
use super::owner;
use crate::engine::GetOptions;
use crate::s3::error;
use crate::s3::error::Refusal;

/// Refuses a request for a bucket that is not there.
pub(super) fn exists(larder: &Larder, req: S3Request<String>) -> S3Result<()> {
    let (bucket, _) = Call::open(req)?;
    larder.engine.bucket(&bucket).map_err(error::engine)?;
    Ok(())
}

pub(super) async fn request_payment(
    larder: &Larder,
    req: S3Request<GetBucketRequestPaymentInput>,
) -> S3Result<S3Response<GetBucketRequestPaymentOutput>> {
    exists(larder, req.map_input(|input| input.bucket))?;
    let payer = Some(Payer::from_static(Payer::BUCKET_OWNER));
    Ok(S3Response::new(GetBucketRequestPaymentOutput { payer }))
}

pub(super) async fn bucket_acl(
    larder: &Larder,
    req: S3Request<GetBucketAclInput>,
) -> S3Result<S3Response<GetBucketAclOutput>> {
    exists(larder, req.map_input(|input| input.bucket))?;
    let grants = Some(vec![full_control()]);
    Ok(S3Response::new(GetBucketAclOutput { grants, owner: Some(owner()) }))
}

pub(super) async fn object_acl(
    larder: &Larder,
    req: S3Request<GetObjectAclInput>,
) -> S3Result<S3Response<GetObjectAclOutput>> {
    let (input, call) = Call::open(req)?;
    object_exists(larder, &call, &input.bucket, input.key).await?;
    let grants = Some(vec![full_control()]);
    Ok(S3Response::new(GetObjectAclOutput { grants, owner: Some(owner()), ..Default::default() }))
}

/// Accepted when it says what is so anyway.
pub(super) async fn put_bucket_acl(
    larder: &Larder,
    req: S3Request<PutBucketAclInput>,
) -> S3Result<S3Response<PutBucketAclOutput>> {
    let (input, _) = Call::open(req)?;
    let canned = input.acl.as_ref().map(BucketCannedACL::as_str);
    check_canned(canned, input.access_control_policy.is_some())?;
    larder.engine.bucket(&input.bucket).map_err(error::engine)?;
    Ok(S3Response::new(PutBucketAclOutput::default()))
}

/// Accepted when it says what is so anyway.
pub(super) async fn put_object_acl(
    larder: &Larder,
    req: S3Request<PutObjectAclInput>,
) -> S3Result<S3Response<PutObjectAclOutput>> {
    let (input, call) = Call::open(req)?;
    let canned = input.acl.as_ref().map(ObjectCannedACL::as_str);
    check_canned(canned, input.access_control_policy.is_some())?;
    object_exists(larder, &call, &input.bucket, input.key).await?;
    Ok(S3Response::new(PutObjectAclOutput::default()))
}

/// The guard lets through only those canned ACLs that change nothing.
fn check_canned(canned: Option<&str>, policy: bool) -> Result<(), Refusal> {
    match (canned, policy) {
        (Some(_), false) => Ok(()),
        _ => Err(Refusal::NotImplemented("An access control policy".into())),
    }
}

async fn object_exists(larder: &Larder, call: &Call, bucket: &str, key: String) -> S3Result<()> {
    let key = call::key(key)?;
    let found = larder.engine.head_object(bucket, key.clone(), GetOptions::default()).await;
    found.map_err(|err| call.unreadable(bucket, &key, err))?;
    Ok(())
}

fn full_control() -> Grant {
    Grant {
        grantee: Some(Grantee {
            display_name: Some(OWNER.to_owned()),
            email_address: None,
            id: Some(OWNER.to_owned()),
            type_: Type::from_static(Type::CANONICAL_USER),
            uri: None,
        }),
        permission: Some(Permission::from_static(Permission::FULL_CONTROL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_is_accepted_when_it_changes_nothing() {
        assert_eq!(check_canned(Some("private"), false), Ok(()));
        assert_eq!(check_canned(Some("bucket-owner-full-control"), false), Ok(()));
        for (canned, policy) in [(None, true), (None, false), (Some("private"), true)] {
            let refused = check_canned(canned, policy);
            assert!(matches!(refused, Err(Refusal::NotImplemented(_))), "{canned:?} {policy}");
        }
    }
}
