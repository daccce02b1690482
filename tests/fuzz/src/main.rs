//! The runner: `selvedge-fuzz [--seconds N] [--seed S] [--trace] [--input FILE] [TARGET...]`.

use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use selvedge_fuzz::run::{Until, attempt, corpus, hush, keep, run};
use selvedge_fuzz::{TARGETS, Target, folder};

/// Longer than any input may take, in any profile and on any machine.
const HANG: Duration = Duration::from_secs(20);

const USAGE: &str = "selvedge-fuzz [--seconds N] [--seed S] [--trace] [--input FILE] [TARGET...]

  --seconds N   for each target; default 10
  --seed S      the noise of another run; default: the time
  --trace       writes each input to artifacts/<target>-last before it runs: for a crash that is no
                panic (a stack overflow)
  --input FILE  runs this input once instead
  TARGET        default: all of them";

struct Arguments {
    seconds: u64,
    seed: u64,
    trace: bool,
    input: Option<String>,
    targets: Vec<(&'static str, Target)>,
}

fn main() -> ExitCode {
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{why}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some(file) = &arguments.input {
        return replay(&arguments, file);
    }
    println!("seed {}", arguments.seed);
    let watch = Watch::start();
    let now = watch.0.clone();
    hush(move || give_up(&now, "a panic within a panic"));
    for (name, target) in &arguments.targets {
        let Ok(inputs) = corpus(name) else {
            eprintln!("{name}: no folder corpus/{name}");
            return ExitCode::from(2);
        };
        let until = Until::Elapsed(Duration::from_secs(arguments.seconds));
        let last = folder("artifacts").join(format!("{name}-last"));
        let begun = Instant::now();
        let before = |input: &[u8]| {
            watch.see(name, input);
            if arguments.trace {
                let _ = std::fs::create_dir_all(folder("artifacts"));
                let _ = std::fs::write(&last, input);
            }
        };
        match run(name, *target, &inputs, arguments.seed, until, before) {
            Ok(rounds) => {
                let rate = rounds as f64 / begun.elapsed().as_secs_f64();
                println!("{name:<20} {rounds:>9} inputs {rate:>9.0}/s");
            }
            Err(finding) => {
                eprintln!("{name}: input {}: {}", finding.round, finding.message);
                report(name, &finding.input);
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut arguments = Arguments {
        seconds: 10,
        seed: now.map_or(1, |d| d.as_secs()),
        trace: false,
        input: None,
        targets: Vec::new(),
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{text} is no number"));
        match word.as_str() {
            "--seconds" => arguments.seconds = number(value()?)?,
            "--seed" => arguments.seed = number(value()?)?,
            "--trace" => arguments.trace = true,
            "--input" => arguments.input = Some(value()?),
            name => {
                let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
                let found = TARGETS.iter().find(|(known, _)| *known == name);
                let target = found.ok_or(format!("no {name} among {}", names.join(", ")))?;
                arguments.targets.push(*target);
            }
        }
    }
    if arguments.targets.is_empty() {
        arguments.targets.extend(TARGETS);
    }
    Ok(arguments)
}

/// Runs one input, on the targets named.
fn replay(arguments: &Arguments, file: &str) -> ExitCode {
    let input = match std::fs::read(file) {
        Ok(input) => input,
        Err(error) => {
            eprintln!("{file}: {error}");
            return ExitCode::from(2);
        }
    };
    let mut failed = false;
    for (name, target) in &arguments.targets {
        let result = attempt(*target, &input);
        println!("{name}: {}", if result.is_ok() { "fine" } else { "fails" });
        failed |= result.is_err();
    }
    ExitCode::from(u8::from(failed))
}

fn report(name: &str, input: &[u8]) {
    let text = input.escape_ascii().to_string();
    let shown = text.get(..400).unwrap_or(&text);
    match keep(name, input) {
        Ok(path) => eprintln!("{} bytes in {}: {shown}", input.len(), path.display()),
        Err(error) => eprintln!("cannot be kept ({error}): {text}"),
    }
}

/// The input that runs now, seen by a thread that ends the process if it does not end itself.
/// Dropping it ends that thread.
struct Watch(
    Arc<Mutex<Now>>,
    #[expect(dead_code, reason = "its end is what is heard")] Sender<()>,
);

/// Since when it runs, on which target, and the input.
type Now = (Instant, &'static str, Vec<u8>);

/// Ends the process with a finding that cannot be made smaller.
fn give_up(now: &Mutex<Now>, why: &str) {
    let (_, name, input) = &*now.lock().unwrap_or_else(PoisonError::into_inner);
    eprintln!("{name}: {why}");
    report(name, input);
    std::process::exit(1);
}

impl Watch {
    fn start() -> Self {
        let now = Arc::new(Mutex::new((Instant::now(), "", Vec::new())));
        let watched = now.clone();
        let (alive, ended) = channel();
        std::thread::spawn(move || {
            while ended.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                let since = watched.lock().unwrap_or_else(PoisonError::into_inner).0;
                // While a finding is made smaller nothing is seen here, and nothing hangs.
                if since.elapsed() > HANG {
                    give_up(&watched, "an input does not end");
                }
            }
        });
        Self(now, alive)
    }

    fn see(&self, name: &'static str, input: &[u8]) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.0 = Instant::now();
        now.1 = name;
        now.2.clear();
        now.2.extend_from_slice(input);
    }
}
