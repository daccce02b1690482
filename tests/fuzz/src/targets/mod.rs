//! The targets, by what they feed, and the rig that HTTP/2 needs.

pub(crate) mod acme;
pub(crate) mod announced;
pub(crate) mod answers;
pub(crate) mod asked;
pub(crate) mod authority;
pub(crate) mod carry;
pub(crate) mod chunked;
pub(crate) mod config;
mod engine;
pub(crate) mod frames;
pub(crate) mod heads;
pub(crate) mod hpack;
pub(crate) mod identity;
pub(crate) mod login;
pub(crate) mod pods;
pub(crate) mod proof;
pub(crate) mod redirected;
pub(crate) mod target;
pub(crate) mod trace;
pub(crate) mod trusted;
pub(crate) mod watched;

use std::sync::{Arc, LazyLock};

use selvedge::accept::ListenerPlan;
use selvedge::config::load::load;
use selvedge::config::{Compiler, Mode};
use selvedge::message::{Fields, Known};
use selvedge::telemetry::metrics::Metrics;
use selvedge_contract::config::Config;

/// A listener at the edge, and one in the mesh.
static LISTENERS: LazyLock<[Arc<ListenerPlan>; 2]> = LazyLock::new(|| {
    [
        listener(Mode::Gateway, "listeners: [{ name: web, port: 0 }]"),
        listener(
            Mode::Sidecar,
            "inbound: [{ port: 0, app: \"127.0.0.1:1\" }]",
        ),
    ]
});

/// What stands behind the proxy: takes what the proxy may add to a head that was at a limit.
static BEHIND: LazyLock<Arc<ListenerPlan>> = LazyLock::new(|| {
    listener(
        Mode::Sidecar,
        "inbound: [{ port: 0, app: \"127.0.0.1:1\" }]
limits: { headerBlock: 128KiB, headerCount: 400, uri: 32KiB }",
    )
});

/// The first listener of a configuration.
fn listener(mode: Mode, text: &str) -> Arc<ListenerPlan> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, text).unwrap();
    let loaded = load::<Config>(&[file]).unwrap_or_else(|b| panic!("{}", b.report.to_text()));
    let mut compiler = Compiler::new(mode, true, Metrics::new(1), None);
    let (snapshot, _) = compiler
        .compile(loaded)
        .unwrap_or_else(|report| panic!("{}", report.to_text()));
    snapshot.listeners.first().expect("a listener").clone()
}

/// Fields as lines, lower case, without those that `drop` names.
fn lines(fields: &Fields, drop: impl Fn(Known) -> bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields
        .iter()
        .filter(|field| !drop(field.known))
        .map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec()))
        .collect()
}
