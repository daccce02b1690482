//! Configuration: any text gives a snapshot, or findings that can be shown.

use selvedge::config::load::{Loaded, load};
use selvedge::config::{Compiler, Mode, Report};
use selvedge::identity::Source;
use selvedge::telemetry::metrics::Metrics;
use selvedge_contract::config::Config;
use tempfile::TempDir;

pub(crate) fn config(input: &[u8]) {
    thread_local! {
        static DIR: TempDir = tempfile::tempdir().unwrap();
    }
    let file = DIR.with(|dir| dir.path().join("config.yaml"));
    std::fs::write(&file, input).unwrap();
    let paths = [file];
    for mode in [Mode::Gateway, Mode::Sidecar] {
        match load::<Config>(&paths) {
            Ok(loaded) => compile(loaded, mode),
            Err(broken) => {
                // What is left of it without its mistakes is compiled too.
                let report = broken.judge(|guess| {
                    let mut compiler = compiler(mode);
                    compiler.compile(guess).map_or_else(|r| r, |(_, r)| r)
                });
                shown(&report, true);
            }
        }
    }
}

fn compiler(mode: Mode) -> Compiler {
    Compiler::new(mode, true, Metrics::new(1), None)
}

fn compile(loaded: Loaded<Config>, mode: Mode) {
    if let Some(spec) = &loaded.config.identity {
        let _ = Source::from_spec(spec);
    }
    match compiler(mode).compile(loaded) {
        Ok((snapshot, report)) => {
            assert_eq!(snapshot.generation, 1);
            shown(&report, false);
        }
        Err(report) => shown(&report, true),
    }
}

/// A refusal says why; what is found can be shown, to people and to machines.
fn shown(report: &Report, refused: bool) {
    assert_eq!(report.has_errors(), refused);
    for finding in &report.findings {
        assert!(finding.place.file < report.sources.len());
        assert!(finding.place.line > 0 && finding.place.column > 0);
        assert!(!finding.message.is_empty());
    }
    assert_eq!(report.to_text().is_empty(), report.findings.is_empty());
    assert!(report.to_json().is_array());
}
