//! Clients of TLS that say which name they want, for listeners that look into nothing.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, ClientConnection, Error, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::{PATIENCE, TestCa};

/// A session with whoever has a certificate of this CA for the name.
pub type Session = StreamOwned<ClientConnection, TcpStream>;

/// What a client of this CA begins with; an address asks for no name. No protocol is offered without `alpn`.
#[must_use]
pub fn opening(ca: &TestCa, name: &str, alpn: &[&str]) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(ca.bundle().as_bytes()).unwrap();
    roots.add(root).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

/// Connects and shakes hands.
///
/// # Errors
/// What the handshake ended with.
pub fn connect(address: SocketAddr, ca: &TestCa, name: &str) -> io::Result<Session> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut session = StreamOwned::new(opening(ca, name, &["h2", "x-own"]), stream);
    while session.conn.is_handshaking() {
        session.conn.complete_io(&mut session.sock)?;
    }
    Ok(session)
}

/// The alert of a refused handshake.
///
/// # Panics
/// When it was refused without one.
#[must_use]
pub fn alert(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    match inner {
        Some(Error::AlertReceived(alert)) => format!("{alert:?}"),
        _ => panic!("{error:?}"),
    }
}

/// Says this, and hears it again.
///
/// # Panics
/// When something else comes back.
pub fn hears(session: &mut Session, what: &[u8]) {
    session.write_all(what).unwrap();
    let mut got = vec![0; what.len()];
    session.read_exact(&mut got).unwrap();
    assert_eq!(got, what);
}

/// `certificates` of a listener, for these names.
#[must_use]
pub fn certificates(ca: &TestCa, dir: &Path, names: &[&str]) -> String {
    let (certificate, key) = ca
        .server(names)
        .write(dir, names[0].trim_start_matches("*."));
    format!(
        "certificates: [{{ certificate: {}, key: {} }}]",
        certificate.display(),
        key.display()
    )
}
