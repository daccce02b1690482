//! Every target over its corpus and over noise of a fixed seed: what fuzzing has found stays found.

use selvedge_fuzz::run::{Until, corpus, run};
use selvedge_fuzz::{TARGETS, folder};

/// Mutations of a target: fewer where one input costs milliseconds.
const fn rounds(name: &str) -> u64 {
    match name.as_bytes() {
        b"config" => 1_000,
        _ => 20_000,
    }
}

/// What the main thread has, where the product reads its configuration. Without optimisation a level
/// of YAML takes some 30 KiB of it, which the library bounds at 64 levels.
const STACK: usize = 8 << 20;

#[test]
fn every_target_holds_over_corpus_and_noise() {
    let thread = std::thread::Builder::new().stack_size(STACK);
    let holds = thread.spawn(all_hold).unwrap();
    if let Err(panic) = holds.join() {
        std::panic::resume_unwind(panic);
    }
}

fn all_hold() {
    let mut wrong = Vec::new();
    for (name, target) in TARGETS {
        let inputs = corpus(name).unwrap();
        let begun = std::time::Instant::now();
        let until = Until::Rounds(rounds(name));
        match run(name, *target, &inputs, 1, until, |_| {}) {
            Ok(count) => println!("{name}: {count} in {:?}", begun.elapsed()),
            Err(finding) => wrong.push(format!(
                "{name}: {}\n  b\"{}\"",
                finding.message,
                finding.input.escape_ascii()
            )),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    for (name, _) in TARGETS {
        let inputs = corpus(name).unwrap();
        assert!((5..=30).contains(&inputs.len()), "{name}: {}", inputs.len());
    }
    for entry in std::fs::read_dir(folder("corpus")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|(known, _)| *known == name), "{name}");
    }
}
