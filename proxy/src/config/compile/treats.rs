//! Policies of the configuration that treat requests and responses.

use std::sync::Arc;

use selvedge_contract::config::{Coding as CodingSpec, Compression, Policy};
use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::compression::Coding;

use crate::policy::treatment::Treat;
use crate::respond::compress::Compress;

use super::{At, Pass};

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

impl Pass<'_> {
    /// What a policy treats, if it does.
    pub(super) fn treats(&mut self, name: &str, policy: &Policy) {
        let at = At::key("policies").then(name);
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
