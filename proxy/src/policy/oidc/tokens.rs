//! Questions to an issuer about one user: a code or a refresh token for tokens, and what they say.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use selvedge_contract::defaults::policy::{REFRESH_AGAIN, REFRESHED};
use selvedge_gateway::jwt::{Keys, Refusal, Verified, content};
use selvedge_gateway::oidc::login::verify_id;
use selvedge_gateway::oidc::session::lacks;
use selvedge_gateway::oidc::{Callback, Login, Session, Tokens, TokensError};
use serde_json::{Map, Value};

use crate::error::ErrorKind;
use crate::fetch::Question;
use crate::policy::flights::Key;

use super::issuer::{Failed, Known};
use super::{Oidc, unix_now};

/// Replacements of tokens that are followed from an old cookie on.
const REPLACEMENTS: usize = 8;

/// A login that has come to its end.
#[derive(Debug)]
pub struct Done {
    /// Who has logged in.
    pub session: Session,
    /// Where the user goes on.
    pub back: String,
}

fn useless(why: impl std::fmt::Display) -> Failed {
    Failed::new(ErrorKind::IssuerFailed, why)
}

impl Oidc {
    /// Exchanges the code of a callback, and verifies who has logged in.
    ///
    /// # Errors
    /// [`Failed`].
    pub(super) async fn finish(
        self: Arc<Self>,
        login: Login,
        answer: Callback,
        callback: String,
    ) -> Result<Done, Failed> {
        let known = self.issuer.known().await?;
        let from = answer.is_from(&self.id.issuer, &known.provider);
        from.map_err(|e| Failed::new(ErrorKind::LoginUnknown, e))?;
        let code = answer.outcome.map_err(|error| refused(&error))?;
        let tokens = self.tokens(&known, &login.grant(&code, &callback)).await;
        let tokens = tokens.map_err(|error| match error {
            Refused::Grant => Failed::new(ErrorKind::LoginUnknown, TokensError::Grant),
            Refused::Client(error) => useless(error),
            Refused::Failed(failed) => failed,
        })?;
        let id = tokens
            .id
            .as_deref()
            .ok_or_else(|| useless("it sent no ID token"))?;
        let verified = self
            .verified(&known, |keys, now| login.verify(id, keys, &self.id, now))
            .await?;
        let claims = self.all_claims(&known, verified.claims, &tokens).await?;
        content(&claims, &self.expect).map_err(|e| Failed::new(ErrorKind::LoginRefused, e))?;
        let session = Session::new(&claims, &self.kept, tokens, unix_now());
        let back = match login.back() {
            // Nothing is there to be seen.
            path if self.is_own_path(path) => "/".to_owned(),
            path => path.to_owned(),
        };
        Ok(Done { session, back })
    }

    /// Replaces the tokens of a session; of its requests that come at a time one asks.
    pub(super) async fn renew(
        self: Arc<Self>,
        mut session: Session,
    ) -> Result<Arc<Session>, Failed> {
        let refreshes = &self.issuer.refreshes;
        let mut key = self.key_of(&session);
        // A cookie from before the last replacement, or the one before: on from what came of it. An
        // issuer may take a refresh token only once, and end everything when it comes again.
        for _ in 0..REPLACEMENTS {
            match refreshes.known(&key) {
                Some(Ok(next)) if next.refresh != session.refresh && next.is_due(unix_now()) => {
                    session = Session::clone(&next);
                    key = self.key_of(&session);
                }
                _ => break,
            }
        }
        // One that may be used again: its last answer has grown old.
        refreshes.forget_if(&key, |outcome| {
            outcome
                .as_ref()
                .is_ok_and(|session| session.is_due(unix_now()))
        });
        let this = self.clone();
        let work = move || async move {
            let renewed = this.renewed(&session).await.map(Arc::new);
            let keep = match &renewed {
                Err(failed) if failed.kind != ErrorKind::Unauthenticated => REFRESH_AGAIN,
                _ => REFRESHED,
            };
            (renewed, keep)
        };
        let joined = refreshes.join(key, work).await;
        let lost = || Failed::new(ErrorKind::IssuerLost, "the question was given up");
        joined.unwrap_or_else(|| Err(lost()))
    }

