//! Runs a target: over its corpus, then over what noise makes of it, until it fails or is over.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::mutate::mutate;
use crate::noise::Noise;
use crate::words::words;
use crate::{Target, folder};

/// Inputs besides the corpus that drift away from it.
const DRIFT: usize = 48;
/// Tries to make a finding smaller.
const REDUCTIONS: usize = 20_000;

/// How long a run goes on.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// This many inputs beside the corpus.
    Rounds(u64),
    /// This long.
    Elapsed(Duration),
}

/// An input that a target fails on, as small as could be made.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// What the panic said.
    pub message: String,
    /// Which input it was, for another run with the same seed.
    pub round: u64,
}

/// The files of a target's corpus, in the order of their names.
///
/// # Errors
/// When the folder cannot be read.
pub fn corpus(name: &str) -> io::Result<Vec<Vec<u8>>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder("corpus").join(name))?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    files.sort();
    files.into_iter().map(fs::read).collect()
}

/// Runs a target; gives the number of inputs. `before` sees each of them first.
///
/// The inputs are the same for the same name, corpus and seed, however long the run.
///
/// # Errors
/// The first finding.
pub fn run(
    name: &str,
    target: Target,
    corpus: &[Vec<u8>],
    seed: u64,
    until: Until,
    mut before: impl FnMut(&[u8]),
) -> Result<u64, Finding> {
    let begun = Instant::now();
    let mut rounds = 0;
    let mut step = |input: &[u8], rounds: &mut u64| {
        *rounds += 1;
        before(input);
        attempt(target, input).map_err(|message| Finding {
            input: reduce(target, input),
            message,
            round: *rounds,
        })
    };
    step(&[], &mut rounds)?;
    for input in corpus {
        step(input, &mut rounds)?;
    }
    let mut noise = Noise::new(seed);
    let mut pool = corpus.to_vec();
    pool.push(Vec::new());
    let words = words(name);
    let mut mutations = 0;
    loop {
        let over = match until {
            Until::Rounds(most) => mutations >= most,
            Until::Elapsed(most) => begun.elapsed() >= most,
        };
        if over {
            return Ok(rounds);
        }
        mutations += 1;
        let mut input = noise.choose(&pool).cloned().unwrap_or_default();
        mutate(&mut noise, &mut input, &pool, words);
        step(&input, &mut rounds)?;
        // Some go on changing: what takes several steps from the corpus is reached this way.
        if noise.once_in(8) {
            if pool.len() < corpus.len() + DRIFT {
                pool.push(input);
            } else {
                let at = corpus.len() + noise.below(DRIFT);
                pool[at] = input;
            }
        }
    }
}

/// Panics of the input that runs now.
static PANICS: AtomicU32 = AtomicU32::new(0);

/// Keeps panics quiet: a finding is reported once, when it is as small as it gets. Calls `lost` on
/// the second panic of an input, which the process does not survive.
pub fn hush(lost: impl Fn() + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |_| {
        if PANICS.fetch_add(1, Relaxed) == 1 {
            lost();
        }
    }));
}

/// Runs a target once.
///
/// # Errors
/// What the panic said.
pub fn attempt(target: Target, input: &[u8]) -> Result<(), String> {
    PANICS.store(0, Relaxed);
    catch_unwind(AssertUnwindSafe(|| target(input))).map_err(|panic| {
        panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_default()
    })
}

/// Takes parts out of an input as long as the target still fails.
fn reduce(target: Target, input: &[u8]) -> Vec<u8> {
    let mut best = input.to_vec();
    let mut tries = 0;
    let mut part = best.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        let mut smaller = false;
        while at < best.len() {
            tries += 1;
            if tries > REDUCTIONS {
                return best;
            }
            let mut candidate = best.clone();
            candidate.drain(at..best.len().min(at + part));
            if attempt(target, &candidate).is_err() {
                best = candidate;
                smaller = true;
            } else {
                at += part;
            }
        }
        if !smaller || part > 1 {
            part /= 2;
        }
    }
    best
}

/// Keeps an input beside the corpus; gives its path.
///
/// # Errors
/// When it cannot be written.
pub fn keep(name: &str, input: &[u8]) -> io::Result<PathBuf> {
    // FNV-1a: the same input has the same name.
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = folder("artifacts").join(format!("{name}-{hash:016x}"));
    fs::create_dir_all(folder("artifacts"))?;
    fs::write(&path, input)?;
    Ok(path)
}
