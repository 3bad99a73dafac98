//! The ways in which a job's repositories have their frames compressed: whoever has the same way shares what comes of it.

use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::wire::{Compress, UnitContext};
use pgconvoy_repository::codec::{Codec, Compressor, Level};

/// One of them. Its number is its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way(usize);

pub(super) struct Compressors(Vec<(Compress, Compressor)>);

impl Compressors {
    pub(super) fn new(units: &UnitContext) -> Result<Self, Failure> {
        let mut ways: Vec<Compress> = Vec::new();
        for way in units.repositories.iter().map(|key| units.compress_of(*key)) {
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        let made = ways.into_iter().map(|way| Ok((way, compressor(way)?)));
        made.collect::<Result<_, Failure>>().map(Compressors)
    }

    /// That of a repository of the job.
    pub(super) fn way_of(&self, repository: RepoKey, units: &UnitContext) -> Way {
        let wanted = units.compress_of(repository);
        Way(self
            .0
            .iter()
            .position(|(way, _)| *way == wanted)
            .expect("every repository of the job has its way"))
    }

    pub(super) fn of(&mut self, way: Way) -> &mut Compressor {
        &mut self.0[way.0].1
    }
}

fn compressor(way: Compress) -> Result<Compressor, Failure> {
    let codec = Codec::from_number(way.codec)?;
    Ok(Compressor::new(codec, Level::new(codec, way.level)?)?)
}