    /// Tells refreshes apart.
    fn key_of(&self, session: &Session) -> Key {
        let mut context = Context::new(&SHA256);
        for part in [&*self.name, session.refresh.as_deref().unwrap_or_default()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut key = Key::default();
        for (to, from) in key.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        key
    }

    /// [`ErrorKind::Unauthenticated`] where the issuer refuses.
    async fn renewed(&self, session: &Session) -> Result<Session, Failed> {
        let again = |why: &dyn std::fmt::Display| Failed::new(ErrorKind::Unauthenticated, why);
        let known = self.issuer.known().await?;
        let refresh = session.refresh.as_deref().unwrap_or_default();
        let grant = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
        let tokens = self
            .tokens(&known, &grant)
            .await
            .map_err(|error| match error {
                Refused::Grant => again(&TokensError::Grant),
                Refused::Client(error) => again(&error),
                Refused::Failed(failed) => failed,
            })?;
        let claims = match tokens.id.as_deref() {
            None => None,
            Some(id) => {
                let verify = |keys: &Keys, now| verify_id(id, keys, &self.id, now);
                let claims = self.verified(&known, verify).await?.claims;
                // OpenID Connect Core 1.0 section 12.2.
                if claims.get("sub").and_then(Value::as_str) != Some(session.subject()) {
                    return Err(again(&"the new tokens are another user's"));
                }
                Some(self.all_claims(&known, claims, &tokens).await?)
            }
        };
        let next = session.renewed(claims.as_ref(), &self.kept, tokens, unix_now());
        tracing::debug!(policy = %self.name, "tokens replaced");
        Ok(next)
    }

    async fn tokens(&self, known: &Known, grant: &[(&str, &str)]) -> Result<Tokens, Refused> {
        let (form, authorization) = self.client.form(grant, known.provider.secret_in_body);
        let question = Question {
            form: Some(form),
            authorization,
        };
        let asked = self.issuer.ask(&known.token, question, self.timeout).await;
        let answer = asked.map_err(Refused::Failed)?;
        Tokens::read(answer.status().as_u16(), answer.body()).map_err(|error| match error {
            TokensError::Grant => Refused::Grant,
            TokensError::Refused(_) => Refused::Client(error),
            TokensError::Form(_) => Refused::Failed(useless(error)),
        })
    }

    /// Verifies by the keys that are here, or by those that are here when they were fetched again.
    async fn verified(
        &self,
        known: &Known,
        verify: impl Fn(&Keys, u64) -> Result<Verified, Refusal>,
    ) -> Result<Verified, Failed> {
        let attempt = || {
            let keys = known.keys.load();
            keys.map_or(Err(Refusal::UnknownKey), |keys| verify(&keys, unix_now()))
        };
        let mut verdict = attempt();
        if verdict == Err(Refusal::UnknownKey) {
            known.keys.again().await;
            verdict = attempt();
        }
        verdict.map_err(|refusal| match known.keys.load() {
            None => Failed::new(ErrorKind::IssuerLost, "its keys have never come"),
            Some(_) => useless(refusal),
        })
    }

    /// The claims of an ID token and, where something is missing in it, of the userinfo endpoint
    /// (OpenID Connect Core 1.0 section 5.3).
    async fn all_claims(
        &self,
        known: &Known,
        mut claims: Map<String, Value>,
        tokens: &Tokens,
    ) -> Result<Map<String, Value>, Failed> {
        let (Some(address), Some(access)) = (&known.userinfo, &tokens.access) else {
            return Ok(claims);
        };
        if !lacks(&claims, &self.kept) {
            return Ok(claims);
        }
        let plain = access.bytes().all(|b| b.is_ascii_graphic());
        let question = Question {
            form: None,
            authorization: plain.then(|| format!("Bearer {access}")),
        };
        let answer = self.issuer.ask(address, question, self.timeout).await?;
        if answer.status() != http::StatusCode::OK {
            return Err(useless(format!(
                "its userinfo answered {}",
                answer.status()
            )));
        }
        let more: Map<String, Value> =
            serde_json::from_slice(answer.body()).map_err(|e| useless(format!("userinfo: {e}")))?;
        if more.get("sub") != claims.get("sub") {
            return Err(useless("its userinfo is another user's"));
        }
        // What is signed counts.
        for (name, value) in more {
            claims.entry(name).or_insert(value);
        }
        Ok(claims)
    }
}

/// Why there are no tokens.
enum Refused {
    /// Code or token are of no use any more.
    Grant,
    /// The issuer does not take this client.
    Client(TokensError),
    /// Nothing that could be understood.
    Failed(Failed),
}

/// What an error that the issuer sends by the user means.
fn refused(error: &str) -> Failed {
    let kind = match error {
        "temporarily_unavailable" => ErrorKind::IssuerLost,
        "server_error"
        | "invalid_request"
        | "unauthorized_client"
        | "invalid_scope"
        | "unsupported_response_type" => ErrorKind::IssuerFailed,
        _ => ErrorKind::LoginRefused,
    };
    let error = selvedge_gateway::oidc::login::plain(error);
    Failed::new(kind, format!("the issuer says `{error}`"))
}
