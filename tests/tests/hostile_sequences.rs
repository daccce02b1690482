//! Hostile HTTP/2, row H2-20 of the battery: mutated sequences of frames through the proxy, judged by an oracle that
//! shares nothing with it.
//!
//! 5,000 connections in every run, 200,000 with `SELVEDGE_LONG=1`. A failure prints the seed and the numbers of what it
//! found; `SELVEDGE_SEED` gives the seed again, `SELVEDGE_STREAM` one number alone.

use std::sync::atomic::{AtomicU64, Ordering};

use selvedge_tests::hostile::{ROLES, Role, held};
use selvedge_tests::oracle::judge::http2::Verdict;
use selvedge_tests::oracle::mutation::seed;
use selvedge_tests::oracle::sequence::sequence;
use selvedge_tests::oracle::stand::Stand;

/// Connections that one process of the proxy gets: it keeps none of them, but its log is kept here.
const BATCH: u64 = 500;

/// Failures after which a thread has seen enough.
const ENOUGH: usize = 3;

/// What became of the connections.
#[derive(Default)]
struct Tally {
    sequences: AtomicU64,
    streams: AtomicU64,
    served: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    broken: AtomicU64,
}

impl Tally {
    fn add(&self, verdict: Verdict) {
        let add = |to: &AtomicU64, count: usize| {
            to.fetch_add(u64::try_from(count).unwrap(), Ordering::Relaxed);
        };
        add(&self.sequences, 1);
        add(&self.streams, verdict.streams);
        add(&self.served, verdict.served);
        add(&self.refused, verdict.refused);
        add(&self.cut, verdict.cut);
        add(&self.broken, usize::from(verdict.broken));
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn mutated_sequences_are_read_as_the_oracle_reads_them() {
    let seed = seed();
    let long = std::env::var_os("SELVEDGE_LONG").is_some();
    let all = if long { 200_000 } else { 5_000 };
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
                held("H2-20", role, done);
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
    let (streams, served) = (count(&tally.streams), count(&tally.served));
    let (refused, cut) = (count(&tally.refused), count(&tally.cut));
    println!(
        "{} sequences of {streams} streams: {served} let through, {refused} refused, {cut} cut off; {} connections ended",
        count(&tally.sequences),
        count(&tally.broken),
    );
    // A generator that makes nothing but junk, or none, proves nothing.
    assert_eq!(count(&tally.sequences), all);
    assert!(served > all && refused > all / 10 && cut > all / 100);
    assert!(count(&tally.broken) > all / 10 && count(&tally.broken) < all / 2);
}

/// Carries out these connections with a proxy of their own; gives what was wrong.
fn batch(role: Role, seed: u64, numbers: std::ops::Range<u64>, tally: &Tally) -> Vec<String> {
    let mut stand = Stand::start(role);
    let mut wrong = Vec::new();
    for number in numbers {
        let mut done = stand.check_http2(&sequence(seed, number));
        if number % 50 == 0 {
            done = done.and_then(|verdict| stand.canary().map(|()| verdict));
        }
        match done {
            Ok(verdict) => tally.add(verdict),
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
