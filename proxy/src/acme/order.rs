//! One order at a directory: account, challenge, key, certificate (RFC 8555 section 7).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error,
    ExternalAccountKey, Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use selvedge_contract::config::AcmeChallenge;
use selvedge_contract::defaults::acme::{ORDER, POLL};

use super::directory::Directory;
use super::store::{Lock, Proof};
use super::{Certificate, Issuer, Store, certificate};

/// How an order ended that did not fail.
pub(super) enum Outcome {
    /// The certificate is in the store.
    Issued,
    /// Another replica orders.
    Busy,
    /// Another replica has just put a good one there.
    Found,
}

/// Why an order failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// For the log, bounded; with what the directory says of the problem.
    pub(super) why: String,
    /// Whether the directory was asked for anything that it counts.
    pub(super) counted: bool,
    /// How long it wants to be left alone.
    pub(super) pause: Option<Duration>,
}

/// An order for one name.
pub(super) struct Attempt {
    pub(super) issuer: Arc<Issuer>,
    pub(super) name: String,
    /// The beginning of the certificate in use: one in the store that began later is good enough.
    pub(super) held_since: Option<SystemTime>,
    /// Which certificate it replaces, where the directory knows what that means.
    pub(super) replaces: Option<(String, String)>,
}

/// What went wrong, in whichever part.
type Fault = Box<dyn std::error::Error + Send + Sync>;

impl Attempt {
    /// Carries it out, bounded in time. A panic of what it is built on is a failure like others.
    pub(super) async fn run(self) -> Result<Outcome, Failure> {
        let directory = Directory::open(&self.issuer.spec).await;
        let directory = directory.map_err(|error| Failure {
            why: printable(&error),
            counted: false,
            pause: None,
        })?;
        let seen = directory.clone();
        let order = tokio::spawn(tokio::time::timeout(ORDER, self.carry_out(directory)));
        let fault: Fault = match order.await {
            Ok(Ok(Ok(outcome))) => return Ok(outcome),
            Ok(Ok(Err(fault))) => fault,
            Ok(Err(_)) => format!("no certificate within {} s", ORDER.as_secs()).into(),
            Err(panic) => panic.into(),
        };
        Err(Failure {
            why: printable(&fault.to_string()),
            counted: seen.was_asked(),
            pause: seen.pause(),
        })
    }

    async fn carry_out(self, directory: Directory) -> Result<Outcome, Fault> {
        let store = self.issuer.store.clone();
        let Some(lock) = in_store(&store, Store::try_lock).await? else {
            return Ok(Outcome::Busy);
        };
        let name = self.name.clone();
        let held = in_store(&store, move |store| store.certificate(&name)).await;
        if let Ok(Some((_, found))) = held
            && found.is_good(SystemTime::now())
            && self.held_since.is_none_or(|since| found.not_before > since)
        {
            return Ok(Outcome::Found);
        }
        let pem = self.obtain(&directory).await;
        // Also those that a replica left open which ended while it ordered.
        let lock = in_store(&store, move |store| {
            store.close_challenges(&lock);
            Ok(lock)
        })
        .await?;
        self.keep(pem?, lock).await
    }

    /// Checks what came and puts it into the store, under the lock.
    async fn keep(&self, pem: String, lock: Lock) -> Result<Outcome, Fault> {
        let certificate = Certificate::read(&self.name, pem.as_bytes())?;
        if !certificate.is_good(SystemTime::now()) {
            return Err("the directory sent a certificate that has ended".into());
        }
        let name = self.name.clone();
        in_store(&self.issuer.store, move |store| {
            let saved = store.save_certificate(&name, &pem);
            drop(lock);
            saved
        })
        .await?;
        Ok(Outcome::Issued)
    }

    /// Key and chain, as PEM.
    async fn obtain(&self, directory: &Directory) -> Result<String, Fault> {
        let identifiers = [Identifier::Dns(self.name.clone())];
        let mut wanted = NewOrder::new(&identifiers);
        if let Some((issuer, serial)) = &self.replaces {
            wanted = wanted.replaces(CertificateIdentifier {
                authority_key_identifier: issuer.into(),
                serial: serial.into(),
            });
        }
        let account = self.account(directory).await?;
        let mut order = match account.new_order(&wanted).await {
            Err(error) if is_unknown_account(&error) => {
                // The directory has lost it: as a stranger, once.
                in_store(&self.issuer.store, Store::forget_account).await?;
                let account = self.account(directory).await?;
                account.new_order(&wanted).await?
            }
            order => order?,
        };
        let state = order.state().status;
        if state == OrderStatus::Pending {
            self.answer(&mut order).await?;
            if order.poll_ready(&patience()).await? == OrderStatus::Invalid {
                return Err(problem_of(&mut order).await);
            }
        } else if state != OrderStatus::Ready {
            return Err(format!("a new order is {state:?}").into());
        }
        let request = certificate::request(&self.name)?;
        order.finalize_csr(&request.csr).await?;
        let chain = order.poll_certificate(&patience()).await?;
        Ok(format!("{}{chain}", *request.key))
    }

