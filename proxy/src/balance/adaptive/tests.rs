//! Properties of a limit that adapts, with a model of a service that works on a few requests at a time.

use std::collections::VecDeque;

use super::*;

/// A service that works on a few requests at a time, and lets the others wait.
struct Modelled {
    at_once: usize,
    takes: u64,
    queue: VecDeque<(u64, u32)>,
    /// When each of those that are worked on ends, and when it came; in milliseconds.
    busy: Vec<(u64, u64, u32)>,
}

struct Seen {
    answered: u64,
    shed: u64,
    /// Sum of times in milliseconds.
    took: u64,
}

impl Modelled {
    /// Offers so many requests a second for so many seconds from `from` on.
    fn run(
        &mut self,
        limit: &Adaptive,
        start: Instant,
        from: u64,
        seconds: u64,
        rate: u64,
    ) -> Seen {
        let mut seen = Seen {
            answered: 0,
            shed: 0,
            took: 0,
        };
        let mut due = 0;
        for now in from * 1000..(from + seconds) * 1000 {
            due += rate;
            while due >= 1000 {
                due -= 1000;
                match limit.admit(Class::Interactive, start + Duration::from_millis(now)) {
                    Ok(epoch) => self.queue.push_back((now, epoch)),
                    Err(_) => seen.shed += 1,
                }
            }
            self.busy.retain(|(ends, came, epoch)| {
                let over = *ends <= now;
                if over {
                    limit.leave(*epoch);
                    let took = Duration::from_millis(now - came);
                    limit.answered(took, *epoch, start + Duration::from_millis(now));
                    seen.answered += 1;
                    seen.took += now - came;
                }
                !over
            });
            while self.busy.len() < self.at_once {
                let Some((came, epoch)) = self.queue.pop_front() else {
                    break;
                };
                self.busy.push((now + self.takes, came, epoch));
            }
        }
        seen
    }
}

fn modelled(at_once: usize, takes: u64) -> Modelled {
    Modelled {
        at_once,
        takes,
        queue: VecDeque::new(),
        busy: Vec::new(),
    }
}

const SPEC: AdaptiveSpec = AdaptiveSpec { min: 4, max: 1024 };

#[tokio::test(start_paused = true)]
async fn an_overloaded_service_answers_nearly_as_fast_as_ever() {
    let (limit, start) = (Adaptive::new(SPEC), Instant::now());
    // 20 at once of 10 ms: 2,000 a second are what it can do, and 6,000 what it is asked.
    let mut service = modelled(20, 10);
    let _ = service.run(&limit, start, 0, 20, 6000);
    let seen = service.run(&limit, start, 20, 60, 6000);
    let mean = seen.took / seen.answered;
    assert!(seen.answered > 114_000, "{} of 120,000", seen.answered);
    assert!(mean <= 25, "{mean} ms on average, limit {}", limit.limit());
    assert!(
        (20..=60).contains(&limit.limit()),
        "limit {}",
        limit.limit()
    );
    assert!(seen.shed > 200_000);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_can_do_more_gets_it() {
    let (limit, start) = (Adaptive::new(SPEC), Instant::now());
    let mut service = modelled(400, 50);
    // 7,000 a second are 350 under way; the limit begins at 32.
    let _ = service.run(&limit, start, 0, 20, 7000);
    let seen = service.run(&limit, start, 20, 9, 7000);
    assert_eq!(seen.shed, 0, "limit {}", limit.limit());
    assert_eq!(seen.took / seen.answered, 50);
}

#[tokio::test(start_paused = true)]
async fn what_has_become_slower_for_good_is_not_strangled() {
    let (limit, start) = (Adaptive::new(SPEC), Instant::now());
    let mut service = modelled(20, 10);
    let _ = service.run(&limit, start, 0, 40, 1900);
    // A new version takes three times as long, and bears more at once.
    service.takes = 30;
    service.at_once = 60;
    let _ = service.run(&limit, start, 40, 70, 1900);
    let seen = service.run(&limit, start, 110, 20, 1900);
    assert!(
        seen.answered > 36_000,
        "{} of 38,000, limit {}",
        seen.answered,
        limit.limit()
    );
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_nobody_reaches_does_not_rise() {
    let (limit, start) = (Adaptive::new(SPEC), Instant::now());
    let seen = modelled(1000, 10).run(&limit, start, 0, 60, 500);
    assert_eq!((seen.shed, limit.limit()), (0, START));
}

#[test]
fn a_class_has_its_share() {
    let limit = Adaptive::new(AdaptiveSpec { min: 20, max: 20 });
    let admitted = |class| {
        (0..100)
            .take_while(|_| limit.admit(class, Instant::now()).is_ok())
            .count()
    };
    assert_eq!(admitted(Class::Batch), 15);
    assert_eq!(admitted(Class::Interactive), 5);
    assert_eq!(admitted(Class::Health), 4);
    assert_eq!(admitted(Class::Interactive), 0);
    for _ in 0..24 {
        limit.leave(0);
    }
    assert_eq!(limit.waiting(), 0);
}

/// A look shut the service for as long as a few requests had no answer.
#[tokio::test(start_paused = true)]
async fn requests_that_are_never_answered_shut_nobody_out() {
    let (limit, start) = (Adaptive::new(SPEC), Instant::now());
    for _ in 0..20 {
        limit.admit(Class::Interactive, start).unwrap();
    }
    let mut service = modelled(1000, 50);
    let _ = service.run(&limit, start, 0, 5, 500);
    let seen = service.run(&limit, start, 5, 60, 500);
    assert!(
        seen.shed * 20 < seen.answered,
        "{} of {} shed",
        seen.shed,
        seen.answered
    );
    // Nothing else is there, and nothing is answered: it is as if there were no limit.
    let hung = Adaptive::new(SPEC);
    let late = |second| start + Duration::from_secs(second);
    let admitted = |from: u64| {
        let all = (from * 1000..(from + 60) * 1000).step_by(10);
        let at = all.map(|ms| late(0) + Duration::from_millis(ms));
        at.filter(|at| hung.admit(Class::Interactive, *at).is_ok())
            .count()
    };
    assert!(admitted(0) > 200, "{}", hung.limit());
}

/// The queue was longer than a look had patience, and was taken for what an answer takes.
#[tokio::test(start_paused = true)]
async fn a_long_queue_is_no_measure() {
    let (limit, start) = (Adaptive::new(SPEC), Instant::now());
    let mut service = modelled(1, 150);
    let _ = service.run(&limit, start, 0, 60, 100);
    let seen = service.run(&limit, start, 60, 60, 100);
    let mean = seen.took / seen.answered;
    assert!(mean < 2500, "{mean} ms, limit {}", limit.limit());
    assert!(limit.limit() <= 16, "{}", limit.limit());
}

/// Three seconds of quick answers were the measure for half a minute.
#[tokio::test(start_paused = true)]
async fn cheap_answers_are_soon_forgotten() {
    let (limit, start) = (Adaptive::new(SPEC), Instant::now());
    let _ = modelled(50, 1).run(&limit, start, 0, 3, 2000);
    let mut service = modelled(50, 20);
    let _ = service.run(&limit, start, 3, 5, 800);
    let seen = service.run(&limit, start, 8, 20, 800);
    assert!(
        seen.shed * 10 < seen.answered,
        "{} of {} shed",
        seen.shed,
        seen.answered
    );
}
