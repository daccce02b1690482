//! What the CA says is trusted: followed for as long as the process lives, and acknowledged, so that the CA
//! knows when a root can be replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::RootCertStore;
use selvedge_contract::defaults::process::RENEW_BACKOFF;
use selvedge_contract::sign::{Bundle, Held, TrustClient};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::IdentityError;
use super::ca_client::{CALL, Caller, failed, refused};

/// Longest bundle in bytes: a hundred roots.
const BUNDLE: usize = 256 * 1024;
/// A CA that does not know of this call is asked again after this: it may have been replaced.
const FOREIGN: Duration = Duration::from_secs(600);
/// Most roots that are remembered as gone.
const GONE: usize = 256;
/// Before there is a certificate there is nothing to be known by.
const LOOK: Duration = Duration::from_millis(200);

/// The shortest pause between two attempts.
const FIRST: Duration = Duration::from_millis(500);

/// Why following ended.
enum End {
    /// The CA ended it, as it does when the certificate that was shown ends.
    Over,
    /// The CA is somebody else's.
    Foreign,
    Failed(IdentityError),
}

/// Follows until the runtime ends. `said` is set once the CA has said anything.
pub(super) async fn follow(caller: Caller, said: Arc<AtomicBool>) {
    let mut pause = FIRST;
    loop {
        while !caller.store.is_ready() {
            sleep(LOOK).await;
        }
        let wait = match once(&caller, &said, &mut pause).await {
            End::Over => FIRST,
            End::Foreign => FOREIGN,
            End::Failed(error) => {
                tracing::warn!(%error, "trust is not followed");
                let wait = pause;
                pause = (pause * 2).min(RENEW_BACKOFF);
                wait
            }
        };
        // A restarted CA is not to be met by everybody at once.
        sleep(wait.mul_f64(0.2 + fastrand::f64())).await;
    }
}

/// Over one connection. Whoever is heard is asked again soon after: `pause` is short then.
async fn once(caller: &Caller, said: &AtomicBool, pause: &mut Duration) -> End {
    let connected = timeout(CALL, caller.connect(true)).await;
    let (sender, connection) = match connected.unwrap_or_else(|_| Err(failed("no answer in time")))
    {
        Ok(connected) => connected,
        Err(error) => return End::Failed(error),
    };
    let connection = tokio::spawn(connection);
    let service = tower::service_fn(move |request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let ended = match caller.origin() {
        Ok(origin) => {
            let client = TrustClient::with_origin(service, origin);
            let client = client.max_decoding_message_size(BUNDLE);
            let ended = listen(caller, client, said, pause);
            ended.await
        }
        Err(error) => End::Failed(error),
    };
    connection.abort();
    ended
}

/// Remembers which of these roots are trusted no more, so that the file does not bring them back: whoever
/// has the key of a retired root must not pass for the CA.
fn forget(caller: &Caller, trusted: &RootCertStore) {
    let now = caller.store.bundle();
    let mut gone = caller.gone.load().as_ref().clone();
    gone.extend(trusted.roots.iter().cloned());
    gone.retain(|root| !now.roots.contains(root));
    let surplus = gone.len().saturating_sub(GONE);
    gone.drain(..surplus);
    caller.gone.store(Arc::new(gone));
}

/// The first certificate of a bundle.
fn first(pem: &str) -> &str {
    let end = "-----END CERTIFICATE-----";
    pem.split_once(end).map_or(pem, |(first, _)| first).trim()
}

async fn listen<S>(
    caller: &Caller,
    mut client: TrustClient<S>,
    said: &AtomicBool,
    pause: &mut Duration,
) -> End
where
    S: tonic::client::GrpcService<tonic::body::Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::ResponseBody: tonic::codegen::Body<Data = bytes::Bytes> + Send + 'static,
    <S::ResponseBody as tonic::codegen::Body>::Error:
        Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let (acknowledge, held) = mpsc::channel(1);
    let begun = timeout(CALL, client.follow(ReceiverStream::new(held))).await;
    let mut bundles = match begun {
        Ok(Ok(bundles)) => bundles.into_inner(),
        Ok(Err(status)) if status.code() == Code::Unimplemented => return End::Foreign,
        Ok(Err(status)) => return End::Failed(refused(&status)),
        Err(_) => return End::Failed(failed("no answer in time")),
    };
    loop {
        let Bundle { pem, jwks } = match bundles.message().await {
            Ok(Some(bundle)) => bundle,
            Ok(None) => return End::Over,
            Err(status) if status.code() == Code::Unimplemented => return End::Foreign,
            Err(status) => return End::Failed(refused(&status)),
        };
        let before = caller.store.bundle_pem();
        let trusted = caller.store.bundle();
        match caller.store.replace_own(&pem, Some(&jwks)) {
            Ok(true) => {
                tracing::info!("other roots are trusted now");
                forget(caller, &trusted);
                // The first is the one that signs.
                if first(&before) != first(&pem) {
                    caller.renew.send_modify(|times| *times += 1);
                }
            }
            Ok(false) => {}
            Err(error) => return End::Failed(error.into()),
        }
        said.store(true, Relaxed);
        *pause = FIRST;
        let held = Held {
            instance: caller.instance.to_string(),
            sha256: digest(&SHA256, &[pem, jwks].concat().into_bytes())
                .as_ref()
                .to_vec(),
        };
        if acknowledge.send(held).await.is_err() {
            return End::Over;
        }
    }
}
