//! Hostile HTTP/1, goal G1: mutated streams through the proxy, judged by an oracle that shares nothing with it.
//!
//! 20,000 streams in every run, a million with `SELVEDGE_LONG=1`. A failure prints the seed and the numbers of what it
//! found; `SELVEDGE_SEED` gives the seed again, `SELVEDGE_STREAM` one number alone.

use std::sync::atomic::{AtomicU64, Ordering};

use selvedge_tests::hostile::{ROLES, Role, held};
use selvedge_tests::oracle::mutation::{seed, stream};
use selvedge_tests::oracle::stand::Stand;

/// Streams that one process of the proxy gets: it keeps none of them, but its log is kept here.
const BATCH: u64 = 2500;

/// Failures after which a thread has seen enough.
const ENOUGH: usize = 3;

/// What became of the streams.
#[derive(Default)]
struct Tally {
    streams: AtomicU64,
    served: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn mutated_streams_are_read_as_the_oracle_reads_them() {
    let seed = seed();
    let long = std::env::var_os("SELVEDGE_LONG").is_some();
    let all = if long { 1_000_000 } else { 20_000 };
    let (next, tally) = (AtomicU64::new(0), Tally::default());
    if let Some(one) = number("SELVEDGE_STREAM") {
        let wrong = ROLES.map(|role| batch(role, seed, one..one + 1, &tally));
        assert_eq!(wrong.concat(), Vec::<String>::new());
        return;
    }
    let work = |role: Role| {
        let (mut wrong, mut done) = (Vec::new(), 0);
        loop {
            let from = next.fetch_add(BATCH, Ordering::Relaxed);
            if from >= all || wrong.len() >= ENOUGH {
                held("G1", role, done);
                return wrong;
            }
            wrong.extend(batch(role, seed, from..from + BATCH, &tally));
            done += BATCH as usize;
        }
    };
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let threads = [ROLES, ROLES].concat();
        let threads: Vec<_> = threads
            .into_iter()
            .map(|role| scope.spawn(move || work(role)))
            .collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    });
    assert!(
        wrong.is_empty(),
        "SELVEDGE_SEED={seed}\n{}",
        wrong.join("\n")
    );
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    let (served, refused) = (count(&tally.served), count(&tally.refused));
    println!(
        "{} streams: {served} requests served, {refused} refused, {} cut off",
        count(&tally.streams),
        count(&tally.cut)
    );
    // A generator that makes nothing but junk, or none, proves nothing.
    assert_eq!(count(&tally.streams), all);
    assert!(served > all / 2 && refused > all / 10 && count(&tally.cut) > all / 100);
}

/// Carries out these streams with a proxy of their own; gives what was wrong.
fn batch(role: Role, seed: u64, numbers: std::ops::Range<u64>, tally: &Tally) -> Vec<String> {
    let mut stand = Stand::start(role);
    let mut wrong = Vec::new();
    for number in numbers {
        let mut done = stand.check(&stream(seed, number));
        if number % 50 == 0 {
            done = done.and_then(|verdict| stand.canary().map(|()| verdict));
        }
        match done {
            Ok(verdict) => {
                let served = u64::try_from(verdict.served).unwrap();
                tally.streams.fetch_add(1, Ordering::Relaxed);
                tally.served.fetch_add(served, Ordering::Relaxed);
                let add =
                    |to: &AtomicU64, one: bool| to.fetch_add(u64::from(one), Ordering::Relaxed);
                add(&tally.refused, verdict.refused);
                add(&tally.cut, verdict.cut);
            }
            Err(why) => {
                wrong.push(format!("SELVEDGE_STREAM={number}: {why}"));
                if wrong.len() >= ENOUGH {
                    return wrong;
                }
                // What is still on its way belongs to nobody else.
                stand = Stand::start(role);
            }
        }
    }
    wrong
}
