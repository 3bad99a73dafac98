//! From the configuration to a client of the SDK.
//!
//! What the SDK would do by itself is switched off here: repetitions, time-outs, guards against stalled streams, checksums in
//! trailers, which servers other than AWS's do not know.

use crate::copy::account;
use crate::credentials::{Environment, Source};
use crate::errors::Asker;
use crate::request::{CustomerKey, Keeping, payer};
use crate::store::{Inner, S3Storage};
use crate::transport::Transport;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use pgconvoy_core::config::{S3Config, S3KeyType, UriStyle};
use pgconvoy_storage::decorate::retry::RetryPolicy;
use pgconvoy_storage::pace::Pace;
use pgconvoy_storage::parts::PartSlots;
use pgconvoy_storage::{Lock, StorageError, http};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Requests of one process to one store: beyond that a connection more makes nothing faster.
const REQUESTS_MAX: u32 = 64;

/// What a process settles for all its stores.
#[derive(Debug, Clone)]
pub struct Options {
    /// For parts of uploads, which the store repeats itself.
    pub retry: RetryPolicy,
    pub slots: PartSlots,
    /// Where `auto` and `web-id` find what they need.
    pub environment: Environment,
    /// What new objects are guarded by.
    pub lock: Option<Lock>,
}

impl S3Storage {
    /// A client; nothing is asked yet. `path` is what all keys begin with.
    pub fn connect(config: &S3Config, path: &str, options: Options) -> Result<S3Storage, StorageError> {
        let prefix = path.trim_matches('/').to_owned();
        let description = S3Storage::description(config, path);
        let endpoint = endpoint(config);
        let http = http::client(&config.tls, &description)?;
        let lists_directories = Arc::new(AtomicBool::new(is_directory_bucket(&config.bucket)));
        let transport = Transport { client: http.clone(), lists_directories: Arc::clone(&lists_directories) };
        let source = Source::new(config, options.environment, http, &description)?;
        let sdk = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(transport)
            .endpoint_url(&endpoint)
            .region(Region::new(config.region.clone()))
            .force_path_style(config.uri_style == UriStyle::Path)
            .credentials_provider(source)
            .identity_cache(IdentityCache::no_cache())
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        let customer_key = match &config.sse_customer_key {
            Some(key) => Some(CustomerKey::parse(key.expose(), &description)?),
            None => None,
        };
        Ok(S3Storage::of(Inner {
            client: aws_sdk_s3::Client::from_conf(sdk),
            account: account(config, &endpoint),
            prefix,
            description: description.into(),
            keeping: Keeping::of(config, options.lock),
            customer_key,
            payer: payer(config),
            signs_payloads: endpoint.starts_with("http://"),
            asker: Asker {
                bucket: config.bucket.clone(),
                region: config.region.clone(),
                endpoint,
                renews: config.key_type != S3KeyType::Shared,
                locks: options.lock.is_some(),
            },
            pace: Pace::new(REQUESTS_MAX),
            retry: options.retry,
            slots: options.slots,
            is_bucket_known: AtomicBool::new(false),
            lists_directories,
        }))
    }

    /// What messages call it: `s3:bucket/path`.
    pub fn description(config: &S3Config, path: &str) -> String {
        let path = path.trim_matches('/');
        let separator = if path.is_empty() { "" } else { "/" };
        format!("s3:{}{separator}{path}", config.bucket)
    }
}

/// A host alone is spoken to with TLS.
fn endpoint(config: &S3Config) -> String {
    let endpoint = config.endpoint.trim_end_matches('/');
    if endpoint.contains("://") { endpoint.to_owned() } else { format!("https://{endpoint}") }
}

/// AWS's own kind of bucket whose listings have no order.
fn is_directory_bucket(name: &str) -> bool {
    name.ends_with("--x-s3")
}
