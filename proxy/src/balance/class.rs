//! Part of stage 7, balance: how much a request matters, where there is not room for all.

/// The class of a request, most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Class {
    /// Tells whether something works: is let in where others are shed, by a few.
    Health,
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// Nobody does: shed first.
    Batch,
}

impl Class {
    /// As `X-Selvedge-Priority` says it.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Self> {
        match value {
            b"health" => Some(Self::Health),
            b"interactive" => Some(Self::Interactive),
            b"batch" => Some(Self::Batch),
            _ => None,
        }
    }

    /// See [`Self::read`].
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Interactive => "interactive",
            Self::Batch => "batch",
        }
    }

    /// Its share of a limit: three quarters for what can wait, and a tenth over it for what tells whether
    /// there is anything left; nobody gains much by saying that he is of that class.
    #[must_use]
    pub const fn share(self, limit: u32) -> u32 {
        match self {
            Self::Health => limit.saturating_add(limit / 10).saturating_add(2),
            Self::Interactive => limit,
            Self::Batch if limit < 4 => limit,
            Self::Batch => limit - limit / 4,
        }
    }
}
