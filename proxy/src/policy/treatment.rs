//! Beside stage 6, policy: what is done with a request and its response beyond letting it pass, of
//! each kind the nearest.

use std::sync::Arc;

use crate::cache::Cache;
use crate::respond::compress::Compress;

use super::transform::Transform;

/// One policy that treats rather than guards.
#[derive(Debug, Clone)]
pub enum Treat {
    /// Compresses responses.
    Compress(Arc<Compress>),
    /// Keeps responses for others.
    Cache(Arc<Cache>),
    /// Changes requests and responses.
    Transform(Arc<Transform>),
}

/// What is in force at a listener, route or rule.
#[derive(Debug, Clone, Default)]
pub struct Treatment {
    /// Compresses responses.
    pub compress: Option<Arc<Compress>>,
    /// Keeps responses for others.
    pub cache: Option<Arc<Cache>>,
    /// Changes requests and responses.
    pub transform: Option<Arc<Transform>>,
}

impl Treatment {
    /// Adds one; of a kind, the last counts.
    pub fn put(&mut self, treat: Treat) {
        match treat {
            Treat::Compress(compress) => self.compress = Some(compress),
            Treat::Cache(cache) => self.cache = Some(cache),
            Treat::Transform(transform) => self.transform = Some(transform),
        }
    }

    /// Whether there is one of this kind.
    #[must_use]
    pub const fn has(&self, treat: &Treat) -> bool {
        match treat {
            Treat::Compress(_) => self.compress.is_some(),
            Treat::Cache(_) => self.cache.is_some(),
            Treat::Transform(_) => self.transform.is_some(),
        }
    }

    /// Whether nothing is done.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.compress.is_none() && self.cache.is_none() && self.transform.is_none()
    }

    /// This one, and where it has nothing, the outer one.
    #[must_use]
    pub fn within(self, outer: &Self) -> Self {
        Self {
            compress: self.compress.or_else(|| outer.compress.clone()),
            cache: self.cache.or_else(|| outer.cache.clone()),
            transform: self.transform.or_else(|| outer.transform.clone()),
        }
    }
}
