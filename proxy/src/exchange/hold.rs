//! Part of stage 4, the spine: a body that a policy wants to see whole is read before the request goes
//! on, and left where it was.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use selvedge_contract::defaults::policy::HOLD;
use tokio::time::{Instant, timeout_at};

use crate::error::ErrorKind;
use crate::message::{Body, Chunk, Reserve};

/// Reads a body of at most `most` bytes, until its request must be done.
///
/// # Errors
/// Those of the body: then nothing of it is left, and nothing may be sent.
/// [`ErrorKind::BodyTooLarge`], [`ErrorKind::BodyTimeout`]; [`ErrorKind::Overloaded`] where too many
/// bodies are held.
pub(super) async fn hold(
    body: &mut Body,
    most: usize,
    until: Option<Instant>,
    waited: &Waited,
    reserve: &mut Reserve,
) -> Result<Bytes, ErrorKind> {
    let coming = std::mem::replace(body, Body::Empty);
    let read = match coming {
        // Somebody else has held it already.
        Body::Full(read) if read.len() <= most => read,
        coming => {
            let reading = Box::pin(read(coming, most, reserve));
            in_time(
                reading,
                until.unwrap_or_else(|| Instant::now() + HOLD),
                waited,
            )
            .await
            .unwrap_or(Err(ErrorKind::BodyTimeout))?
        }
    };
    *body = Body::Full(read.clone());
    Ok(read)
}

/// Time that a body was made to wait, if a policy slows it down.
pub(super) type Waited = Option<Rc<Cell<Duration>>>;

/// What a future gives, if it does so until then; what its body was made to wait is not counted.
pub(super) async fn in_time<F: Future + Unpin>(
    mut future: F,
    until: Instant,
    waited: &Waited,
) -> Option<F::Output> {
    let so_far = || {
        waited
            .as_ref()
            .map_or(Duration::ZERO, |waited| waited.get())
    };
    let mut granted = so_far();
    loop {
        match timeout_at(until + granted, &mut future).await {
            Ok(output) => return Some(output),
            Err(_) if so_far() > granted => granted = so_far(),
            Err(_) => return None,
        }
    }
}

async fn read(mut body: Body, most: usize, reserve: &mut Reserve) -> Result<Bytes, ErrorKind> {
    let mut all = BytesMut::new();
    loop {
        match std::future::poll_fn(|cx| body.poll_chunk(cx)).await? {
            Some(Chunk::Data(data)) if all.len() + data.len() > most => {
                return Err(ErrorKind::BodyTooLarge);
            }
            Some(Chunk::Data(data)) => {
                reserve.grow(data.len())?;
                all.extend_from_slice(&data);
            }
            // They are not of its data, and nobody has signed them.
            Some(Chunk::Trailers(_)) => {}
            None => return Ok(all.freeze()),
        }
    }
}
