//! What is in the bucket, and what the documented requests do to it. No HTTP here.

use super::body::Body;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::body::Bytes;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Sources of one compose.
const SOURCES_MAX: usize = 32;
const PAGE_MAX: usize = 1000;
/// What one call of a rewrite does.
const REWRITE_BYTES_MAX: usize = 8 << 20;

#[derive(Debug, Clone)]
pub struct Object {
    pub body: Body,
    pub generation: i64,
    pub crc32c: u32,
    /// Of what was not composed.
    md5: Option<String>,
    created: SystemTime,
    metadata: Map<String, Value>,
    component_count: Option<u64>,
    /// Mode and time, as the description has them.
    retention: Option<Value>,
}

#[derive(Debug, Default)]
pub struct Bucket {
    objects: BTreeMap<String, Object>,
    /// What was replaced or removed, and when; only with `versioning`.
    noncurrent: BTreeMap<(String, i64), (Object, SystemTime)>,
    last_generation: i64,
    pub versioning: bool,
    /// It was made for retentions of single objects.
    pub object_retention: bool,
    /// What a compose is told of a retention is forgotten.
    pub forgets_retention: bool,
}

/// A refusal: status, Google's word for the reason, message.
pub type Refusal = (u16, &'static str, String);

pub fn no_such_object(name: &str) -> Refusal {
    (404, "notFound", format!("No such object: {}/{name}", super::BUCKET))
}

impl Bucket {
    pub fn names(&self) -> Vec<String> {
        self.objects.keys().cloned().collect()
    }

    pub fn body(&self, name: &str) -> Option<Bytes> {
        self.objects.get(name).map(|object| object.body.whole())
    }

    pub fn metadata(&self, name: &str) -> Option<Vec<(String, String)>> {
        let metadata = &self.objects.get(name)?.metadata;
        Some(metadata.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect())
    }

    pub fn find(&self, name: &str) -> Result<&Object, Refusal> {
        self.objects.get(name).ok_or_else(|| no_such_object(name))
    }

    /// This generation of it, or the live one.
    pub fn find_generation(&self, name: &str, generation: Option<i64>) -> Result<&Object, Refusal> {
        match (self.objects.get(name), generation) {
            (Some(live), None) => Ok(live),
            (Some(live), Some(wanted)) if live.generation == wanted => Ok(live),
            (_, Some(wanted)) => {
                let old = self.noncurrent.get(&(name.to_owned(), wanted));
                old.map(|(object, _)| object).ok_or_else(|| no_such_object(name))
            }
            (None, None) => Err(no_such_object(name)),
        }
    }

    pub fn retention(&self, name: &str) -> Option<Value> {
        self.objects.get(name)?.retention.clone()
    }

    /// Only where the bucket was made for it.
    fn allow_retention(&self, description: &Value) -> Result<(), Refusal> {
        if description["retention"].is_object() && !self.object_retention {
            return Err((400, "invalid", "Object retention is not enabled for this bucket.".to_owned()));
        }
        Ok(())
    }

    /// A patch of the one thing that is ever patched.
    pub fn patch(&mut self, name: &str, generation: Option<i64>, change: &Value) -> Result<Value, Refusal> {
        self.allow_retention(change)?;
        let object = self.objects.get_mut(name).ok_or_else(|| no_such_object(name))?;
        if generation.is_some_and(|generation| generation != object.generation) {
            return Err(no_such_object(name));
        }
        object.retention = Some(change["retention"].clone());
        Ok(describe(name, object, None))
    }

    /// `ifGenerationMatch`: 0 stands for "there is none".
    pub fn check(&self, name: &str, if_generation_match: Option<i64>) -> Result<(), Refusal> {
        let is = self.objects.get(name).map_or(0, |object| object.generation);
        match if_generation_match {
            Some(wanted) if wanted != is => {
                let message = "At least one of the pre-conditions you specified did not hold.";
                Err((412, "conditionNotMet", message.to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// `description` is the JSON part of a multipart upload.
    pub fn insert(
        &mut self,
        name: &str,
        description: &Value,
        body: Bytes,
        if_generation_match: Option<i64>,
    ) -> Result<Value, Refusal> {
        let body = Body::from(body);
        let crc32c = body.crc32c();
        if let Some(said) = description["crc32c"].as_str()
            && said != crc32c_text(crc32c)
        {
            let message = format!(
                "Provided CRC32C \"{said}\" doesn't match calculated CRC32C \"{}\".",
                crc32c_text(crc32c)
            );
            return Err((400, "invalid", message));
        }
        self.check(name, if_generation_match)?;
        self.allow_retention(description)?;
        self.store(name, description, body, None)
    }

    fn store(
        &mut self,
        name: &str,
        description: &Value,
        body: Body,
        component_count: Option<u64>,
    ) -> Result<Value, Refusal> {
        let now = SystemTime::now();
        self.retire(name, now)?;
        let micros = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        self.last_generation = (self.last_generation + 1).max(i64::try_from(micros).unwrap_or(i64::MAX));
        let object = Object {
            crc32c: body.crc32c(),
            md5: component_count.is_none().then(|| BASE64_STANDARD.encode(body.md5())),
            body,
            generation: self.last_generation,
            created: now,
            metadata: description["metadata"].as_object().cloned().unwrap_or_default(),
            component_count,
            retention: Some(description["retention"].clone()).filter(Value::is_object),
        };
        let described = describe(name, &object, None);
        self.objects.insert(name.to_owned(), object);
        Ok(described)
    }

    /// The live object makes room: for good, or as an old version, which a retention allows.
    fn retire(&mut self, name: &str, now: SystemTime) -> Result<(), Refusal> {
        if !self.versioning && self.objects.get(name).is_some_and(|object| object.retention.is_some()) {
            return Err(retained(name));
        }
        if let Some(object) = self.objects.remove(name)
            && self.versioning
        {
            self.noncurrent.insert((name.to_owned(), object.generation), (object, now));
        }
        Ok(())
    }

    pub fn compose(
        &mut self,
        name: &str,
        request: &Value,
        if_generation_match: Option<i64>,
    ) -> Result<Value, Refusal> {
        let sources = request["sourceObjects"].as_array().map_or(&[][..], Vec::as_slice);
        if sources.is_empty() || sources.len() > SOURCES_MAX {
            let message =
                format!("The number of source components provided ({}) must be 1 to 32", sources.len());
            return Err((400, "invalid", message));
        }
        let mut body = Body::default();
        let mut count = 0;
        for source in sources {
            let source = self.find(source["name"].as_str().unwrap_or_default())?;
            body.append(&source.body);
            count += source.component_count.unwrap_or(1);
        }
        self.check(name, if_generation_match)?;
        let mut destination = request["destination"].clone();
        self.allow_retention(&destination)?;
        if self.forgets_retention {
            destination["retention"] = Value::Null;
        }
        self.store(name, &destination, body, Some(count))
    }

    /// From a version to a name; a large one in two calls, of which the second has the token that the first gave.
    pub fn rewrite(
        &mut self,
        (source, generation): (&str, Option<i64>),
        name: &str,
        description: &Value,
        if_generation_match: Option<i64>,
        token: Option<&String>,
    ) -> Result<Value, Refusal> {
        let Object { body, generation, .. } = self.find_generation(source, generation)?.clone();
        self.check(name, if_generation_match)?;
        self.allow_retention(description)?;
        let size = body.size().to_string();
        let expected = format!("{generation}/{name}");
        match token {
            Some(token) if *token != expected => {
                return Err((400, "invalid", "Bad rewrite token".to_owned()));
            }
            None if body.size() > REWRITE_BYTES_MAX => {
                return Ok(json!({
                    "kind": "storage#rewriteResponse",
                    "totalBytesRewritten": REWRITE_BYTES_MAX.to_string(),
                    "objectSize": size,
                    "done": false,
                    "rewriteToken": expected,
                }));
            }
            _ => {}
        }
        let resource = self.store(name, description, body, None)?;
        Ok(json!({
            "kind": "storage#rewriteResponse",
            "totalBytesRewritten": size,
            "objectSize": size,
            "done": true,
            "resource": resource,
        }))
    }

    /// Without a generation the live object; with one that version, for good.
    pub fn delete(&mut self, name: &str, generation: Option<i64>) -> Result<(), Refusal> {
        let object = self.find_generation(name, generation)?;
        let Some(generation) = generation else { return self.retire(name, SystemTime::now()) };
        if object.retention.is_some() {
            return Err(retained(name));
        }
        if self.noncurrent.remove(&(name.to_owned(), generation)).is_none() {
            self.objects.remove(name);
        }
        Ok(())
    }

    pub fn describe(&self, name: &str) -> Result<Value, Refusal> {
        Ok(describe(name, self.find(name)?, None))
    }

    pub fn list(&self, query: &BTreeMap<String, String>) -> Result<Value, Refusal> {
        let get = |name: &str| query.get(name).map_or("", String::as_str);
        let (prefix, delimiter) = (get("prefix"), get("delimiter"));
        let limit = query.get("maxResults").map_or(Ok(PAGE_MAX), |text| text.parse());
        let limit = limit.map_err(|_| (400, "invalid", "Invalid unsigned integer".to_owned()))?;
        let limit = usize::min(limit, PAGE_MAX);
        let (mut items, mut prefixes): (Vec<Value>, Vec<String>) = (Vec::new(), Vec::new());
        let mut last = get("pageToken").to_owned();
        let mut is_cut = false;
        for (name, object, ended) in self.listed(get("versions") == "true") {
            if !name.starts_with(prefix) || name < get("startOffset") {
                continue;
            }
            let end = name[prefix.len()..].find(delimiter).filter(|_| !delimiter.is_empty());
            // A version has a place of its own behind its name; no name has this character.
            let entry = match end {
                Some(end) => name[..prefix.len() + end + delimiter.len()].to_owned(),
                None => format!("{name}\0{:020}", object.generation),
            };
            // What an earlier page had, and what this one has.
            if entry <= last && !last.is_empty() {
                continue;
            }
            if items.len() + prefixes.len() == limit {
                is_cut = true;
                break;
            }
            match end {
                Some(_) => prefixes.push(entry.clone()),
                None => items.push(describe(name, object, ended)),
            }
            last = entry;
        }
        let mut page = json!({ "kind": "storage#objects", "items": items, "prefixes": prefixes });
        if is_cut {
            page["nextPageToken"] = last.into();
        }
        Ok(page)
    }
}

impl Bucket {
    /// By name and generation, with the end of what is no more.
    fn listed(&self, versions: bool) -> Vec<(&str, &Object, Option<SystemTime>)> {
        let live = self.objects.iter().map(|(name, object)| (name.as_str(), object, None));
        let old = self.noncurrent.iter().filter(|_| versions);
        let old = old.map(|((name, _), (object, ended))| (name.as_str(), object, Some(*ended)));
        let mut all: Vec<_> = live.chain(old).collect();
        all.sort_by_key(|(name, object, _)| (name.to_string(), object.generation));
        all
    }
}

fn retained(name: &str) -> Refusal {
    let message = format!(
        "Object '{}/{name}' is subject to bucket's retention policy or object retention and cannot be deleted or overwritten until 2030-01-01T00:00:00Z",
        super::BUCKET
    );
    (403, "retentionPolicyNotMet", message)
}

pub fn crc32c_text(crc: u32) -> String {
    BASE64_STANDARD.encode(crc.to_be_bytes())
}

fn describe(name: &str, object: &Object, ended: Option<SystemTime>) -> Value {
    let mut described = json!({
        "kind": "storage#object",
        "bucket": super::BUCKET,
        "name": name,
        "generation": object.generation.to_string(),
        "metageneration": "1",
        "size": object.body.size().to_string(),
        "crc32c": crc32c_text(object.crc32c),
        "storageClass": "STANDARD",
        "timeCreated": rfc3339(object.created),
        "updated": rfc3339(object.created),
    });
    if let Some(md5) = &object.md5 {
        described["md5Hash"] = md5.as_str().into();
    }
    if !object.metadata.is_empty() {
        described["metadata"] = Value::Object(object.metadata.clone());
    }
    if let Some(ended) = ended {
        described["timeDeleted"] = rfc3339(ended).into();
    }
    if let Some(retention) = &object.retention {
        described["retention"] = retention.clone();
    }
    if let Some(count) = object.component_count {
        described["componentCount"] = count.into();
    }
    described
}

/// To the millisecond, in UTC.
pub fn rfc3339(moment: SystemTime) -> String {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let millis = i64::try_from(since.as_millis()).unwrap_or_default();
    let moment = jiff::Timestamp::from_millisecond(millis).unwrap_or_default();
    moment.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}
