//! Part of stage 4, the spine: a body that a policy wants to see whole is read before the request goes
//! on, and left where it was.

use bytes::{Bytes, BytesMut};
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
    reserve: &mut Reserve,
) -> Result<Bytes, ErrorKind> {
    let coming = std::mem::replace(body, Body::Empty);
    let read = match coming {
        // Somebody else has held it already.
        Body::Full(read) if read.len() <= most => read,
        coming => {
            let reading = read(coming, most, reserve);
            match until {
                None => reading.await?,
                Some(at) => timeout_at(at, reading)
                    .await
                    .unwrap_or(Err(ErrorKind::BodyTimeout))?,
            }
        }
    };
    *body = Body::Full(read.clone());
    Ok(read)
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
