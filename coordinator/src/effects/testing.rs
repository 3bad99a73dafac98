//! A backup for tests.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use pgconvoy_core::format::BackupKind;
use pgconvoy_core::format::plan::Writer;
use pgconvoy_core::ids::{Epoch, Identity, RepoKey};
use pgconvoy_core::machine::backup::BackupSpec;
use pgconvoy_core::wire::{Compress, JobId, SourceOptions};
use std::collections::BTreeMap;

pub(crate) fn spec() -> BackupSpec {
    let identity = Identity::from_random_bytes([7; 16]);
    BackupSpec {
        job: JobId(identity),
        epoch: Epoch(1),
        backup: identity,
        kind: BackupKind::Full,
        delta: false,
        resume: true,
        stanza: "main".parse().unwrap(),
        repositories: vec![RepoKey(1)],
        required: vec![RepoKey(1)],
        source: SourceOptions::default(),
        compress: Compress { codec: 2, level: 3 },
        own_compress: BTreeMap::new(),
        file_sha1: false,
        standby: Default::default(),
        offload: Default::default(),
        page_errors: Default::default(),
        archive_copy: false,
        unit_size: 1 << 20,
        whole_files: false,
        stall_timeout_ms: 1_000,
        source_patience_ms: 0,
        annotations: Default::default(),
        writer: Writer { host: "h".into(), boot: "b".into(), process: 1 },
        program: "0".into(),
    }
}
