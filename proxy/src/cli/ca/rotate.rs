//! `selvedge ca status` and `selvedge ca rotate`: what a running CA says, and the steps it is asked to take.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration as Std, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use selvedge_ca::control::{Answer, Question, Step, ask};
use selvedge_ca::status::Status as Standing;

use super::Outcome;
use crate::cli::say;

/// How often `--wait` looks again.
const AGAIN: Std = Std::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// Directory of the CA.
    #[arg(long)]
    dir: PathBuf,
    /// `text` for people, `json` for machines.
    #[arg(long, default_value = "text")]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Rotate {
    /// Directory of the CA.
    #[arg(long)]
    dir: PathBuf,
    /// This step and no other.
    #[arg(long)]
    step: Option<Chosen>,
    /// Take all steps to the end, each as soon as it is safe.
    #[arg(long, conflicts_with = "step")]
    wait: bool,
    /// Even if proxies or certificates are left behind: they lose their connections.
    #[arg(long, requires = "step")]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// A step, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Chosen {
    /// Make the next root, and have it trusted.
    Prepare,
    /// Sign with it, once every proxy trusts it.
    Activate,
    /// Trust the old root no more, once nothing is left that it signed.
    Retire,
    /// Go back: before the new root signs at once, after it in the same way as forward.
    Abort,
}

impl Status {
    pub(super) fn run(&self) -> Outcome {
        let answer = asked(&self.dir, Question::Status)?;
        match self.format {
            Format::Json => say(serde_json::to_string_pretty(&answer.status)?),
            Format::Text => say(told(&answer.status, SystemTime::now()).trim_end()),
        }
        Ok(())
    }
}

impl Rotate {
    pub(super) fn run(&self) -> Outcome {
        if self.wait {
            return self.all();
        }
        let step = match self.step {
            Some(Chosen::Prepare) => Step::Prepare,
            Some(Chosen::Activate) => Step::Activate,
            Some(Chosen::Retire) => Step::Retire,
            Some(Chosen::Abort) => Step::Abort,
            None => next(&asked(&self.dir, Question::Status)?.status),
        };
        self.take(step, self.force)
    }

    /// From wherever it stands to a root that is retired.
    fn all(&self) -> Outcome {
        let mut last = None;
        loop {
            let status = asked(&self.dir, Question::Status)?.status;
            let rotation = &status.rotation;
            if rotation.next.is_none() && last == Some(Step::Retire) {
                return Ok(());
            }
            if rotation.next.is_none() || rotation.ready {
                let step = next(&status);
                self.take(step, false)?;
                last = Some(step);
                continue;
            }
            std::thread::park_timeout(AGAIN);
        }
    }

    fn take(&self, step: Step, force: bool) -> Outcome {
        let before = match force {
            true => Some(asked(&self.dir, Question::Status)?.status),
            false => None,
        };
        let answer = asked(&self.dir, Question::Step { step, force })?;
        if let Some(refused) = answer.refused {
            return Err(refused.into());
        }
        say(match step {
            Step::Prepare => "prepared: the next root is made, and is being distributed",
            Step::Activate => "activated: the new root signs; the old one is still trusted",
            Step::Retire => "retired: the old root is trusted no more, and its key is deleted",
            Step::Abort => "aborted",
        });
        if let Some(before) = before.filter(|before| before.waiting > 0) {
            say(left_behind(&before, SystemTime::now()).trim_end());
        }
        say(told(&answer.status, SystemTime::now()).trim_end());
        Ok(())
    }
}

/// The step that comes next.
fn next(status: &Standing) -> Step {
    match status.rotation.next.as_deref() {
        Some("activate") => Step::Activate,
        Some("retire") => Step::Retire,
        _ => Step::Prepare,
    }
}

fn asked(dir: &std::path::Path, question: Question) -> Result<Answer, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answered = runtime.block_on(ask(dir, question));
    answered.map_err(|error| {
        let dir = dir.display();
        format!("no answer from a CA that serves from {dir}: {error}").into()
    })
}

/// For people.
fn told(status: &Standing, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    let _ = writeln!(text, "trust domain  {}", status.trust_domain);
    for certificate in &status.certificates {
        let alarm = match certificate.alarm {
            Some(90) => "  ALARM: about to end",
            Some(75) => "  alarm: replace it",
            Some(_) => "  past its middle",
            None => "",
        };
        let _ = writeln!(
            text,
            "{:<17} {}  {} left, {} % of its life used{alarm}",
            certificate.name,
            certificate.sha256.get(..16).unwrap_or_default(),
            span(certificate.not_after.saturating_sub(now)),
            certificate.used,
        );
    }
    let rotation = &status.rotation;
    let _ = write!(text, "rotation          {}", rotation.phase);
    if let Some(next) = &rotation.next {
        let when = match (rotation.ready, rotation.ready_at) {
            (true, _) => "now".to_owned(),
            (false, Some(at)) => format!("in {} at the latest", span(at.saturating_sub(now))),
            (false, None) => String::new(),
        };
        let _ = write!(text, "; next: {next}, {when}");
    }
    let _ = writeln!(
        text,
        "\nproxies           {}, of which {} have not acknowledged the bundle",
        status.proxies, status.waiting
    );
    list_waiting(&mut text, status, now);
    text
}

/// Who was not waited for.
fn left_behind(before: &Standing, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut text = String::new();
    let _ = writeln!(
        text,
        "left behind       {} of {} proxies, which had not acknowledged the bundle",
        before.waiting, before.proxies
    );
    list_waiting(&mut text, before, now);
    text
}

fn list_waiting(text: &mut String, status: &Standing, now: u64) {
    for waiting in &status.waiting_for {
        let left = span(waiting.ends.saturating_sub(now));
        let _ = writeln!(text, "  {} {} ({left} left)", waiting.id, waiting.instance);
    }
    if status.waiting > status.waiting_for.len() {
        let _ = writeln!(text, "  ...");
    }
}

/// A length of time by its two largest units.
fn span(seconds: u64) -> String {
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|(n, _)| *n > 0).unwrap_or(3);
    let shown = parts.iter().skip(first).take(2);
    let shown: Vec<_> = shown.map(|(n, unit)| format!("{n}{unit}")).collect();
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn spans_are_told_by_their_two_largest_units() {
        for (seconds, want) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (3600, "1h 0m"),
            (90_061, "1d 1h"),
            (315_360_000, "3650d 0h"),
        ] {
            assert_eq!(span(seconds), want);
        }
    }
}
