//! A client that asks the injector as an API server does: by name, verified by the roots it was told, over
//! HTTP/1.1.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::control_plane::WEBHOOK;
use crate::process::Selvedge;

/// See the module.
#[derive(Clone)]
pub struct Caller {
    address: std::net::SocketAddr,
    connector: TlsConnector,
}

/// A connection to the webhook.
pub type Connection = TlsStream<TcpStream>;

impl Caller {
    /// One that trusts these roots.
    #[must_use]
    pub fn new(injector: &Selvedge, bundle: &str) -> Self {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            address: injector.address("webhook"),
            connector: TlsConnector::from(Arc::new(config)),
        }
    }

    /// Connects; the certificate must be good for the webhook's name.
    ///
    /// # Errors
    /// When it is not.
    pub async fn connect(&self) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(WEBHOOK).unwrap();
        self.connector.connect(name, stream).await
    }

    /// A connection for several questions.
    pub async fn open(&self) -> Asking {
        let stream = self.connect().await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Asking { sender }
    }

    /// Asks once.
    pub async fn ask(&self, path: &str, body: impl Into<Bytes>) -> (u16, Value) {
        self.open().await.ask(path, body).await
    }
}

/// A connection on which questions are asked.
pub struct Asking {
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Asking {
    /// Asks; gives the status and the answer, which is a text where it is no JSON.
    pub async fn ask(&mut self, path: &str, body: impl Into<Bytes>) -> (u16, Value) {
        self.ask_as(path, "POST", "application/json", body).await
    }

    /// The same in another manner.
    pub async fn ask_as(
        &mut self,
        path: &str,
        method: &str,
        kind: &str,
        body: impl Into<Bytes>,
    ) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}?timeout=10s"))
            .header(header::HOST, WEBHOOK)
            .header(header::CONTENT_TYPE, kind)
            .body(Full::new(body.into()))
            .unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        let value = serde_json::from_slice(&body);
        (status, value.unwrap_or(Value::String(text)))
    }
}

/// A review of a pod that is to be created.
#[must_use]
pub fn review(namespace: &str, object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "0df28fbd-5f5f-11e8-bc74-36e6bb280816",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "name": "", "namespace": namespace, "operation": "CREATE",
            "userInfo": { "username": "admin", "groups": ["system:authenticated"] },
            "object": object, "oldObject": null, "dryRun": false,
            "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
        },
    })
}

/// The patch of an answer, and what it makes of the object.
///
/// # Panics
/// When there is none, or it does not apply.
#[must_use]
pub fn applied(object: &Value, answer: &Value) -> (Value, Value) {
    let response = &answer["response"];
    assert_eq!(response["patchType"], "JSONPatch", "{answer}");
    let text = STANDARD.decode(response["patch"].as_str().unwrap());
    let written: Value = serde_json::from_slice(&text.unwrap()).unwrap();
    let patch: json_patch::Patch = serde_json::from_value(written.clone()).unwrap();
    let mut after = object.clone();
    json_patch::patch(&mut after, &patch).unwrap();
    (written, after)
}
