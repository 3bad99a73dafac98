//! Shows one manifest, as JSON or text, piece by piece: a million files pass through without being kept.
//!
//! Records are shown in the order of the manifest, which is that of paths. `--filter` chooses files by their path, links
//! by theirs; head, tablespaces and databases are always shown.

use crate::filter::NameFilter;
use crate::manifest::ManifestReader;
use crate::open::Repository;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::format::manifest::{FileRecord, LinkRecord, ManifestHead, Record};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::units::Timestamp;
use serde_json::{Value, json};
use std::io::{self, Write};

/// One object: `label`, `uuid`, `type`, `prior`, `references`, `file`, `link`, `tablespace`, `database`.
pub async fn write_json(
    repository: &Repository,
    stanza: &StanzaName,
    record: &BackupRecord,
    filter: Option<&NameFilter>,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let mut manifest = ManifestReader::open(repository, stanza, record.label, &record.manifest).await?;
    let head = manifest.head().clone();
    json_head(out, &head).map_err(not_written)?;
    let mut links = Vec::new();
    let mut separator = "";
    while let Some(records) = manifest.next_records(repository).await? {
        for record in records.into_iter().filter(|record| is_shown(record, filter)) {
            match record {
                Record::File(file) => {
                    write!(out, "{separator}{}", file_json(&head, &file)).map_err(not_written)?;
                    separator = ",";
                }
                Record::Link(link) => links.push(link_json(&head, &link)),
                Record::Directory(_) => {}
            }
        }
    }
    json_tail(out, &head, links).map_err(not_written)
}

/// A line for each file and link, after some for the head.
pub async fn write_text(
    repository: &Repository,
    stanza: &StanzaName,
    record: &BackupRecord,
    filter: Option<&NameFilter>,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let mut manifest = ManifestReader::open(repository, stanza, record.label, &record.manifest).await?;
    let head = manifest.head().clone();
    text_head(out, &head).map_err(not_written)?;
    while let Some(records) = manifest.next_records(repository).await? {
        for record in records.iter().filter(|record| is_shown(record, filter)) {
            let line = match record {
                Record::File(file) => {
                    let (mode, time) = (mode(file.ownership.mode), Timestamp::from_seconds(file.modified));
                    format!("{mode} {:>12} {time} {} {}", file.size, file.checksum, file.path)
                }
                Record::Link(link) => format!("link {} => {}", link.path, link.destination),
                Record::Directory(_) => continue,
            };
            writeln!(out, "{line}").map_err(not_written)?;
        }
    }
    Ok(())
}

fn is_shown(record: &Record, filter: Option<&NameFilter>) -> bool {
    filter.is_none_or(|filter| filter.fits(record.path().as_str()))
}

fn not_written(error: io::Error) -> Failure {
    Failure::new(ErrorCode::FileWrite, format!("the manifest cannot be written out: {error}"))
}

fn json_head(out: &mut dyn Write, head: &ManifestHead) -> io::Result<()> {
    write!(
        out,
        "{{\"label\":{},\"uuid\":{},\"type\":{},\"prior\":{},\"references\":{},\"file\":[",
        json!(head.label),
        json!(head.backup.to_string()),
        json!(head.kind.name()),
        json!(head.prior),
        json!(head.references),
    )
}

fn json_tail(out: &mut dyn Write, head: &ManifestHead, links: Vec<Value>) -> io::Result<()> {
    let tablespaces: Vec<Value> = head
        .tablespaces
        .iter()
        .map(|space| json!({ "oid": space.oid, "name": space.name, "destination": space.destination }))
        .collect();
    let databases: Vec<Value> =
        head.databases.iter().map(|database| json!({ "oid": database.oid, "name": database.name })).collect();
    writeln!(
        out,
        "],\"link\":{},\"tablespace\":{},\"database\":{}}}",
        Value::from(links),
        Value::from(tablespaces),
        Value::from(databases)
    )
}

fn file_json(head: &ManifestHead, file: &FileRecord) -> Value {
    let ranges: Vec<Value> = file
        .ranges
        .iter()
        .map(|range| {
            let pack = head.pack_of(range).map(|pack| format!("{}/pack/{pack}", pack.label));
            let worker = head.workers.get(usize::from(range.worker));
            json!({
                "offset": range.offset,
                "length": range.length,
                "pack": pack,
                "worker": worker,
                "slot": range.slot,
            })
        })
        .collect();
    let mut value = json!({
        "name": file.path,
        "size": file.size,
        "time": Timestamp::from_seconds(file.modified).to_string(),
        "mode": mode(file.ownership.mode),
        "user": head.users.get(usize::from(file.ownership.user)),
        "group": head.groups.get(usize::from(file.ownership.group)),
        "checksum": file.checksum.to_string(),
        "range": ranges,
    });
    if !file.bad_pages.is_empty() {
        value["bad-pages"] = json!(file.bad_pages);
    }
    value
}

fn link_json(head: &ManifestHead, link: &LinkRecord) -> Value {
    json!({
        "name": link.path,
        "destination": link.destination,
        "user": head.users.get(usize::from(link.ownership.user)),
        "group": head.groups.get(usize::from(link.ownership.group)),
    })
}

fn text_head(out: &mut dyn Write, head: &ManifestHead) -> io::Result<()> {
    writeln!(out, "label: {} ({})", head.label, head.kind)?;
    writeln!(out, "uuid: {}", head.backup)?;
    if let Some(prior) = head.prior {
        writeln!(out, "prior: {prior}")?;
    }
    if !head.references.is_empty() {
        let references: Vec<String> = head.references.iter().map(ToString::to_string).collect();
        writeln!(out, "references: {}", references.join(", "))?;
    }
    for space in &head.tablespaces {
        writeln!(out, "tablespace: {} ({}) => {}", space.name, space.oid, space.destination)?;
    }
    for database in &head.databases {
        writeln!(out, "database: {} ({})", database.name, database.oid)?;
    }
    writeln!(out)
}

/// As people write it: `0600`.
fn mode(mode: u16) -> String {
    format!("{mode:04o}")
}
