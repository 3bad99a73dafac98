//! Who is compared.

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    /// To so many of its repositories at once.
    Pgconvoy { repositories: u16 },
    /// With block maps, or without them.
    Pgbackrest { block: bool },
    /// Files of a data directory's sizes, written and synced by a loop and nothing else.
    PlainWriting,
}

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Pgconvoy { repositories: 1 } => "pgconvoy",
            Contender::Pgconvoy { .. } => "pgconvoy, 2 repositories",
            Contender::Pgbackrest { block: true } => "pgBackRest",
            Contender::Pgbackrest { block: false } => "pgBackRest without block maps",
            Contender::PlainWriting => "plain writing",
        }
    }
}
