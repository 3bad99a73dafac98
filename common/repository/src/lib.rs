//! A repository: the format of `common/core/src/format/FORMAT.md` on top of a store.
//!
//! Code map: [`keys`], [`seal`] and [`codec`] turn bytes into frames and back; [`object`] writes and reads whole objects;
//! [`open`] finds out what a place is and yields a [`Repository`]; the other modules each own one part of the tree:
//! [`stanza`] clusters, [`copying`] records of copies, [`backup`] plans, heartbeats, void records and publication, [`catalogue`] entries, [`manifest`],
//! [`pack`], [`stop`], [`wal`], [`plain`] the files of a plain repository. For people: [`verify`] reads everything, [`info`] tells what there is, [`manifest_view`] shows a
//! manifest, [`sync`] fills one repository from another, [`browse`] looks at single objects; [`coverage`] and [`filter`] serve them.
//! [`create_only`] finds out what keeps the objects of a place from being replaced.
//!
//! It is not: a connection to PostgreSQL, a schedule, or a decision about what to back up.
//!
//! Invariants
//! 1. Every put is create-only. Nothing is rewritten.
//! 2. An object is believed only if kind, name, cipher and content agree with what refers to it.
//! 3. A catalogue entry is put after everything it refers to is in place; whoever creates its key first decides.
//!
//! Failure story: a process that dies leaves objects that nothing refers to, under a label without a catalogue entry.
//! The next backup, holding the stanza's lock, gives the label up by a void record and only then removes them.

pub mod backup;
pub mod browse;
pub mod catalogue;
pub mod codec;
pub mod copying;
pub mod coverage;
pub mod create_only;
pub mod error;
pub mod filter;
pub mod info;
pub mod keys;
pub mod manifest;
pub mod manifest_view;
pub mod object;
pub mod open;
pub mod pack;
pub mod plain;
pub mod seal;
pub mod set;
pub mod stanza;
pub mod stop;
pub mod sync;
pub mod verify;
pub mod wal;

pub use error::RepositoryError;
pub use open::{Repository, RepositorySettings};
pub use set::RepositorySet;
