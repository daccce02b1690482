//! What is known of an issuer: its metadata and its keys, fetched before they are needed, and the
//! questions that are put to it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use rustls::ClientConfig;
use selvedge_contract::defaults::policy::{ISSUER_BYTES, ISSUER_QUESTIONS, REFRESHES};
use selvedge_gateway::oidc::provider::metadata_of;
use selvedge_gateway::oidc::{Provider, Session};
use tokio::sync::Semaphore;

use crate::error::{Error, ErrorKind};
use crate::fetch::{self, Address, AddressError, FetchError, Question};
use crate::policy::document::Document;
use crate::policy::flights::Flights;
use crate::policy::keys::{self, KeySource};

/// Why a question to an issuer brought nothing.
#[derive(Debug, Clone)]
pub struct Failed {
    /// What the user is told.
    pub kind: ErrorKind,
    /// What the log is told.
    why: Arc<str>,
}

impl Failed {
    /// With a reason.
    pub fn new(kind: ErrorKind, why: impl std::fmt::Display) -> Self {
        Self {
            kind,
            why: why.to_string().into(),
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        Self::with(failed.kind, failed.why.to_string())
    }
}

impl From<FetchError> for Failed {
    fn from(error: FetchError) -> Self {
        let kind = match &error {
            FetchError::Size(_) => ErrorKind::IssuerFailed,
            FetchError::Http(http) if http.is_parse() => ErrorKind::IssuerFailed,
            _ => ErrorKind::IssuerLost,
        };
        Self::new(kind, error)
    }
}

/// What an issuer has said of itself.
#[derive(Debug)]
pub struct Known {
    /// Its metadata.
    pub provider: Provider,
    /// Its keys.
    pub keys: Arc<KeySource>,
    /// Where codes become tokens.
    pub token: Address,
    /// Where further claims are.
    pub userinfo: Option<Address>,
}

/// An issuer, shared by every policy that names it.
#[derive(Debug)]
pub struct Issuer {
    document: Arc<Document<Known>>,
    tls: Arc<ClientConfig>,
    /// Questions that may be put to it now.
    places: Semaphore,
    /// Sessions whose tokens are being replaced, or were a moment ago.
    pub refreshes: Arc<Flights<Result<Arc<Session>, Failed>>>,
}

impl Issuer {
    /// One whose metadata a task fetches, now and again. Must be called on a runtime.
    ///
    /// # Errors
    /// Where `issuer` is no address.
    pub fn remote(issuer: &str, tls: Arc<ClientConfig>) -> Result<Arc<Self>, AddressError> {
        let address: Address = metadata_of(issuer).parse()?;
        let (name, own) = (issuer.to_owned(), tls.clone());
        let mut last: Option<(String, Arc<KeySource>)> = None;
        let read = move |text: &[u8]| {
            let provider = Provider::read(text, &name).map_err(|e| e.to_string())?;
            let address = |url: &str| url.parse::<Address>().map_err(|e| format!("`{url}`: {e}"));
            let token = address(&provider.token)?;
            let userinfo = provider.userinfo.as_deref().map(address).transpose()?;
            let jwks = address(&provider.jwks)?;
            let keys = match &last {
                Some((url, keys)) if *url == provider.jwks => keys.clone(),
                _ => keys::remote(jwks, own.clone()),
            };
            last = Some((provider.jwks.clone(), keys.clone()));
            Ok(Known {
                provider,
                keys,
                token,
                userinfo,
            })
        };
        let document = Document::remote("metadata", address, tls.clone(), read);
        Ok(Self::with(document, tls))
    }

    /// One that is never asked.
    #[must_use]
    pub fn idle(tls: Arc<ClientConfig>) -> Arc<Self> {
        Self::with(Arc::new(Document::empty()), tls)
    }

    fn with(document: Arc<Document<Known>>, tls: Arc<ClientConfig>) -> Arc<Self> {
        Arc::new(Self {
            document,
            tls,
            places: Semaphore::new(ISSUER_QUESTIONS),
            refreshes: Flights::new(REFRESHES),
        })
    }

    /// What is known, if anything ever was.
    #[must_use]
    pub fn look(&self) -> Option<Arc<Known>> {
        self.document.load()
    }

    /// Has the metadata fetched, and waits for that a moment.
    pub async fn again(&self) {
        self.document.again().await;
    }

    /// What is known; waits a moment where that is nothing.
    ///
    /// # Errors
    /// [`ErrorKind::IssuerLost`].
    pub async fn known(&self) -> Result<Arc<Known>, Failed> {
        if self.look().is_none() {
            self.again().await;
        }
        let none = || Failed::new(ErrorKind::IssuerLost, "its metadata has never come");
        self.look().ok_or_else(none)
    }

    /// Asks one of its endpoints.
    ///
    /// # Errors
    /// [`ErrorKind::IssuerLost`], [`ErrorKind::IssuerFailed`].
    pub async fn ask(
        &self,
        address: &Address,
        question: Question,
        time: Duration,
    ) -> Result<Response<Bytes>, Failed> {
        let asked = async {
            let _place = self.places.acquire().await;
            fetch::ask(address, &self.tls, question, ISSUER_BYTES, time).await
        };
        let asked = tokio::time::timeout(time, asked).await;
        Ok(asked.unwrap_or(Err(FetchError::Timeout))?)
    }
}
