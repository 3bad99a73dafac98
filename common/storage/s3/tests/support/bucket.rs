//! A bucket in memory that lists in the order of keys and decides creates, as S3 does. It checks no signatures.

use super::{Reply, Request};
use base64::Engine as _;
use md5::{Digest as _, Md5};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

#[derive(Debug, Clone, Default)]
pub struct Object {
    pub body: Vec<u8>,
    /// `x-amz-*` of the request that made it.
    pub headers: BTreeMap<String, String>,
}

/// Key, headers, parts.
pub type Unfinished = (String, BTreeMap<String, String>, BTreeMap<u32, Vec<u8>>);

#[derive(Debug, Default)]
pub struct Contents {
    pub objects: BTreeMap<String, Object>,
    /// By id.
    pub uploads: BTreeMap<String, Unfinished>,
    pub lists: usize,
    /// How many of the next pages of listings have no entries, but go on.
    pub empty_pages: usize,
    begun: u32,
}

#[derive(Debug, Clone, Default)]
pub struct Bucket(pub Arc<Mutex<Contents>>);

fn md5(body: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(Md5::digest(body))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

fn xml(inner: &str, root: &str) -> Reply {
    Reply::of(200, format!("<?xml version=\"1.0\"?><{root}>{inner}</{root}>"))
}

/// Of a page of a listing that is not the last.
fn going_on(last: &str) -> String {
    let last = escaped(last);
    format!("<IsTruncated>true</IsTruncated><NextContinuationToken>behind {last}</NextContinuationToken>")
}

fn kept_headers(request: &Request) -> BTreeMap<String, String> {
    request
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("x-amz-"))
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect()
}

fn elements<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    text.split(&open).skip(1).map(|rest| rest.split(&close).next().unwrap()).collect()
}

impl Bucket {
    /// Numbered, as all answers of S3 are.
    pub fn answer(&self, request: &Request) -> Reply {
        self.unnumbered(request).with("x-amz-request-id", "4442587FB7D0A2F9")
    }

    fn unnumbered(&self, request: &Request) -> Reply {
        let mut contents = self.0.lock().unwrap();
        if let Some(expected) = request.header("content-md5")
            && md5(&request.body) != expected
        {
            return Reply::error(400, "BadDigest", "");
        }
        let Some(key) = request.path.strip_prefix("/bucket") else {
            return Reply::error(404, "NoSuchBucket", "");
        };
        let key = key.trim_start_matches('/').to_owned();
        let has = |name: &str| request.query.contains_key(name);
        match request.method.as_str() {
            "GET" if has("list-type") => contents.list(request),
            "GET" if has("uploads") => contents.list_uploads(request),
            "GET" | "HEAD" => contents.get(request, &key),
            "POST" if has("delete") => contents.delete_many(request),
            "POST" if has("uploads") => contents.begin(request, key),
            "POST" if has("uploadId") => contents.join(request),
            "PUT" if has("uploadId") => contents.put_part(request),
            "PUT" => contents.put(request, key, request.body.clone(), kept_headers(request)),
            "DELETE" if has("uploadId") => {
                let removed = contents.uploads.remove(&request.query["uploadId"]);
                if removed.is_some() { Reply::of(204, "") } else { Reply::error(404, "NoSuchUpload", "") }
            }
            "DELETE" => {
                contents.objects.remove(&key);
                Reply::of(204, "")
            }
            _ => Reply::error(501, "NotImplemented", ""),
        }
    }
}

impl Contents {
    fn put(
        &mut self,
        request: &Request,
        key: String,
        body: Vec<u8>,
        headers: BTreeMap<String, String>,
    ) -> Reply {
        if request.header("if-none-match") == Some("*") && self.objects.contains_key(&key) {
            return Reply::error(412, "PreconditionFailed", "");
        }
        self.objects.insert(key, Object { body, headers });
        Reply::of(200, "").with("etag", "\"x\"")
    }

    fn get(&self, request: &Request, key: &str) -> Reply {
        let Some(object) = self.objects.get(key) else { return Reply::error(404, "NoSuchKey", "") };
        let length = object.body.len();
        let mut reply = match request.header("range") {
            None => Reply::of(200, object.body.clone()),
            Some(range) => {
                let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                let first: usize = first.parse().unwrap();
                if first >= length {
                    return Reply::error(416, "InvalidRange", "");
                }
                let last = last.parse::<usize>().unwrap().min(length - 1);
                let content_range = format!("bytes {first}-{last}/{length}");
                Reply::of(206, &object.body[first..=last]).with("content-range", content_range)
            }
        };
        for (name, value) in object.headers.iter().filter(|(name, _)| name.starts_with("x-amz-meta-")) {
            reply = reply.with(name, value);
        }
        if request.method == "HEAD" {
            reply = reply.with("content-length", length);
        }
        reply.with("last-modified", "Thu, 26 Nov 2026 10:00:00 GMT")
    }

