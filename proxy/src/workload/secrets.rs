//! The same certificates as an Envoy asks for them: secret discovery (SDS), with names as SPIRE and Istio have
//! them.

use std::sync::Arc;

use selvedge_contract::defaults::workload::{NAMES, PATIENCE};
use selvedge_contract::workload::secrets::secret::Type;
use selvedge_contract::workload::secrets::secret_discovery_service_server::SecretDiscoveryService;
use selvedge_contract::workload::secrets::spiffe_cert_validator_config::TrustDomain;
use selvedge_contract::workload::secrets::{
    CertificateValidationContext, DataSource, DiscoveryRequest, DiscoveryResponse, Secret,
    SpiffeCertValidatorConfig, TlsCertificate, TypedExtensionConfig,
};
use selvedge_contract::workload::{Any, Message};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::follow::{Answers, Changes, mark, shutdown};
use super::x509::none_yet;
use crate::identity::applicant::{Applicant, Svid};
use crate::tls::IdentityStore;
use crate::tls::published::{pem, pem_of};
use crate::tls::trust::Trust;

/// The application's certificate.
const DEFAULT: &str = "default";
/// The roots of the own trust domain.
const ROOTS: &str = "ROOTCA";
/// Those of every trust domain, each for its own peers.
const ALL: &str = "ALL";
/// What is asked for and given.
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const VALIDATOR: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// See the module; a clone shares everything.
#[derive(Debug, Clone)]
pub(super) struct SecretService {
    applicant: Arc<Applicant>,
}

