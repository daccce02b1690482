//! Test API server: bodies of its answers: one piece, or a watch that goes on.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::Frame;
use serde_json::Value;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::refusal::Refusal;

/// See the module.
#[derive(Debug)]
pub(super) enum Body {
    Whole(Option<Bytes>),
    /// An error in it ends the connection in the middle of a line.
    Lines(Receiver<io::Result<Bytes>>),
}

pub(super) type Response = hyper::Response<Body>;

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Lines(lines) => {
                let next = lines.poll_recv(cx);
                next.map(|line| line.map(|bytes| bytes.map(Frame::data)))
            }
        }
    }
}

/// A body that goes on, and where its lines are put.
pub(super) fn lines() -> (Sender<io::Result<Bytes>>, Body) {
    let (sender, receiver) = channel(16);
    (sender, Body::Lines(receiver))
}

pub(super) fn json(code: u16, value: &Value) -> Response {
    respond(code, Body::Whole(Some(value.to_string().into())))
}

pub(super) fn respond(code: u16, body: Body) -> Response {
    hyper::Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .header("cache-control", "no-cache, private")
        .body(body)
        .unwrap()
}

/// What hyper asks of a service: refusals are answers too.
pub(super) fn settle(answer: Result<Response, Refusal>) -> Result<Response, Infallible> {
    Ok(answer.unwrap_or_else(|refusal| {
        let mut response = json(refusal.code, &refusal.status());
        if refusal.code == 429 {
            response
                .headers_mut()
                .insert("retry-after", "1".parse().unwrap());
        }
        response
    }))
}
