//! Connections that end while their clients still read: nothing of an answer is lost to one that is slow, also where it
//! goes on uploading what nobody wants any more.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::park_timeout;
use std::time::Duration;

use selvedge_tests::http2::{
    DATA, END_STREAM, Http2, data, frame, headers, request, settings, window,
};
use selvedge_tests::{PATIENCE, Selvedge, Upstream, gateway};
use socket2::{Domain, Socket, Type};

const BODY: usize = 3_000_000;
/// What a client takes at a time, and how long it takes over it: slower by far than the application.
const PIECE: usize = 16 << 10;
const PAUSE: Duration = Duration::from_millis(8);

/// Answers each request with a large body, before it has read the request's.
fn upstream() -> Upstream {
    Upstream::scripted(|connection| {
        if connection.until(b"\r\n\r\n").is_some() {
            connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n"));
            connection.send(vec![b'x'; BODY]);
            connection.drain();
        }
    })
}

fn proxy(upstream: &Upstream) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}
limits: {{ body: 1GiB, requestsPerConnection: 1 }}",
        upstream.address()
    ))
}

fn narrow(proxy: &Selvedge) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(PIECE).unwrap();
    socket.connect(&proxy.address("web").into()).unwrap();
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn an_http1_answer_reaches_a_slow_client_that_still_uploads() {
    let upstream = upstream();
    let proxy = proxy(&upstream);
    let mut client = narrow(&proxy);
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
        .unwrap();
    let mut upload = client.try_clone().unwrap();
    let uploading = std::thread::spawn(move || {
        let piece = [b'u'; PIECE];
        while upload.write_all(&piece).is_ok() {}
    });
    let (mut got, mut piece) = (Vec::new(), vec![0; PIECE]);
    let ended = loop {
        match client.read(&mut piece) {
            Ok(0) => break Ok(()),
            Ok(n) => got.extend_from_slice(&piece[..n]),
            Err(error) => break Err(error),
        }
        park_timeout(PAUSE);
    };
    let _ = client.shutdown(Shutdown::Both);
    uploading.join().unwrap();
    let head = got.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(got.len() - head, BODY, "{ended:?}");
}

#[test]
fn an_http2_answer_reaches_a_slow_client_that_still_uploads() {
    let upstream = upstream();
    let proxy = proxy(&upstream);
    let most = 0x7fff_ffff;
    let mut client = Http2::narrow(proxy.address("web"), &[(4, most)], PIECE);
    client.send(window(0, most - 65_535));
    client.send(headers(1, &request("POST", "/", &[]), false));
    // As much as there is credit for.
    client.send([data(1, [b'u'; 16 << 10], false).repeat(3), settings(&[])].concat());
    let (mut got, mut ended) = (0, false);
    while !ended && let Some(read) = client.next_frame() {
        if read.kind == DATA {
            got += read.payload.len();
            ended = read.flags & END_STREAM != 0;
            // A client may say what it likes: here, what nobody knows.
            client.send(frame(0xfa, 0, 0, &[0; 4000]));
            park_timeout(PAUSE);
        }
    }
    assert_eq!((got, ended), (BODY, true));
}
