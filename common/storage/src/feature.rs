//! How stores differ, as a set of words with a sentence on each. Callers ask for a feature, never for a backend's name.

use std::fmt;

/// Something that a store may or may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Feature {
    CreateOnly = 1,
    RangedReads = 2,
    DurablePut = 4,
    SweepsUploads = 8,
    ModifiedTime = 16,
    PlainFiles = 32,
    BatchedDeletes = 64,
}

impl Feature {
    pub const ALL: &'static [Feature] = &[
        Feature::CreateOnly,
        Feature::RangedReads,
        Feature::DurablePut,
        Feature::SweepsUploads,
        Feature::ModifiedTime,
        Feature::PlainFiles,
        Feature::BatchedDeletes,
    ];

    pub const fn sentence(self) -> &'static str {
        match self {
            Feature::CreateOnly => "of several writers that must create an object one wins",
            Feature::RangedReads => "reading a range costs the range, not the object",
            Feature::DurablePut => "a put that answered survives a loss of power",
            Feature::SweepsUploads => {
                "abandoned uploads leave something behind that takes room until it is swept"
            }
            Feature::ModifiedTime => "an object's information says when it was written",
            Feature::PlainFiles => "an object is an ordinary file that other programs on this host can open",
            Feature::BatchedDeletes => "many objects are deleted by one request",
        }
    }
}

/// The features of one store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    set: u8,
    joined_from: Option<u64>,
}

impl Features {
    pub const NONE: Features = Features { set: 0, joined_from: None };

    #[must_use]
    pub const fn with(self, feature: Feature) -> Self {
        Features { set: self.set | feature as u8, ..self }
    }

    #[must_use]
    pub const fn without(self, feature: Feature) -> Self {
        Features { set: self.set & !(feature as u8), ..self }
    }

    pub const fn has(self, feature: Feature) -> bool {
        self.set & feature as u8 != 0
    }

    /// Uploads of so many bytes and more are stored in parts, which are joined at the end.
    #[must_use]
    pub const fn with_joins_from(self, size: u64) -> Self {
        Features { joined_from: Some(size), ..self }
    }

    /// The smallest upload that is joined of parts; `None`: none is.
    pub const fn joined_from(self) -> Option<u64> {
        self.joined_from
    }

    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.iter().copied().filter(move |feature| self.has(*feature))
    }
}

/// One sentence a line.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|feature| writeln!(f, "{}", feature.sentence()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_features_holds_what_was_put_in_and_nothing_else() {
        for feature in Feature::ALL {
            let alone = Features::NONE.with(*feature);
            assert_eq!(alone.iter().collect::<Vec<_>>(), [*feature]);
            assert_eq!(alone.without(*feature), Features::NONE);
        }
    }
}
