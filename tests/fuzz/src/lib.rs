//! Map of the fuzz targets: one function for each parser that reads what a stranger wrote.
//!
//! A target takes any bytes, gives them to the product's own parser, and panics if a property does
//! not hold. [`run`] feeds them, from a corpus and from what [`mutate`] makes of it with
//! the [`words`] of its language.

pub mod mutate;
pub mod noise;
pub mod run;
mod targets;
pub mod words;

use std::path::PathBuf;

use targets::{
    acme, announced, answers, asked, authority, carry, chunked, config, frames, heads, hpack,
    identity, login, pods, proof, redirected, target, trace, trusted, watched,
};

/// A target: panics when a property does not hold.
pub type Target = fn(&[u8]);

/// Every target, by the name of its folder in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("http1-request", heads::request),
    ("http1-response", heads::response),
    ("http1-framing", heads::framing),
    ("http1-chunked", chunked::chunked),
    ("http2-server", frames::server),
    ("http2-client", frames::client),
    ("http2-head", carry::http2_head),
    ("hpack-decode", hpack::decode),
    ("hpack-encode", hpack::encode),
    ("path", target::path),
    ("host", target::host),
    ("pattern", target::pattern),
    ("first-bytes", redirected::first),
    ("hello", redirected::hello),
    ("announcement", announced::announcement),
    ("plan", redirected::plan),
    ("review", pods::review),
    ("manifests", pods::manifests),
    ("watched", watched::watched),
    ("config", config::config),
    ("acme", acme::answer),
    ("login", login::login),
    ("proof", proof::proof),
    ("identity", identity::identity),
    ("units", identity::units),
    ("trace", trace::trace),
    ("verdict", answers::verdict),
    ("ocsp", answers::ocsp),
    ("certificate-request", authority::request),
    ("peer-certificate", authority::peer),
    ("trusted", trusted::trusted),
    ("attestors", asked::attestors),
    ("control", asked::control),
    ("hosted", asked::hosted),
];

/// Gives an input to the target of this name.
///
/// # Panics
/// When a property does not hold, or there is no such target.
pub fn feed(name: &str, input: &[u8]) {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = found.expect("a target of this name");
    target(input);
}

/// Where this crate keeps its files; `part` is `corpus` or `artifacts`.
#[must_use]
pub fn folder(part: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(part)
}