    fn list(&mut self, request: &Request) -> Reply {
        self.lists += 1;
        let asked = |name: &str| request.query.get(name).map_or("", String::as_str);
        let (prefix, delimiter, token) = (asked("prefix"), asked("delimiter"), asked("continuation-token"));
        let start = token.strip_prefix("behind ").unwrap_or_else(|| asked("start-after"));
        if self.empty_pages > 0 {
            self.empty_pages -= 1;
            return xml(&going_on(start), "ListBucketResult");
        }
        let limit: usize = asked("max-keys").parse().unwrap();
        let mut entries: Vec<(String, bool)> = Vec::new();
        for name in self.objects.keys().filter(|name| name.starts_with(prefix) && name.as_str() > start) {
            let cut = name[prefix.len()..].find(delimiter).filter(|_| !delimiter.is_empty());
            let entry = match cut {
                Some(at) => (name[..=prefix.len() + at].to_owned(), true),
                None => (name.clone(), false),
            };
            // A prefix that the start lies in, or behind, was on an earlier page.
            if entry.1 && entry.0.as_str() <= start || entries.last() == Some(&entry) {
                continue;
            }
            entries.push(entry);
        }
        let is_truncated = entries.len() > limit;
        entries.truncate(limit);
        let last = entries.last().map_or(String::new(), |(name, _)| name.clone());
        let mut inner = if is_truncated { going_on(&last) } else { String::new() };
        for (name, is_prefix) in entries {
            let shown = escaped(&name);
            inner.push_str(&if is_prefix {
                format!("<CommonPrefixes><Prefix>{shown}</Prefix></CommonPrefixes>")
            } else {
                let size = self.objects[&name].body.len();
                let modified = "2026-11-26T10:00:00.123Z";
                format!("<Contents><Key>{shown}</Key><Size>{size}</Size><LastModified>{modified}</LastModified></Contents>")
            });
        }
        xml(&inner, "ListBucketResult")
    }

    fn delete_many(&mut self, request: &Request) -> Reply {
        if request.header("content-md5").is_none() {
            return Reply::error(400, "InvalidRequest", "");
        }
        for key in elements(&request.text(), "Key") {
            self.objects.remove(&unescaped(key));
        }
        xml("", "DeleteResult")
    }

    fn begin(&mut self, request: &Request, key: String) -> Reply {
        self.begun += 1;
        let id = format!("upload-{}", self.begun);
        let answer = format!("<UploadId>{id}</UploadId>");
        self.uploads.insert(id, (key, kept_headers(request), BTreeMap::new()));
        xml(&answer, "InitiateMultipartUploadResult")
    }

    fn put_part(&mut self, request: &Request) -> Reply {
        let Some((_, _, parts)) = self.uploads.get_mut(&request.query["uploadId"]) else {
            return Reply::error(404, "NoSuchUpload", "");
        };
        parts.insert(request.query["partNumber"].parse().unwrap(), request.body.clone());
        Reply::of(200, "").with("etag", "\"part\"")
    }

    fn join(&mut self, request: &Request) -> Reply {
        let id = &request.query["uploadId"];
        let Some((key, headers, parts)) = self.uploads.get(id).cloned() else {
            return Reply::error(404, "NoSuchUpload", "");
        };
        let text = request.text();
        let numbers = elements(&text, "PartNumber");
        let body = numbers.iter().flat_map(|number| parts[&number.parse().unwrap()].clone()).collect();
        let reply = self.put(request, key, body, headers);
        if reply.status != 200 {
            return reply;
        }
        self.uploads.remove(id);
        xml("<ETag>\"joined\"</ETag>", "CompleteMultipartUploadResult")
    }

    fn list_uploads(&self, request: &Request) -> Reply {
        let prefix = request.query["prefix"].as_str();
        let found = self.uploads.iter().filter(|(_, (key, ..))| key.starts_with(prefix));
        let uploads = found.map(|(id, (key, ..))| {
            let key = escaped(key);
            format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>")
        });
        xml(&uploads.collect::<String>(), "ListMultipartUploadsResult")
    }
}
