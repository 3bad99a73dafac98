//! What a batch looks like on its way: `multipart/mixed`, each part a whole request with an authorization of its own.
//!
//! Invariants
//! 1. A part is addressed by the path of an ordinary request, percent-encoded alike, with the account in it where that is in the path:
//!    that is what its signature covers.
//! 2. A part bears no version: the batch's is that of all its parts.
//! 3. Nothing that goes into a part can end a line.

use crate::AzureStorage;
use azure_core::http::headers::{self, HeaderName};
use azure_core::http::{Method, Request};
use azure_storage_blob::BlobContainerClientOptions;
use pgconvoy_storage::http::batch::BatchStore as _;
use pgconvoy_storage::{IoAction, ObjectKey, StorageError, random};

/// Azure takes 4 MiB. A part is shorter than what is left: its path is at most 3 KiB, and its token is no longer than
/// headers of a request may be.
const BODY_BYTES_MAX: usize = (4 << 20) - (64 << 10);

const CONTENT_TYPE: HeaderName = HeaderName::from_static("content-type");
const VERSION: HeaderName = HeaderName::from_static("x-ms-version");

pub(super) struct Batch {
    pub(super) request: Request,
    pub(super) parts: usize,
}

impl AzureStorage {
    /// Of as many keys as go into one, in their order.
    pub(super) async fn batch(&self, keys: &[ObjectKey]) -> Result<Batch, StorageError> {
        let boundary = format!("batch_{}", random::hex(|| self.place(None))?);
        let mut body = String::new();
        let mut parts = 0;
        for key in keys.iter().take(AzureStorage::PARTS_MAX) {
            if body.len() > BODY_BYTES_MAX {
                break;
            }
            let delete = self.part(key).await?;
            body.push_str(&format!(
                "--{boundary}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\
                 Content-ID: {parts}\r\n\r\n{delete}\r\n"
            ));
            parts += 1;
        }
        body.push_str(&format!("--{boundary}--\r\n"));
        let mut url = self.0.container.url().clone();
        url.query_pairs_mut().append_pair("restype", "container").append_pair("comp", "batch");
        let mut request = Request::new(url, Method::Post);
        request.insert_header(CONTENT_TYPE, format!("multipart/mixed; boundary={boundary}"));
        request.insert_header(VERSION, BlobContainerClientOptions::default().version);
        request.set_body(body.into_bytes());
        Ok(Batch { request, parts })
    }

    /// The request of one part, with the empty line that ends it.
    async fn part(&self, key: &ObjectKey) -> Result<String, StorageError> {
        let mut delete = Request::new(self.blob(key).url().clone(), Method::Delete);
        let authorized = self.0.door.authorize(&mut delete).await;
        authorized.map_err(|error| self.asked(Some(key), IoAction::Remove).trouble(&error))?;
        let mut text = format!("DELETE {} HTTP/1.1\r\n", delete.path_and_query());
        for (name, value) in delete.headers().iter() {
            let name = if *name == headers::AUTHORIZATION { "Authorization" } else { name.as_str() };
            let value = value.as_str();
            // What an ordinary request would not take either: only a token that is none has such characters.
            if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
                let reason = format!("the value of {name} is none for a header");
                let hint = "check what gives out tokens to this machine";
                return Err(StorageError::refused(self.place(Some(key)), IoAction::Remove, reason, hint));
            }
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("Content-Length: 0\r\n\r\n");
        Ok(text)
    }
}
