//! Beside the path: compiles a configuration only for what there is to say about it.

use selvedge_contract::config::Config;

use crate::config::diagnose::Diagnostic;
use crate::config::load::Loaded;
use crate::config::tree::Step;
use crate::config::{Compiler, Mode, Report};
use crate::identity::Source;
use crate::telemetry::metrics::Metrics;
use crate::tls::IdentityStore;

/// Everything that is wrong or odd in a configuration, found without starting anything. An identity
/// counts as there if it is configured.
#[must_use]
pub fn findings_of(loaded: Loaded<Config>, mode: Mode) -> Report {
    let mut findings = Vec::new();
    let mut store = None;
    if let Some(spec) = &loaded.config.identity {
        match Source::from_spec(spec) {
            Ok(_) => store = spec.trust_domain.parse().ok().map(IdentityStore::new),
            Err(error) => {
                let step = Step::Key("identity".into());
                let place = loaded.tree.find(&[step]);
                let found = Diagnostic::error(place, "identity", error.to_string());
                findings.push(found.expected("see `identity` in docs/config.md"));
                // So that what depends on it is not reported a second time.
                store = "invalid.local".parse().ok().map(IdentityStore::new);
            }
        }
    }
    let mut compiler = Compiler::new(mode, true, Metrics::new(1), store);
    let mut report = match compiler.compile(loaded) {
        Ok((_, report)) | Err(report) => report,
    };
    report.findings.append(&mut findings);
    report.sort();
    report
}
