//! Policies of the configuration that treat requests and responses.

use std::collections::BTreeMap;
use std::sync::Arc;

use selvedge_contract::config::{CachePolicy, Coding as CodingSpec, Compression, Policy};
use selvedge_contract::defaults::policy as defaults;
use selvedge_contract::units::Duration;
use selvedge_gateway::cache::Defaults;
use selvedge_gateway::compression::Coding;

use crate::cache::Cache;
use crate::policy::treatment::Treat;
use crate::respond::compress::Compress;

use super::{At, Compiler, Pass};

/// What is worth compressing, and is not compressed yet.
const TYPES: [&str; 12] = [
    "text/*",
    "application/json",
    "*+json",
    "application/xml",
    "*+xml",
    "application/javascript",
    "application/x-javascript",
    "application/wasm",
    "application/manifest+json",
    "font/ttf",
    "font/otf",
    "image/svg+xml",
];

/// Caches with what they were made from.
pub(super) type Caches = BTreeMap<String, (CachePolicy, Arc<Cache>)>;

impl Compiler {
    /// A `cache` policy; one that has not changed keeps what it holds.
    pub(super) fn cache(&mut self, pass: &mut Pass<'_>, name: &str, policy: &Policy) {
        let Some(spec) = &policy.cache else { return };
        let cache = match self.caches.get(name) {
            Some((before, cache)) if before == spec => cache.clone(),
            _ => {
                let at = At::key("policies").then(name).then("cache");
                let bytes = spec.size.map_or(defaults::CACHE, |s| s.0);
                let largest = spec.largest.map_or(defaults::CACHE_LARGEST, |s| s.0);
                if largest > bytes / 4 {
                    let remedy =
                        "set `largest` (1MiB if it is not set) to a quarter of `size` at most";
                    pass.error(&at, "a few responses would fill the cache", remedy);
                }
                for (key, life) in [("ttl", &spec.ttl), ("negativeTtl", &spec.negative_ttl)] {
                    if life.as_ref().is_some_and(|d| d.0.as_secs() == 0) {
                        let message = "a cache counts in whole seconds";
                        pass.error(&at.then(key), message, "expected 1s or more");
                    }
                }
                let seconds = |d: Option<Duration>| d.map(|d| d.0.as_secs());
                let rules = Defaults {
                    ttl: seconds(spec.ttl),
                    negative_ttl: seconds(spec.negative_ttl),
                    stale_while_revalidate: seconds(spec.stale_while_revalidate).unwrap_or(0),
                    stale_if_error: seconds(spec.stale_if_error).unwrap_or(0),
                };
                let largest = usize::try_from(largest).unwrap_or(usize::MAX);
                let mut cache = Cache::new(self.name(name), rules, bytes, largest);
                cache.ignore_cookies = spec.ignore_cookies;
                Arc::new(cache)
            }
        };
        let kept = (spec.clone(), cache.clone());
        pass.caches.insert(name.to_owned(), kept);
        pass.treats.insert(name.to_owned(), Treat::Cache(cache));
    }
}

impl Pass<'_> {
    /// What a policy treats, if it does.
    pub(super) fn treats(&mut self, name: &str, policy: &Policy) {
        let at = At::key("policies").then(name);
        if let Some(spec) = &policy.transform {
            let transform = self.transform(&at.then("transform"), spec);
            self.treats
                .insert(name.to_owned(), Treat::Transform(Arc::new(transform)));
        }
        if let Some(spec) = &policy.compression {
            let compress = self.compression(&at.then("compression"), spec);
            self.treats
                .insert(name.to_owned(), Treat::Compress(Arc::new(compress)));
        }
    }

    fn compression(&mut self, at: &At, spec: &Compression) -> Compress {
        let coding = |spec: &CodingSpec| match spec {
            CodingSpec::Zstd => Coding::Zstd,
            CodingSpec::Br => Coding::Brotli,
            CodingSpec::Gzip => Coding::Gzip,
        };
        let codings = if spec.codings.is_empty() {
            vec![Coding::Zstd, Coding::Brotli, Coding::Gzip]
        } else {
            spec.codings.iter().map(coding).collect()
        };
        for (index, text) in spec.types.iter().enumerate() {
            let fine = text.contains('/') || text.starts_with("*+");
            if !fine || text.contains([';', ' ']) {
                let remedy = "expected a type such as `text/*`, `application/json` or `*+json`";
                let message = format!("`{text}` is no media type");
                self.error(&at.then("types").nth(index), message, remedy);
            }
        }
        let types: Vec<String> = if spec.types.is_empty() {
            TYPES.map(str::to_owned).to_vec()
        } else {
            spec.types.iter().map(|t| t.to_ascii_lowercase()).collect()
        };
        Compress {
            codings,
            types,
            minimum: spec.minimum.map_or(defaults::COMPRESS_FROM, |s| s.0),
        }
    }
}
