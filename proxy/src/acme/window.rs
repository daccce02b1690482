//! When a certificate is renewed: inside the directory's window (RFC 9773), else at two thirds of
//! its life.

use std::time::{Duration, SystemTime};

use selvedge_contract::defaults::acme::{RENEW_BY, WINDOW_AGAIN, WINDOW_CEILING, WINDOW_FLOOR};
use selvedge_contract::defaults::process::{RENEW_AT, RENEW_JITTER};

use super::Certificate;
use super::answer::Window;
use super::directory::{Directory, DirectoryError};

/// The plan for one certificate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// When it is renewed.
    pub(super) renew_at: SystemTime,
    /// When the directory is asked for its window, if it has not said that it has none.
    pub(super) ask_at: Option<SystemTime>,
    window: Option<Window>,
}

impl Plan {
    /// By its life alone, until the directory has been asked.
    pub(super) fn by_life(certificate: &Certificate, now: SystemTime, random: f64) -> Self {
        let jitter = (random * 2.0 - 1.0) * f64::from(RENEW_JITTER);
        Self {
            renew_at: share(certificate, f64::from(RENEW_AT) + jitter),
            ask_at: certificate.id.is_some().then_some(now),
            window: None,
        }
    }

    /// What the directory says of the certificate, and when it is asked again.
    pub(super) async fn ask(
        &mut self,
        directory: &Directory,
        certificate: &Certificate,
        now: SystemTime,
    ) -> Result<(), DirectoryError> {
        self.ask_at = Some(now + WINDOW_AGAIN);
        let Some((issuer, serial)) = &certificate.id else {
            self.ask_at = None;
            return Ok(());
        };
        let Some(base) = directory.resources().await?.renewal_info else {
            // It may learn to; until then the life decides.
            self.ask_at = Some(now + WINDOW_CEILING);
            return Ok(());
        };
        let url = format!("{}/{issuer}.{serial}", base.trim_end_matches('/'));
        let answer = directory.get(&url).await?;
        let window = Window::read(answer.body()).ok_or(DirectoryError::NotA("renewal window"))?;
        let told = answer.headers().get(http::header::RETRY_AFTER);
        let told = told.and_then(|t| t.to_str().ok()?.parse().ok());
        self.take(
            window,
            certificate,
            now,
            told.map(Duration::from_secs),
            fastrand::f64(),
        );
        Ok(())
    }

    fn take(
        &mut self,
        window: Window,
        certificate: &Certificate,
        now: SystemTime,
        again: Option<Duration>,
        random: f64,
    ) {
        let again = again.unwrap_or(WINDOW_AGAIN);
        self.ask_at = Some(now + again.clamp(WINDOW_FLOOR, WINDOW_CEILING));
        // The same window keeps its time: picked anew at each look, it would wander to the front.
        if self.window != Some(window) {
            self.window = Some(window);
            // Nobody may talk a certificate into its end.
            let last = share(certificate, f64::from(RENEW_BY));
            self.renew_at = window.pick(random).min(last);
        }
    }

    /// Whether the directory knows what it means to replace a certificate.
    pub(super) const fn has_window(&self) -> bool {
        self.window.is_some()
    }
}

fn share(certificate: &Certificate, percent: f64) -> SystemTime {
    certificate.not_before + certificate.life().mul_f64(percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const DAY: Duration = Duration::from_secs(86_400);
    const BEGUN: SystemTime = UNIX_EPOCH;

    fn certificate() -> Certificate {
        let key = super::super::certificate::self_signed("a.example").unwrap();
        Certificate {
            key: std::sync::Arc::new(key),
            not_before: BEGUN,
            not_after: BEGUN + DAY * 90,
            id: Some(("a".into(), "b".into())),
        }
    }

    #[test]
    fn without_a_window_two_thirds_of_the_life_count() {
        let at = |random| Plan::by_life(&certificate(), BEGUN, random).renew_at;
        let share = |percent: u32| BEGUN + DAY * 90 * percent / 100;
        assert_eq!(at(0.5), share(RENEW_AT));
        assert!(at(0.0) >= share(RENEW_AT - RENEW_JITTER) && at(1.0) > at(0.0));
    }

    #[test]
    fn a_time_inside_the_window_is_picked_once() {
        let (certificate, now) = (certificate(), BEGUN + DAY);
        let mut plan = Plan::by_life(&certificate, now, 0.5);
        let window = Window {
            start: BEGUN + DAY * 10,
            end: BEGUN + DAY * 20,
        };
        plan.take(window, &certificate, now, None, 0.5);
        assert_eq!(plan.renew_at, BEGUN + DAY * 15);
        plan.take(window, &certificate, now, None, 0.0);
        assert_eq!(plan.renew_at, BEGUN + DAY * 15);
        // Moved to the front, as before a revocation: it is due.
        let window = Window {
            start: BEGUN,
            end: BEGUN + DAY / 2,
        };
        plan.take(window, &certificate, now, None, 0.9);
        assert!(plan.renew_at < now);
    }

    #[test]
    fn no_window_talks_a_certificate_into_its_end() {
        let (certificate, now) = (certificate(), BEGUN + DAY);
        let mut plan = Plan::by_life(&certificate, now, 0.5);
        let window = Window {
            start: BEGUN + DAY * 4000,
            end: BEGUN + DAY * 5000,
        };
        plan.take(window, &certificate, now, None, 0.5);
        assert_eq!(plan.renew_at, BEGUN + DAY * 81);
    }

    #[test]
    fn questions_are_between_a_minute_and_a_day_apart() {
        let (certificate, now) = (certificate(), BEGUN);
        let mut plan = Plan::by_life(&certificate, now, 0.5);
        let window = Window {
            start: BEGUN + DAY,
            end: BEGUN + DAY * 2,
        };
        for (told, wanted) in [(0, 60), (1, 60), (21_600, 21_600), (86_400 * 9, 86_400)] {
            let told = Some(Duration::from_secs(told));
            plan.take(window, &certificate, now, told, 0.5);
            assert_eq!(plan.ask_at, Some(now + Duration::from_secs(wanted)));
        }
    }
}