impl SecretService {
    pub(super) const fn new(applicant: Arc<Applicant>) -> Self {
        Self { applicant }
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for SecretService {
    type StreamSecretsStream = Answers<DiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let ended = shutdown(&request)?;
        let (answers, stream) = mpsc::channel(1);
        let envoy = Envoy {
            applicant: self.applicant.clone(),
            names: Vec::new(),
            given: 0,
            last: Vec::new(),
        };
        // Ends with the stream, or with the endpoint.
        tokio::spawn(async move {
            let says = request.into_inner();
            if let Err(status) = envoy.run(says, ended, &answers).await {
                let _ = timeout(PATIENCE, answers.send(Err(status))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let names = request.into_inner();
        check(&names)?;
        let names = names.resource_names;
        let mut changes = Changes::of(&self.applicant, wants_certificate(&names)).await;
        let resources = resources(self.applicant.store(), changes.seen().as_deref(), &names)?;
        Ok(Response::new(DiscoveryResponse {
            version_info: "1".to_owned(),
            resources,
            type_url: SECRET.to_owned(),
            nonce: String::new(),
        }))
    }
}

fn check(request: &DiscoveryRequest) -> Result<(), Status> {
    if !request.type_url.is_empty() && request.type_url != SECRET {
        return Err(Status::invalid_argument("only secrets are served"));
    }
    if request.resource_names.len() > NAMES {
        return Err(Status::invalid_argument(format!("more than {NAMES} names")));
    }
    Ok(())
}

/// No names are all of them.
fn wants_certificate(names: &[String]) -> bool {
    let is_own = |name: &String| name == DEFAULT || name.matches('/').count() > 2;
    names.is_empty() || names.iter().any(is_own)
}

/// One stream.
struct Envoy {
    applicant: Arc<Applicant>,
    /// What was asked for last.
    names: Vec<String>,
    /// How often it was answered: version and nonce of the last answer.
    given: u64,
    /// What tells the last answer from the next.
    last: Vec<u8>,
}

type Sender = mpsc::Sender<Result<DiscoveryResponse, Status>>;

impl Envoy {
    async fn run(
        mut self,
        mut says: Streaming<DiscoveryRequest>,
        ended: CancellationToken,
        answers: &Sender,
    ) -> Result<(), Status> {
        let mut changes: Option<Changes> = None;
        loop {
            let changed = async {
                match &mut changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = ended.cancelled() => return Err(Status::unavailable("the sidecar ends")),
                () = answers.closed() => return Ok(()),
                () = changed => {}
                said = says.message() => {
                    let Some(said) = said? else { return Ok(()) };
                    check(&said)?;
                    if !self.is_new(said) {
                        continue;
                    }
                    let with = wants_certificate(&self.names);
                    changes = Some(Changes::of(&self.applicant, with).await);
                    self.last.clear();
                }
            }
            if let Some(changes) = &mut changes {
                let svid = changes.seen();
                if !self.answer(svid.as_deref(), answers).await? {
                    return Ok(());
                }
            }
        }
    }

    /// Whether something else is asked for now; otherwise it was the word on an answer, or on one before.
    fn is_new(&mut self, said: DiscoveryRequest) -> bool {
        if let Some(error) = said.error_detail {
            tracing::warn!(error = error.message, "an Envoy refuses its secrets");
        }
        let first = self.given == 0;
        if !first && said.response_nonce != self.given.to_string() {
            return false;
        }
        let other = first || said.resource_names != self.names;
        self.names = said.resource_names;
        other
    }

    /// Whether it can still be told anything.
    async fn answer(&mut self, svid: Option<&Svid>, answers: &Sender) -> Result<bool, Status> {
        let resources = resources(self.applicant.store(), svid, &self.names)?;
        let mut answer = DiscoveryResponse {
            version_info: String::new(),
            resources,
            type_url: SECRET.to_owned(),
            nonce: String::new(),
        };
        let made = mark(&answer);
        if made == self.last {
            return Ok(true);
        }
        self.last = made;
        self.given += 1;
        answer.version_info = self.given.to_string();
        answer.nonce = self.given.to_string();
        let sent = timeout(PATIENCE, answers.send(Ok(answer))).await;
        Ok(sent.is_ok_and(|sent| sent.is_ok()))
    }
}

/// The secrets of these names; of those that there are.
fn resources(
    store: &IdentityStore,
    svid: Option<&Svid>,
    names: &[String],
) -> Result<Vec<Any>, Status> {
    if !store.is_ready() {
        return Err(none_yet());
    }
    let trust = store.trust();
    let own = store.trust_domain().as_str();
    let all = [DEFAULT, ROOTS, ALL].map(str::to_owned);
    let names = if names.is_empty() { &all } else { names };
    let mut secrets = Vec::new();
    for name in names {
        let kind = match name.as_str() {
            ALL => Some(Type::ValidationContext(everybody(&trust))),
            ROOTS => roots(&trust, own).map(Type::ValidationContext),
            DEFAULT => Some(certificate(svid.ok_or_else(none_yet)?)),
            id => match id.strip_prefix("spiffe://") {
                Some(domain) if !domain.contains('/') => {
                    roots(&trust, domain).map(Type::ValidationContext)
                }
                Some(_) => {
                    let svid = svid.ok_or_else(none_yet)?;
                    (*svid.identity.id == *id).then(|| certificate(svid))
                }
                None => None,
            },
        };
        let Some(kind) = kind else {
            tracing::warn!(name, "an Envoy asks for a secret that there is not");
            continue;
        };
        let secret = Secret {
            name: name.clone(),
            r#type: Some(kind),
        };
        secrets.push(any(SECRET, &secret));
    }
    Ok(secrets)
}

fn any(type_url: &str, message: &impl Message) -> Any {
    Any {
        type_url: type_url.to_owned(),
        value: message.encode_to_vec(),
    }
}

fn inline(text: String) -> Option<DataSource> {
    Some(DataSource {
        inline_bytes: text.into_bytes(),
    })
}

fn certificate(svid: &Svid) -> Type {
    Type::TlsCertificate(TlsCertificate {
        certificate_chain: inline(pem(&svid.identity.key.cert)),
        private_key: inline(pem_of("PRIVATE KEY", &svid.key)),
    })
}

/// The roots of one trust domain.
fn roots(trust: &Trust, domain: &str) -> Option<CertificateValidationContext> {
    let published = trust.published.get(domain)?;
    Some(CertificateValidationContext {
        trusted_ca: inline(pem(&published.roots)),
        custom_validator_config: None,
    })
}

/// The roots of all, by which Envoy verifies each peer by those of its own trust domain.
fn everybody(trust: &Trust) -> CertificateValidationContext {
    let domains = trust
        .published
        .iter()
        .filter(|(_, is)| !is.roots.is_empty());
    let trust_domains = domains.map(|(name, published)| TrustDomain {
        name: name.clone(),
        trust_bundle: inline(pem(&published.roots)),
    });
    let config = SpiffeCertValidatorConfig {
        trust_domains: trust_domains.collect(),
    };
    CertificateValidationContext {
        trusted_ca: None,
        custom_validator_config: Some(TypedExtensionConfig {
            name: "envoy.tls.cert_validator.spiffe".to_owned(),
            typed_config: Some(any(VALIDATOR, &config)),
        }),
    }
}