    async fn account(&self, directory: &Directory) -> Result<Account, Fault> {
        let store = &self.issuer.store;
        let builder = Account::builder_with_http(Box::new(directory.clone()));
        if let Some(json) = in_store(store, Store::account).await? {
            let kept: AccountCredentials = serde_json::from_slice(&json)
                .map_err(|e| format!("account.json is damaged, remove it: {e}"))?;
            return Ok(builder.from_credentials(kept).await?);
        }
        let spec = &self.issuer.spec;
        let external = match &spec.external_account {
            None => None,
            Some(external) => {
                let file = external.key_file.clone();
                let key = beside(move || Ok(external_key(&file)?)).await?;
                Some(ExternalAccountKey::new(external.key_id.clone(), &key))
            }
        };
        let contact: Vec<&str> = spec.contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let (account, credentials) = builder
            .create(&new, spec.directory.clone(), external.as_ref())
            .await?;
        let json = zeroize::Zeroizing::new(serde_json::to_vec(&credentials)?);
        in_store(store, move |store| store.save_account(&json)).await?;
        tracing::info!(acme = %self.issuer.name, account = %printable(account.id()), "ACME account");
        Ok(account)
    }

    /// Opens what the directory wants to see, and says so.
    async fn answer(&self, order: &mut Order) -> Result<(), Fault> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let kind = match self.issuer.spec.challenge {
                AcmeChallenge::Http01 => ChallengeType::Http01,
                AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
            };
            let mut challenge = authorization
                .challenge(kind)
                .ok_or("the directory does not offer this challenge for the name")?;
            let (name, token) = (self.name.clone(), challenge.token.clone());
            let key_authorization = challenge.key_authorization().as_str().to_owned();
            let kind = self.issuer.spec.challenge;
            in_store(&self.issuer.store, move |store| {
                let proof = match kind {
                    AcmeChallenge::Http01 => Proof::Token(&token),
                    AcmeChallenge::TlsAlpn01 => Proof::Name(&name),
                };
                store.open_challenge(proof, &key_authorization)
            })
            .await?;
            challenge.set_ready().await?;
        }
        Ok(())
    }
}

const fn patience() -> RetryPolicy {
    RetryPolicy::new()
        .initial_delay(Duration::from_millis(250))
        .backoff(1.5)
        .timeout(POLL)
}

fn is_unknown_account(error: &Error) -> bool {
    let kind = match error {
        Error::Api(problem) => problem.r#type.as_deref(),
        _ => None,
    };
    kind == Some("urn:ietf:params:acme:error:accountDoesNotExist")
}

/// Why an order is invalid: its challenges know.
async fn problem_of(order: &mut Order) -> Fault {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else {
            continue;
        };
        if let Some(problem) = state.challenges.iter().find_map(|c| c.error.clone()) {
            return problem.into();
        }
    }
    "the directory did not accept the proof".into()
}

/// The key of an external account, as its file has it.
///
/// # Errors
/// When the file cannot be read, or is not base64url.
pub fn external_key(file: &str) -> Result<Vec<u8>, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    let text = zeroize::Zeroizing::new(text);
    URL_SAFE_NO_PAD
        .decode(text.trim().trim_end_matches('='))
        .map_err(|e| format!("{file}: not base64url: {e}"))
}

/// What others wrote, for the log: one line, of a bounded length.
fn printable(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(1000).collect()
}

/// Works on files beside the control runtime: a network file system may hang.
async fn in_store<T: Send + 'static>(
    store: &Store,
    work: impl FnOnce(&Store) -> std::io::Result<T> + Send + 'static,
) -> Result<T, Fault> {
    let store = store.clone();
    beside(move || Ok(work(&store).map_err(|e| format!("store: {e}"))?)).await
}

async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await?
}
