//! Defaults of limits that follow how fast a service answers.

/// The limit to begin with: what a small service bears, and half a dozen seconds from what a large one does.
pub const START: u32 = 32;
/// Fewest requests that a limit comes down to: with fewer under way nothing can be learnt of how fast a service is.
pub const MIN: u32 = 4;
/// Milliseconds over which answers are averaged before the limit is looked at.
pub const WINDOW: u64 = 250;
/// Answers that there have to be in them; with fewer the window goes on.
pub const LEAST_SAMPLES: u32 = 10;
/// An answer may take this many times as long as when nothing waits: what is over it is time spent in a queue.
pub const TOLERANCE: f64 = 1.5;
/// What takes longer than this many times as long counts as this: a slow method is no queue.
pub const OUTLIER: u64 = 8;
/// Milliseconds after which it is looked for the first time what an answer takes when nothing waits, ...
pub const FIRST_LOOK: u64 = 1000;
/// ... and again: twice as long each time, up to this.
pub const PERIOD: u64 = 30_000;
/// Milliseconds after which a look that has shown nothing is given up.
pub const LONGEST_LOOK: u64 = 10_000;
