//! Test API server: its socket, TLS, and connections of HTTP/1.1 and HTTP/2.

use std::net::TcpListener as Listener;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::{Shared, answer, body};

/// Accepts until `here` is false, then cuts every connection.
pub(super) async fn serve(
    shared: Arc<Shared>,
    listener: Listener,
    tls: Arc<ServerConfig>,
    mut here: watch::Receiver<bool>,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let mut cut = here.clone();
        // Both only wait: a connection that is not accepted now is refused with the socket.
        tokio::select! {
            _ = here.wait_for(|here| !here) => return,
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let connection = connection(shared.clone(), acceptor.clone(), stream);
                tokio::spawn(async move {
                    // Dropped in the middle of whatever it does: that is what is wanted.
                    tokio::select! {
                        _ = cut.wait_for(|here| !here) => {}
                        () = connection => {}
                    }
                });
            }
        }
    }
}

async fn connection(shared: Arc<Shared>, acceptor: TlsAcceptor, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { body::settle(answer::answer(shared, request).await) }
    });
    let stream = TokioIo::new(stream);
    // A client that goes away in the middle is no fault of a test.
    if h2 {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(stream, service).await;
    } else {
        let builder = hyper::server::conn::http1::Builder::new();
        let _ = builder.serve_connection(stream, service).await;
    }
}
