//! Beside the path: the question of `grpc.health.v1`, for health checks and for probes of the system.

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

/// Bytes of an answer.
const ANSWER: usize = 1024;
/// Bytes of a service's name: its length is then one byte.
pub const NAME: usize = 120;

/// Asks whether a service serves; the empty name stands for all of them.
///
/// # Errors
/// Why there is no answer, in words.
pub async fn check<S>(stream: S, host: &str, service: &str) -> Result<bool, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| told(&e))?;
    // Ends with this function.
    let mut driver = JoinSet::new();
    driver.spawn(async { drop(connection.await) });
    let name = u8::try_from(service.len()).ok();
    let name = name.filter(|length| usize::from(*length) < NAME);
    let name = name.ok_or("the name of the service is too long")?;
    // HealthCheckRequest { service = 1 } behind the prefix of a message.
    let mut body = vec![0, 0, 0, 0, name + 2, 0x0a, name];
    body.extend_from_slice(service.as_bytes());
    let uri = Uri::builder()
        .scheme("http")
        .authority(host)
        .path_and_query("/grpc.health.v1.Health/Check");
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri.build().map_err(|e| told(&e))?)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(body)));
    let answer = sender.send_request(request.map_err(|e| told(&e))?).await;
    let answer: Response<_> = answer.map_err(|e| told(&e))?;
    let status = answer.headers().get("grpc-status").cloned();
    let body = Limited::new(answer.into_body(), ANSWER).collect().await;
    let body = body.map_err(|error| error.to_string())?;
    let ended = body
        .trailers()
        .and_then(|t| t.get("grpc-status"))
        .cloned()
        .or(status);
    if ended.is_none_or(|status| status != "0") {
        return Err("the health service gives an error".to_owned());
    }
    // HealthCheckResponse { status = SERVING }.
    Ok(matches!(body.to_bytes().get(5..), Some([0x08, 1, ..])))
}
