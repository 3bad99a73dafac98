//! What is in the bucket, and what the documented requests do to it. No HTTP here.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::body::Bytes;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Sources of one compose.
const SOURCES_MAX: usize = 32;
const PAGE_MAX: usize = 1000;

#[derive(Debug, Clone)]
pub struct Object {
    pub body: Bytes,
    pub generation: i64,
    pub crc32c: u32,
    created: SystemTime,
    metadata: Map<String, Value>,
    component_count: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Bucket {
    objects: BTreeMap<String, Object>,
    last_generation: i64,
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
        self.objects.get(name).map(|object| object.body.clone())
    }

    pub fn metadata(&self, name: &str) -> Option<Vec<(String, String)>> {
        let metadata = &self.objects.get(name)?.metadata;
        Some(metadata.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect())
    }

    pub fn find(&self, name: &str) -> Result<&Object, Refusal> {
        self.objects.get(name).ok_or_else(|| no_such_object(name))
    }

    /// `ifGenerationMatch`: 0 stands for "there is none".
    fn check(&self, name: &str, if_generation_match: Option<i64>) -> Result<(), Refusal> {
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
        let crc32c = crc32c::crc32c(&body);
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
        Ok(self.store(name, description, body, None))
    }

    fn store(&mut self, name: &str, description: &Value, body: Bytes, component_count: Option<u64>) -> Value {
        let now = SystemTime::now();
        let micros = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        self.last_generation = (self.last_generation + 1).max(i64::try_from(micros).unwrap_or(i64::MAX));
        let object = Object {
            crc32c: crc32c::crc32c(&body),
            body,
            generation: self.last_generation,
            created: now,
            metadata: description["metadata"].as_object().cloned().unwrap_or_default(),
            component_count,
        };
        let described = describe(name, &object);
        self.objects.insert(name.to_owned(), object);
        described
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
        let mut body = Vec::new();
        let mut count = 0;
        for source in sources {
            let source = self.find(source["name"].as_str().unwrap_or_default())?;
            body.extend_from_slice(&source.body);
            count += source.component_count.unwrap_or(1);
        }
        self.check(name, if_generation_match)?;
        Ok(self.store(name, &request["destination"], body.into(), Some(count)))
    }

    pub fn delete(&mut self, name: &str, generation: Option<i64>) -> Result<(), Refusal> {
        let object = self.find(name)?;
        if generation.is_some_and(|generation| generation != object.generation) {
            return Err(no_such_object(name));
        }
        self.objects.remove(name);
        Ok(())
    }

    pub fn describe(&self, name: &str) -> Result<Value, Refusal> {
        Ok(describe(name, self.find(name)?))
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
        for (name, object) in &self.objects {
            if !name.starts_with(prefix) || name.as_str() < get("startOffset") {
                continue;
            }
            let end = name[prefix.len()..].find(delimiter).filter(|_| !delimiter.is_empty());
            let entry = end.map_or(&name[..], |end| &name[..prefix.len() + end + delimiter.len()]);
            // What an earlier page had, and what this one has.
            if entry <= last.as_str() && !last.is_empty() {
                continue;
            }
            if items.len() + prefixes.len() == limit {
                is_cut = true;
                break;
            }
            match end {
                Some(_) => prefixes.push(entry.to_owned()),
                None => items.push(describe(name, object)),
            }
            last = entry.to_owned();
        }
        let mut page = json!({ "kind": "storage#objects", "items": items, "prefixes": prefixes });
        if is_cut {
            page["nextPageToken"] = last.into();
        }
        Ok(page)
    }
}

pub fn crc32c_text(crc: u32) -> String {
    BASE64_STANDARD.encode(crc.to_be_bytes())
}

fn describe(name: &str, object: &Object) -> Value {
    let mut described = json!({
        "kind": "storage#object",
        "bucket": super::BUCKET,
        "name": name,
        "generation": object.generation.to_string(),
        "metageneration": "1",
        "size": object.body.len().to_string(),
        "crc32c": crc32c_text(object.crc32c),
        "storageClass": "STANDARD",
        "timeCreated": rfc3339(object.created),
        "updated": rfc3339(object.created),
    });
    if !object.metadata.is_empty() {
        described["metadata"] = Value::Object(object.metadata.clone());
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
