//! A repository in a bucket of S3 or of a server that speaks like it: `pgconvoy_storage`'s contract on the AWS SDK.
//!
//! Code map: [`store`] is the contract, [`read`] its reads, [`parts`] uploads in parts, [`copy`] what the server copies by itself, [`list`] listings, [`lock`] retentions, [`versions`] the past; [`errors`] sorts what the store says;
//! [`connect`] makes the SDK's client, over the HTTP client of all stores ([`transport`]), with what [`credentials`] get and
//! renew; [`request`] holds what every request carries.
//!
//! Invariants
//! 1. A create is decided by the store: `If-None-Match: *` on puts and on joins. 412 means that somebody was first; 409 that
//!    somebody is about to be, or nobody: then the key is looked at.
//! 2. Every body is sent with its MD5, so that a store refuses what the way has changed. A whole object of one put bears its MD5
//!    and is compared with it when it is read as a whole; every read is compared with the length that was promised.
//! 3. Only a store that says so in its own words is believed that an object is not there: a missing bucket, a web server in its
//!    place or a refusal are errors.
//! 4. The SDK repeats nothing and gives up nothing by itself: repeating is the business of `RetryStorage` and `PartedUpload`,
//!    deadlines are theirs too.
//!
//! Failure story: uploads that die leave unfinished multipart uploads, which are invisible and cost money until
//! `sweep_temporary` or a lifecycle rule of the bucket ends them.

mod connect;
mod copy;
pub mod credentials;
mod errors;
mod list;
mod lock;
mod parts;
mod read;
mod request;
mod store;
mod transport;
mod versions;

pub use connect::Options;
pub use store::S3Storage;
