//! Plans, stop records and manifests: copied with the content that they have, to the byte.
//!
//! What the target has already need not be a copy. A repository that took part in the backup has plans of its own moments and
//! references, and a stop record beside which a source kept more, or less: those are compared by what they are about.

use super::Sync;
use super::object::{Put, TagsOnly, Written};
use super::trouble::Trouble;
use crate::error::RepositoryError;
use crate::object::ObjectReader;
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::plan::PlanBody;
use pgconvoy_core::format::wal::StopBody;

impl Sync {
    /// What was written, if it was not there.
    pub(super) fn paper(&self, kind: Kind, name: &str) -> Result<Option<Written>, Trouble> {
        let object = self.source.wait(ObjectReader::open(&self.source.repository, kind, name))?;
        if self.has_the_same(&object, kind)? {
            return Ok(None);
        }
        match self.reseal(&object, kind, object.encoded_body(), &mut TagsOnly)? {
            Put::New(written) => Ok(Some(written)),
            Put::Exists if self.has_the_same(&object, kind)? => Ok(None),
            Put::Exists => Err(RepositoryError::Interrupted { what: "comparing an object" }.into()),
        }
    }

    /// False: there is nothing. What differs is an error.
    fn has_the_same(&self, object: &ObjectReader, kind: Kind) -> Result<bool, Trouble> {
        let opened = self.target.wait(ObjectReader::open(&self.target.repository, kind, object.name()));
        let there = match opened {
            Err(error) if ObjectReader::is_absence(&error) => return Ok(false),
            opened => opened.map_err(Trouble::of_target)?,
        };
        let is_same = match kind {
            Kind::Plan => there.body::<PlanBody>()?.is_same_plan(&object.body()?),
            Kind::Stop => there.body::<StopBody>()?.is_same_stop(&object.body()?),
            _ => self.is_equal(object, &there)?,
        };
        if is_same { Ok(true) } else { Err(self.differs(object.name())) }
    }

    fn is_equal(&self, object: &ObjectReader, there: &ObjectReader) -> Result<bool, Trouble> {
        let raw_bytes = |object: &ObjectReader| -> Vec<u32> {
            object.frames().iter().map(|frame| frame.raw_bytes()).collect()
        };
        let mut is_same =
            there.encoded_body() == object.encoded_body() && raw_bytes(there) == raw_bytes(object);
        for frame in 0..object.frames().len() {
            self.source.go_on()?;
            is_same = is_same
                && self.source.wait(object.read_frame(&self.source.repository, frame))?
                    == self.in_target(there.read_frame(&self.target.repository, frame))?;
        }
        Ok(is_same)
    }

    /// Something else has the name of what was to be copied.
    pub(super) fn differs(&self, name: &str) -> Trouble {
        let error = RepositoryError::Contradiction {
            place: self.target.repository.describe(),
            object: name.to_owned(),
            reason: "it is there, and it is not what the source has under its name".to_owned(),
        };
        Trouble::Differs(error.into())
    }
}
