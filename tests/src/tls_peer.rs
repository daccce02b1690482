//! A peer of the mesh that shows whatever certificate a test wants, and believes everybody.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::PATIENCE;
use crate::certs::Leaf;

/// A connection with TLS of the mesh on it.
pub struct TlsPeer(StreamOwned<ClientConnection, TcpStream>);

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A status of HTTP.
    Answered(u16),
    /// An alert of TLS, by its name in rustls.
    Alert(String),
    /// The connection ended without a word.
    Ended,
}

impl TlsPeer {
    /// Connects and shakes hands. With TLS 1.3 a client is done before it is refused.
    ///
    /// # Errors
    /// What the handshake ended with.
    pub fn connect(address: SocketAddr, leaf: Option<&Leaf>, alpn: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut session = session(address, leaf, alpn, rustls::DEFAULT_VERSIONS);
        let mut socket = stream;
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        Ok(Self(StreamOwned::new(session, socket)))
    }

    /// Connects, asks for `/` over HTTP/1.1, and tells what came of it.
    #[must_use]
    pub fn ask(address: SocketAddr, leaf: Option<&Leaf>) -> Outcome {
        match Self::connect(address, leaf, "http/1.1") {
            Ok(mut peer) => peer.get(),
            Err(error) => outcome_of(&error),
        }
    }

    /// One request on this connection.
    pub fn get(&mut self) -> Outcome {
        self.request("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    }

    /// One request, whose head is all there is of it.
    pub fn request(&mut self, head: &str) -> Outcome {
        let sent = self.send(head);
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match self.0.read(&mut byte) {
                Ok(0) => return Outcome::Ended,
                Ok(_) => head.push(byte[0]),
                Err(error) => return outcome_of(&error),
            }
        }
        drop(sent);
        let head = String::from_utf8_lossy(&head).into_owned();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().unwrap())
        });
        let mut body = vec![0; length.unwrap_or(0)];
        let _ = self.0.read_exact(&mut body);
        let status = head.split(' ').nth(1).unwrap_or_default();
        Outcome::Answered(status.parse().unwrap())
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// What the socket says.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.write_all(bytes.as_ref())?;
        self.0.flush()
    }

    /// Reads this many bytes.
    pub fn expect(&mut self, bytes: &[u8]) {
        let mut found = vec![0; bytes.len()];
        self.0.read_exact(&mut found).unwrap();
        assert_eq!(found, bytes);
    }

    /// Reads until the other side has ended the connection, for so long that it must have.
    #[must_use]
    pub fn rest(&mut self, patience: std::time::Duration) -> Vec<u8> {
        self.0.sock.set_read_timeout(Some(patience)).unwrap();
        let mut all = Vec::new();
        let mut some = [0; 4096];
        loop {
            match self.0.read(&mut some) {
                Ok(0) => return all,
                Ok(n) => all.extend_from_slice(&some[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    panic!("still open after {patience:?}")
                }
                Err(_) => return all,
            }
        }
    }
}

/// A client's side of TLS for this address, which shows `leaf` and believes everybody.
#[must_use]
pub fn session(
    address: SocketAddr,
    leaf: Option<&Leaf>,
    alpn: &str,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConnection {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believes))
        .with_client_cert_resolver(Arc::new(Shows(leaf.map(key_of))));
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config.resumption = Resumption::disabled();
    let name = ServerName::from(address.ip());
    ClientConnection::new(Arc::new(config), name).unwrap()
}

/// What a handshake ended with.
#[must_use]
pub fn outcome_of(error: &io::Error) -> Outcome {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    match inner {
        Some(Error::AlertReceived(alert)) => Outcome::Alert(format!("{alert:?}")),
        _ => Outcome::Ended,
    }
}

/// The chain and the key, as they are: nothing is checked.
pub(crate) fn key_of(leaf: &Leaf) -> Arc<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes());
    let chain: Vec<_> = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
    Arc::new(CertifiedKey::new(chain, key))
}

#[derive(Debug)]
struct Shows(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

#[derive(Debug)]
pub(crate) struct Believes;

impl ServerCertVerifier for Believes {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider: CryptoProvider = aws_lc_rs::default_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
