//! The operations of S3.
//!
//! One table says what becomes of every operation that `s3s` routes: it is had, or reads a setting
//! that is always empty or always absent, or is lacking. None is left to the defaults of `s3s`, so
//! an operation that a later `s3s` adds is noticed (`missing_trait_methods`).
//!
//! The handlers translate, call one verb of the engine, and translate back. Which access key may
//! call which operation was decided before; what depends on a body or on a second object is decided
//! here.

mod buckets;
mod call;
mod copy;
mod delete;
mod lifecycle;
mod listing;
mod multipart;
mod objects;
mod settings;
mod tags;

use std::sync::Arc;

use s3s::S3;
use s3s::S3Request;
use s3s::S3Response;
use s3s::S3Result;
use s3s::dto::*;

use crate::engine::Engine;
use crate::s3::error::Refusal;
use crate::s3::error::Setting;

/// The one owner of everything: Larder has keys, not accounts.
const OWNER: &str = "larder";

/// S3, answered by an engine.
pub(crate) struct Larder {
    engine: Arc<Engine>,
    region: String,
}

impl Larder {
    pub(crate) fn new(engine: Arc<Engine>, region: impl Into<String>) -> Larder {
        Larder { engine, region: region.into() }
    }
}

fn owner() -> Owner {
    Owner { display_name: Some(OWNER.to_owned()), id: Some(OWNER.to_owned()) }
}

macro_rules! operations {
    (
        has { $($has:ident($has_in:ident) -> $has_out:ident = $by:path;)* }
        empty { $($empty:ident($empty_in:ident) -> $empty_out:ident;)* }
        absent { $($absent:ident($absent_in:ident) -> $absent_out:ident = $setting:ident;)* }
        lacks { $($lacks:ident($lacks_in:ident) -> $lacks_out:ident;)* }
    ) => {
        #[deny(clippy::missing_trait_methods)]
        #[async_trait::async_trait]
        impl S3 for Larder {
            $(
                async fn $has(&self, req: S3Request<$has_in>) -> S3Result<S3Response<$has_out>> {
                    $by(self, req).await
                }
            )*
            $(
                async fn $empty(
                    &self,
                    req: S3Request<$empty_in>,
                ) -> S3Result<S3Response<$empty_out>> {
                    settings::exists(self, req.map_input(|input| input.bucket))?;
                    Ok(S3Response::new($empty_out::default()))
                }
            )*
            $(
                async fn $absent(
                    &self,
                    req: S3Request<$absent_in>,
                ) -> S3Result<S3Response<$absent_out>> {
                    settings::exists(self, req.map_input(|input| input.bucket))?;
                    Err(Refusal::NoSetting(Setting::$setting).into())
                }
            )*
            $(
                async fn $lacks(
                    &self,
                    _: S3Request<$lacks_in>,
                ) -> S3Result<S3Response<$lacks_out>> {
                    Err(lacking(stringify!($lacks)))
                }
            )*
        }

        /// The names of what is lacking.
        #[cfg(test)]
        const LACKING: &[&str] = &[$(stringify!($lacks)),*];
        /// The names of all other operations.
        #[cfg(test)]
        const ANSWERED: &[&str] =
            &[$(stringify!($has),)* $(stringify!($empty),)* $(stringify!($absent)),*];
    };
}

fn lacking(operation: &'static str) -> s3s::S3Error {
    Refusal::NotImplemented(format!("The operation {operation}").into()).into()
}

