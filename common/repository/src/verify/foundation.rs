//! What everything else rests on: identity, key slots and clusters. They were read when the repository was opened; what
//! is stored now may differ.

use super::{Finding, Job};
use crate::error::RepositoryError;
use crate::keys::KeySlot;
use crate::object::object_key;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::cluster::{ClusterBody, RepositoryBody};
use pgconvoy_core::format::layout;
use pgconvoy_core::format::object::Kind;
use pgconvoy_storage::{list_all, list_children};
use serde::de::DeserializeOwned;

/// The clusters that can be read, oldest first.
pub(super) fn check(job: &Job, errors: &mut Vec<Finding>) -> Result<Vec<ClusterBody>, Failure> {
    errors.extend(identity(job));
    errors.extend(key_slots(job)?);
    clusters(job, errors)
}

fn read<B: DeserializeOwned>(job: &Job, kind: Kind, name: &str) -> Result<B, Finding> {
    let missing = || RepositoryError::Missing { place: job.repository.describe(), object: name.to_owned() };
    match job.wait(job.repository.get_object(kind, name)) {
        Ok(Some(body)) => Ok(body),
        Ok(None) => Err(job.finding(name, &missing())),
        Err(error) => Err(job.finding(name, &error)),
    }
}

fn identity(job: &Job) -> Option<Finding> {
    match read::<RepositoryBody>(job, Kind::Repository, layout::REPOSITORY) {
        Err(finding) => Some(finding),
        Ok(body) if body.identity != job.repository.identity() || body.cipher != job.repository.cipher() => {
            Some(job.finding(layout::REPOSITORY, &"it is the identity of another repository than was opened"))
        }
        Ok(_) => None,
    }
}

/// All of them, also those that our secret does not open: they are what others need. None at all, or a generation that
/// was opened and has lost its slots, is the loss of a key.
fn key_slots(job: &Job) -> Result<Vec<Finding>, Failure> {
    let prefix = object_key(layout::KEYS);
    let objects = job.wait(list_all(job.repository.storage(), Some(&prefix)))?;
    let mut findings = Vec::new();
    for object in &objects {
        let name = object.key.as_str();
        match read::<KeySlot>(job, Kind::KeySlot, name) {
            Err(finding) => findings.push(finding),
            Ok(slot) if layout::key_slot(slot.generation, slot.name.as_str()) != name => {
                findings.push(job.finding(name, &"it was written for another slot"));
            }
            Ok(_) => {}
        }
    }
    for generation in job.repository.key_generations() {
        let directory = object_key(&layout::key_generation(generation));
        if !objects.iter().any(|object| object.key.under(&directory).is_some()) {
            findings.push(
                job.finding(
                    directory.as_str(),
                    &"it has no key slot: the key is lost when this process ends",
                ),
            );
        }
    }
    Ok(findings)
}

fn clusters(job: &Job, errors: &mut Vec<Finding>) -> Result<Vec<ClusterBody>, Failure> {
    let prefix = object_key(&layout::clusters(&job.stanza));
    let objects = job.wait(list_children(job.repository.storage(), Some(&prefix)))?.objects;
    if objects.is_empty() {
        let missing = "the stanza has no cluster object";
        errors.push(job.finding(prefix.as_str(), &missing));
    }
    let mut clusters: Vec<ClusterBody> = Vec::new();
    for object in objects {
        let name = object.key.as_str();
        match read::<ClusterBody>(job, Kind::Cluster, name) {
            Err(finding) => errors.push(finding),
            Ok(body) => {
                let is_ours =
                    layout::cluster(&job.stanza, body.number) == name && body.hash_secret.is_valid();
                let is_like = clusters.first().is_none_or(|first| first.hash_secret == body.hash_secret);
                match is_ours && is_like {
                    true => clusters.push(body),
                    false => errors.push(job.finding(name, &"it describes a cluster of another stanza")),
                }
            }
        }
    }
    Ok(clusters)
}
