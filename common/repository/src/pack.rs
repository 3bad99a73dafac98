//! Packs as a reader sees them.

use crate::error::RepositoryError;
use crate::object::ObjectReader;
use crate::open::Repository;
use crate::plain::PlainFrames;
use pgconvoy_core::format::HashSecret;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::pack::{PackBody, PackRange};
use pgconvoy_core::ids::{Identity, StanzaName};

/// A pack whose footer is read and proved to be the one that was asked for.
#[derive(Debug)]
pub struct PackReader {
    pub object: ObjectReader,
    pub body: PackBody,
}

impl PackReader {
    pub async fn open(
        repository: &Repository,
        stanza: &StanzaName,
        name: PackName,
        backup: Option<Identity>,
        secret: &HashSecret,
    ) -> Result<PackReader, RepositoryError> {
        let mut object = ObjectReader::open(repository, Kind::Pack, &name.key(stanza)).await?;
        let mut body: PackBody = object.body()?;
        let told = PackName { label: body.label, plan: body.plan, unit: body.unit, attempt: body.attempt };
        if told != name || backup.is_some_and(|backup| backup != body.backup) {
            return Err(RepositoryError::Contradiction {
                place: repository.describe(),
                object: object.name().to_owned(),
                reason: format!("it is pack {told} of backup {}", body.label),
            });
        }
        if body.plain {
            let files = repository.plain().ok_or_else(|| RepositoryError::Contradiction {
                place: repository.describe(),
                object: object.name().to_owned(),
                reason: "its files lie beside it, in a repository that has none".to_owned(),
            })?;
            object.has_plain(PlainFrames::of(files, stanza, name, &mut body.ranges)?);
        }
        for range in &body.ranges {
            range.validate(object.frames(), &body.foreign, secret).map_err(|source| {
                RepositoryError::Format {
                    place: repository.describe(),
                    object: object.name().to_owned(),
                    source,
                }
            })?;
        }
        Ok(PackReader { object, body })
    }

    /// The range that a manifest's record points to, if it is the one.
    pub fn range(
        &self,
        place: u32,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<&PackRange, RepositoryError> {
        self.body
            .ranges
            .get(place as usize)
            .filter(|range| range.path == path && range.offset == offset && range.length == length)
            .ok_or_else(|| RepositoryError::Contradiction {
                place: self.object.place().to_owned(),
                object: self.object.name().to_owned(),
                reason: format!("it does not hold {path} at {offset}"),
            })
    }
}
