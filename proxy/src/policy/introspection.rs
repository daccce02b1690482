//! Part of stage 6, policy: asks an authorization server about the token of a request, and remembers
//! what it said.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::ClientConfig;
use selvedge_contract::defaults::policy::{INACTIVE, INTROSPECTION_BYTES};
use selvedge_gateway::introspection::{TOKEN, fingerprint, judge, life};
use selvedge_gateway::jwt::{Expect, Refusal, Verified};
use selvedge_gateway::oidc::ClientAuth;
use tokio::sync::Semaphore;

use crate::error::ErrorKind;
use crate::fetch::{self, Address, FetchError, Question};

use super::flights::Flights;
use super::guard::{Found, Notes, Seen, Stop};
use super::jwt::{bearer, refuse};
use super::oidc::issuer::Failed;

/// What is known of a token.
pub type Judged = Result<Result<Arc<Verified>, Refusal>, Failed>;

/// A compiled policy.
#[derive(Debug)]
pub struct Introspection {
    /// Name of the policy.
    pub name: Arc<str>,
    /// Where to ask.
    pub endpoint: Address,
    /// How to know who answers.
    pub tls: Arc<ClientConfig>,
    /// Who we are there.
    pub client: ClientAuth,
    /// What the answer must say.
    pub expect: Expect,
    /// Passes the token on.
    pub forward: bool,
    /// How long an answer is remembered.
    pub cache: Duration,
    /// For one question.
    pub timeout: Duration,
    /// Questions that may be asked now.
    pub places: Semaphore,
    /// Secret of the hashes that tell tokens apart.
    pub secret: [u8; 32],
    /// Answers, and questions under way.
    pub asked: Arc<Flights<Judged>>,
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

impl Introspection {
    /// Lets a request pass whose token is active, and notes what the application is told of it.
    ///
    /// # Errors
    /// [`Stop::Refused`] with 401, 403 for its scope, 502 or 503 where nothing can be said;
    /// [`Stop::Wait`] while the server is asked.
    pub fn check(self: &Arc<Self>, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        let Some(token) = bearer(seen.head) else {
            notes.fields.append(b"WWW-Authenticate", b"Bearer");
            return Err(ErrorKind::Unauthenticated.into());
        };
        if token.is_empty() || token.len() > TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(self.refuse(Refusal::Malformed, notes));
        }
        let key = fingerprint(&self.secret, token.as_bytes());
        let judged = match seen.found.take() {
            Some(Found::Introspection(judged)) => judged,
            _ => match self.asked.known(&key) {
                Some(judged) => judged,
                None => {
                    let (this, token) = (self.clone(), token.to_owned());
                    return Err(Stop::wait(async move {
                        let work = this.clone();
                        let work = move || async move { work.ask(&token).await };
                        let judged = this.asked.join(key, work).await;
                        let lost = || Failed::new(ErrorKind::IssuerLost, "given up");
                        Found::Introspection(judged.unwrap_or_else(|| Err(lost())))
                    }));
                }
            },
        };
        let verified = judged
            .map_err(|failed| Stop::Refused(failed.into()))?
            .map_err(|refusal| self.refuse(refusal, notes))?;
        // Remembered answers are rounded up to whole seconds.
        if unix_now() >= verified.until {
            return Err(self.refuse(Refusal::Expired, notes));
        }
        if !self.forward {
            notes.remove(b"Authorization");
        }
        for (_, header) in &self.expect.headers {
            notes.remove(header.as_bytes());
        }
        for (name, value) in &verified.headers {
            notes.append(name.as_bytes(), value.as_bytes());
        }
        seen.token = Some(Rc::new(Verified::clone(&verified)));
        Ok(())
    }

    fn refuse(&self, refusal: Refusal, notes: &mut Notes) -> Stop {
        tracing::debug!(policy = %self.name, %refusal, "refused");
        refuse(refusal, notes)
    }

    /// What the server says, and how long that counts.
    async fn ask(&self, token: &str) -> (Judged, Duration) {
        let judged = self.question(token).await;
        let (most, negative) = (self.cache.as_secs(), INACTIVE.as_secs());
        let keep = match &judged {
            Ok(judged) => life(judged, most, negative, unix_now()),
            // A moment, so that a server that is down is not asked by everybody.
            Err(_) => most.min(1),
        };
        let judged = judged.map(|judged| judged.map(Arc::new));
        if let Err(failed) = &judged {
            tracing::warn!(policy = %self.name, ?failed, "a token could not be asked about");
        }
        (judged, Duration::from_secs(keep))
    }

    async fn question(&self, token: &str) -> Result<Result<Verified, Refusal>, Failed> {
        let pairs = [("token", token), ("token_type_hint", "access_token")];
        let (form, authorization) = self.client.form(&pairs, false);
        let question = Question {
            form: Some(form),
            authorization,
        };
        let asked = async {
            let _place = self.places.acquire().await;
            let time = self.timeout;
            fetch::ask(
                &self.endpoint,
                &self.tls,
                question,
                INTROSPECTION_BYTES,
                time,
            )
            .await
        };
        let asked = tokio::time::timeout(self.timeout, asked).await;
        let answer = asked.unwrap_or(Err(FetchError::Timeout))?;
        let status = answer.status();
        judge(status.as_u16(), answer.body(), &self.expect, unix_now()).map_err(|error| {
            let kind = match status.is_server_error() {
                true => ErrorKind::IssuerLost,
                false => ErrorKind::IssuerFailed,
            };
            Failed::new(kind, error)
        })
    }
}