operations! {
    has {
        abort_multipart_upload(AbortMultipartUploadInput)
            -> AbortMultipartUploadOutput = multipart::abort;
        complete_multipart_upload(CompleteMultipartUploadInput)
            -> CompleteMultipartUploadOutput = multipart::complete;
        copy_object(CopyObjectInput) -> CopyObjectOutput = copy::copy;
        create_bucket(CreateBucketInput) -> CreateBucketOutput = buckets::create;
        create_multipart_upload(CreateMultipartUploadInput)
            -> CreateMultipartUploadOutput = multipart::create;
        delete_bucket(DeleteBucketInput) -> DeleteBucketOutput = buckets::delete;
        delete_bucket_lifecycle(DeleteBucketLifecycleInput)
            -> DeleteBucketLifecycleOutput = lifecycle::delete;
        delete_object(DeleteObjectInput) -> DeleteObjectOutput = delete::one;
        delete_object_tagging(DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput = tags::delete;
        delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput = delete::many;
        get_bucket_acl(GetBucketAclInput) -> GetBucketAclOutput = settings::bucket_acl;
        get_bucket_lifecycle_configuration(GetBucketLifecycleConfigurationInput)
            -> GetBucketLifecycleConfigurationOutput = lifecycle::get;
        get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput = buckets::location;
        get_bucket_request_payment(GetBucketRequestPaymentInput)
            -> GetBucketRequestPaymentOutput = settings::request_payment;
        get_object(GetObjectInput) -> GetObjectOutput = objects::get;
        get_object_acl(GetObjectAclInput) -> GetObjectAclOutput = settings::object_acl;
        get_object_attributes(GetObjectAttributesInput)
            -> GetObjectAttributesOutput = objects::attributes;
        get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput = tags::get;
        head_bucket(HeadBucketInput) -> HeadBucketOutput = buckets::head;
        head_object(HeadObjectInput) -> HeadObjectOutput = objects::head;
        list_buckets(ListBucketsInput) -> ListBucketsOutput = buckets::list;
        list_multipart_uploads(ListMultipartUploadsInput)
            -> ListMultipartUploadsOutput = multipart::uploads;
        list_object_versions(ListObjectVersionsInput)
            -> ListObjectVersionsOutput = listing::versions;
        list_objects(ListObjectsInput) -> ListObjectsOutput = listing::first;
        list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output = listing::second;
        list_parts(ListPartsInput) -> ListPartsOutput = multipart::parts;
        post_object(PostObjectInput) -> PostObjectOutput = objects::post;
        put_bucket_acl(PutBucketAclInput) -> PutBucketAclOutput = settings::put_bucket_acl;
        put_bucket_lifecycle_configuration(PutBucketLifecycleConfigurationInput)
            -> PutBucketLifecycleConfigurationOutput = lifecycle::put;
        put_object(PutObjectInput) -> PutObjectOutput = objects::put;
        put_object_acl(PutObjectAclInput) -> PutObjectAclOutput = settings::put_object_acl;
        put_object_tagging(PutObjectTaggingInput) -> PutObjectTaggingOutput = tags::put;
        upload_part(UploadPartInput) -> UploadPartOutput = multipart::put_part;
        upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput = copy::copy_part;
    }
    empty {
        get_bucket_accelerate_configuration(GetBucketAccelerateConfigurationInput)
            -> GetBucketAccelerateConfigurationOutput;
        get_bucket_logging(GetBucketLoggingInput) -> GetBucketLoggingOutput;
        get_bucket_notification_configuration(GetBucketNotificationConfigurationInput)
            -> GetBucketNotificationConfigurationOutput;
        get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput;
    }
    absent {
        get_bucket_cors(GetBucketCorsInput) -> GetBucketCorsOutput = Cors;
        get_bucket_encryption(GetBucketEncryptionInput) -> GetBucketEncryptionOutput = Encryption;
        get_bucket_ownership_controls(GetBucketOwnershipControlsInput)
            -> GetBucketOwnershipControlsOutput = OwnershipControls;
        get_bucket_policy(GetBucketPolicyInput) -> GetBucketPolicyOutput = Policy;
        get_bucket_policy_status(GetBucketPolicyStatusInput)
            -> GetBucketPolicyStatusOutput = Policy;
        get_bucket_replication(GetBucketReplicationInput)
            -> GetBucketReplicationOutput = Replication;
        get_bucket_tagging(GetBucketTaggingInput) -> GetBucketTaggingOutput = Tagging;
        get_bucket_website(GetBucketWebsiteInput) -> GetBucketWebsiteOutput = Website;
        get_object_lock_configuration(GetObjectLockConfigurationInput)
            -> GetObjectLockConfigurationOutput = ObjectLock;
        get_public_access_block(GetPublicAccessBlockInput)
            -> GetPublicAccessBlockOutput = PublicAccessBlock;
    }
    lacks {
        create_bucket_metadata_table_configuration(CreateBucketMetadataTableConfigurationInput)
            -> CreateBucketMetadataTableConfigurationOutput;
        create_session(CreateSessionInput) -> CreateSessionOutput;
        delete_bucket_analytics_configuration(DeleteBucketAnalyticsConfigurationInput)
            -> DeleteBucketAnalyticsConfigurationOutput;
        delete_bucket_cors(DeleteBucketCorsInput) -> DeleteBucketCorsOutput;
        delete_bucket_encryption(DeleteBucketEncryptionInput) -> DeleteBucketEncryptionOutput;
        delete_bucket_intelligent_tiering_configuration
            (DeleteBucketIntelligentTieringConfigurationInput)
            -> DeleteBucketIntelligentTieringConfigurationOutput;
        delete_bucket_inventory_configuration(DeleteBucketInventoryConfigurationInput)
            -> DeleteBucketInventoryConfigurationOutput;
        delete_bucket_metadata_table_configuration(DeleteBucketMetadataTableConfigurationInput)
            -> DeleteBucketMetadataTableConfigurationOutput;
        delete_bucket_metrics_configuration(DeleteBucketMetricsConfigurationInput)
            -> DeleteBucketMetricsConfigurationOutput;
        delete_bucket_ownership_controls(DeleteBucketOwnershipControlsInput)
            -> DeleteBucketOwnershipControlsOutput;
        delete_bucket_policy(DeleteBucketPolicyInput) -> DeleteBucketPolicyOutput;
        delete_bucket_replication(DeleteBucketReplicationInput) -> DeleteBucketReplicationOutput;
        delete_bucket_tagging(DeleteBucketTaggingInput) -> DeleteBucketTaggingOutput;
        delete_bucket_website(DeleteBucketWebsiteInput) -> DeleteBucketWebsiteOutput;
        delete_public_access_block(DeletePublicAccessBlockInput) -> DeletePublicAccessBlockOutput;
        get_bucket_analytics_configuration(GetBucketAnalyticsConfigurationInput)
            -> GetBucketAnalyticsConfigurationOutput;
        get_bucket_intelligent_tiering_configuration(GetBucketIntelligentTieringConfigurationInput)
            -> GetBucketIntelligentTieringConfigurationOutput;
        get_bucket_inventory_configuration(GetBucketInventoryConfigurationInput)
            -> GetBucketInventoryConfigurationOutput;
        get_bucket_metadata_table_configuration(GetBucketMetadataTableConfigurationInput)
            -> GetBucketMetadataTableConfigurationOutput;
        get_bucket_metrics_configuration(GetBucketMetricsConfigurationInput)
            -> GetBucketMetricsConfigurationOutput;
        get_object_legal_hold(GetObjectLegalHoldInput) -> GetObjectLegalHoldOutput;
        get_object_retention(GetObjectRetentionInput) -> GetObjectRetentionOutput;
        get_object_torrent(GetObjectTorrentInput) -> GetObjectTorrentOutput;
        list_bucket_analytics_configurations(ListBucketAnalyticsConfigurationsInput)
            -> ListBucketAnalyticsConfigurationsOutput;
        list_bucket_intelligent_tiering_configurations
            (ListBucketIntelligentTieringConfigurationsInput)
            -> ListBucketIntelligentTieringConfigurationsOutput;
        list_bucket_inventory_configurations(ListBucketInventoryConfigurationsInput)
            -> ListBucketInventoryConfigurationsOutput;
        list_bucket_metrics_configurations(ListBucketMetricsConfigurationsInput)
            -> ListBucketMetricsConfigurationsOutput;
        list_directory_buckets(ListDirectoryBucketsInput) -> ListDirectoryBucketsOutput;
        put_bucket_accelerate_configuration(PutBucketAccelerateConfigurationInput)
            -> PutBucketAccelerateConfigurationOutput;
        put_bucket_analytics_configuration(PutBucketAnalyticsConfigurationInput)
            -> PutBucketAnalyticsConfigurationOutput;
        put_bucket_cors(PutBucketCorsInput) -> PutBucketCorsOutput;
        put_bucket_encryption(PutBucketEncryptionInput) -> PutBucketEncryptionOutput;
        put_bucket_intelligent_tiering_configuration(PutBucketIntelligentTieringConfigurationInput)
            -> PutBucketIntelligentTieringConfigurationOutput;
        put_bucket_inventory_configuration(PutBucketInventoryConfigurationInput)
            -> PutBucketInventoryConfigurationOutput;
        put_bucket_logging(PutBucketLoggingInput) -> PutBucketLoggingOutput;
        put_bucket_metrics_configuration(PutBucketMetricsConfigurationInput)
            -> PutBucketMetricsConfigurationOutput;
        put_bucket_notification_configuration(PutBucketNotificationConfigurationInput)
            -> PutBucketNotificationConfigurationOutput;
        put_bucket_ownership_controls(PutBucketOwnershipControlsInput)
            -> PutBucketOwnershipControlsOutput;
        put_bucket_policy(PutBucketPolicyInput) -> PutBucketPolicyOutput;
        put_bucket_replication(PutBucketReplicationInput) -> PutBucketReplicationOutput;
        put_bucket_request_payment(PutBucketRequestPaymentInput) -> PutBucketRequestPaymentOutput;
        put_bucket_tagging(PutBucketTaggingInput) -> PutBucketTaggingOutput;
        put_bucket_versioning(PutBucketVersioningInput) -> PutBucketVersioningOutput;
        put_bucket_website(PutBucketWebsiteInput) -> PutBucketWebsiteOutput;
        put_object_legal_hold(PutObjectLegalHoldInput) -> PutObjectLegalHoldOutput;
        put_object_lock_configuration(PutObjectLockConfigurationInput)
            -> PutObjectLockConfigurationOutput;
        put_object_retention(PutObjectRetentionInput) -> PutObjectRetentionOutput;
        put_public_access_block(PutPublicAccessBlockInput) -> PutPublicAccessBlockOutput;
        restore_object(RestoreObjectInput) -> RestoreObjectOutput;
        select_object_content(SelectObjectContentInput) -> SelectObjectContentOutput;
        write_get_object_response(WriteGetObjectResponseInput) -> WriteGetObjectResponseOutput;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use s3s::access::S3Access;
    use s3s::access::S3AccessContext;
    use s3s::auth::SimpleAuth;
    use s3s::service::S3Service;
    use s3s::service::S3ServiceBuilder;

    use super::*;

    /// Requests for everything that is lacking but what Larder is never asked for: write-get-object
    /// responses come from AWS's own functions.
    const REQUESTS: [(&str, &str, &str); 50] = [
        ("POST", "/bucket?metadataTable", "create_bucket_metadata_table_configuration"),
        ("GET", "/bucket?session", "create_session"),
        ("DELETE", "/bucket?analytics&id=1", "delete_bucket_analytics_configuration"),
        ("DELETE", "/bucket?cors", "delete_bucket_cors"),
        ("DELETE", "/bucket?encryption", "delete_bucket_encryption"),
        (
            "DELETE",
            "/bucket?intelligent-tiering&id=1",
            "delete_bucket_intelligent_tiering_configuration",
        ),
        ("DELETE", "/bucket?inventory&id=1", "delete_bucket_inventory_configuration"),
        ("DELETE", "/bucket?metadataTable", "delete_bucket_metadata_table_configuration"),
        ("DELETE", "/bucket?metrics&id=1", "delete_bucket_metrics_configuration"),
        ("DELETE", "/bucket?ownershipControls", "delete_bucket_ownership_controls"),
        ("DELETE", "/bucket?policy", "delete_bucket_policy"),
        ("DELETE", "/bucket?replication", "delete_bucket_replication"),
        ("DELETE", "/bucket?tagging", "delete_bucket_tagging"),
        ("DELETE", "/bucket?website", "delete_bucket_website"),
        ("DELETE", "/bucket?publicAccessBlock", "delete_public_access_block"),
        ("GET", "/bucket?analytics&id=1", "get_bucket_analytics_configuration"),
        ("GET", "/bucket?intelligent-tiering&id=1", "get_bucket_intelligent_tiering_configuration"),
        ("GET", "/bucket?inventory&id=1", "get_bucket_inventory_configuration"),
        ("GET", "/bucket?metadataTable", "get_bucket_metadata_table_configuration"),
        ("GET", "/bucket?metrics&id=1", "get_bucket_metrics_configuration"),
        ("GET", "/bucket/key?legal-hold", "get_object_legal_hold"),
        ("GET", "/bucket/key?retention", "get_object_retention"),
        ("GET", "/bucket/key?torrent", "get_object_torrent"),
        ("GET", "/bucket?analytics", "list_bucket_analytics_configurations"),
        ("GET", "/bucket?intelligent-tiering", "list_bucket_intelligent_tiering_configurations"),
        ("GET", "/bucket?inventory", "list_bucket_inventory_configurations"),
        ("GET", "/bucket?metrics", "list_bucket_metrics_configurations"),
        ("GET", "/?x-id=ListDirectoryBuckets", "list_directory_buckets"),
        ("PUT", "/bucket?accelerate", "put_bucket_accelerate_configuration"),
        ("PUT", "/bucket?analytics&id=1", "put_bucket_analytics_configuration"),
        ("PUT", "/bucket?cors", "put_bucket_cors"),
        ("PUT", "/bucket?encryption", "put_bucket_encryption"),
        ("PUT", "/bucket?intelligent-tiering&id=1", "put_bucket_intelligent_tiering_configuration"),
        ("PUT", "/bucket?inventory&id=1", "put_bucket_inventory_configuration"),
        ("PUT", "/bucket?logging", "put_bucket_logging"),
        ("PUT", "/bucket?metrics&id=1", "put_bucket_metrics_configuration"),
        ("PUT", "/bucket?notification", "put_bucket_notification_configuration"),
        ("PUT", "/bucket?ownershipControls", "put_bucket_ownership_controls"),
        ("PUT", "/bucket?policy", "put_bucket_policy"),
        ("PUT", "/bucket?replication", "put_bucket_replication"),
        ("PUT", "/bucket?requestPayment", "put_bucket_request_payment"),
        ("PUT", "/bucket?tagging", "put_bucket_tagging"),
        ("PUT", "/bucket?versioning", "put_bucket_versioning"),
        ("PUT", "/bucket?website", "put_bucket_website"),
        ("PUT", "/bucket/key?legal-hold", "put_object_legal_hold"),
        ("PUT", "/bucket?object-lock", "put_object_lock_configuration"),
        ("PUT", "/bucket/key?retention", "put_object_retention"),
        ("PUT", "/bucket?publicAccessBlock", "put_public_access_block"),
        ("POST", "/bucket/key?restore", "restore_object"),
        ("POST", "/bucket/key?select&select-type=2", "select_object_content"),
    ];

    /// An S3 that has nothing: only where requests are routed is looked at.
    struct Nothing;
    impl S3 for Nothing {}

    /// Notes the operation of each request and lets none through.
    struct Router(Arc<Mutex<String>>);

    #[async_trait::async_trait]
    impl S3Access for Router {
        async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
            *self.0.lock().unwrap() = snake(cx.s3_op().name());
            Err(Refusal::AccessDenied.into())
        }
    }

    fn snake(name: &str) -> String {
        let mut snake = String::new();
        for c in name.chars() {
            if c.is_ascii_uppercase() && !snake.is_empty() {
                snake.push('_');
            }
            snake.push(c.to_ascii_lowercase());
        }
        snake
    }

    async fn routed(service: &S3Service, noted: &Mutex<String>, method: &str, uri: &str) -> String {
        noted.lock().unwrap().clear();
        let request = http::Request::builder().method(method).uri(uri).header("host", "localhost");
        let request = request.body(s3s::Body::empty()).unwrap();
        service.call(request).await.unwrap();
        noted.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn no_setting_is_taken_for_another_operation() {
        let noted = Arc::new(Mutex::new(String::new()));
        let mut builder = S3ServiceBuilder::new(Nothing);
        builder.set_auth(SimpleAuth::new());
        builder.set_access(Router(Arc::clone(&noted)));
        let service = builder.build();
        for (method, uri, operation) in REQUESTS {
            assert_eq!(routed(&service, &noted, method, uri).await, operation, "{method} {uri}");
        }
        assert_eq!(routed(&service, &noted, "GET", "/bucket/key").await, "get_object");
    }

    #[test]
    fn every_operation_is_answered_or_lacking() {
        let lacking: BTreeSet<&str> = LACKING.iter().copied().collect();
        let answered: BTreeSet<&str> = ANSWERED.iter().copied().collect();
        assert!(lacking.is_disjoint(&answered));
        assert_eq!(lacking.len() + answered.len(), LACKING.len() + ANSWERED.len());
        // All that s3s 0.14 knows. Its defaults are forbidden above, so this is the whole trait.
        assert_eq!(lacking.len() + answered.len(), 99);
        let mut asked: BTreeSet<&str> = REQUESTS.iter().map(|(_, _, name)| *name).collect();
        asked.insert("write_get_object_response");
        assert_eq!(asked, lacking);
    }

    #[test]
    fn what_is_lacking_says_so() {
        let error = lacking("put_bucket_cors");
        assert_eq!(error.code().as_str(), "NotImplemented");
        assert_eq!(error.status_code(), Some(http::StatusCode::NOT_IMPLEMENTED));
    }
}
