//! Who is compared.

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    /// To so many of its repositories at once.
    Pgconvoy { repositories: u16 },
    /// With block maps, or without them.
    Pgbackrest { block: bool },
    /// The least that it can take: the files are written by a loop, copied by cp, or read, hashed and compressed, and nothing else.
    Plain,
}

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Pgconvoy { repositories: 1 } => "pgconvoy",
            Contender::Pgconvoy { .. } => "pgconvoy, 2 repositories",
            Contender::Pgbackrest { block: true } => "pgBackRest",
            Contender::Pgbackrest { block: false } => "pgBackRest without block maps",
            Contender::Plain => "the least it can take",
        }
    }
}
