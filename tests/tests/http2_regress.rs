//! One test for each bug that a reviewer found in the HTTP/2 engine, named for it: what clients do.

use std::io::Write;
use std::time::{Duration, Instant};

use selvedge_tests::hostile::{echo, target};
use selvedge_tests::http2::{
    ACK, DATA, END_STREAM, GOAWAY, Http2, NO_ERROR, Outcome, PING, SETTINGS, block, data, frame,
    headers, request, reset, reset_for, settings, status_of, window,
};
use selvedge_tests::{Bell, PATIENCE, Raw, Seen, Selvedge, Upstream, gateway};
use socket2::SockRef;

/// A gateway before one service, whose `more` settings these are.
fn over(upstream: &Upstream, more: &str, limits: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ hostnames: [a], rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"]{more} }} }}
limits: {{ {limits} }}",
        upstream.address()
    ))
}

fn client(proxy: &Selvedge) -> Http2 {
    Http2::connect(proxy.address("web"), &[])
}

/// Another user is served.
fn serves(proxy: &Selvedge) -> bool {
    Raw::connect(proxy.address("web")).get("/own").status == 200
}

/// An upstream that says nothing to `/hostile`, and echoes all else.
fn silent() -> Upstream {
    Upstream::scripted(|connection| {
        while let Some(head) = connection.until(b"\r\n\r\n") {
            if target(&head) == "/hostile" {
                return connection.drain();
            }
            echo(connection, &head);
        }
    })
}

/// Answers PINGs until the connection ends. Says whether it does within seconds: one that spins
/// would fill all memory before the rig's patience is over.
fn ends_politely(client: &mut Http2) -> bool {
    let soon = Some(Duration::from_secs(3));
    client.stream().set_read_timeout(soon).unwrap();
    while let Some(read) = client.next_frame() {
        if read.kind == PING && read.flags & ACK == 0 {
            client.send(frame(PING, ACK, 0, &read.payload));
        }
    }
    matches!(client.stream().peek(&mut [0]), Ok(0))
}

#[test]
fn a_graceful_end_behind_the_last_stream_number_does_not_spin() {
    let upstream = Upstream::answering("ok");
    for (limits, by_signal) in [("downstreamIdle: 100ms", false), ("", true)] {
        let mut proxy = over(&upstream, "", limits);
        let mut client = client(&proxy);
        client.get(0x7fff_ffff, "/");
        let answer = Outcome::Answer(200, b"ok".to_vec());
        assert_eq!(client.outcome(0x7fff_ffff), answer);
        let (memory, cpu) = (proxy.resident(), proxy.cpu());
        if by_signal {
            proxy.signal("TERM");
        }
        assert!(ends_politely(&mut client), "{limits}");
        if by_signal {
            assert!(proxy.wait().success());
        } else {
            assert!(serves(&proxy));
            assert!(proxy.resident() < memory + (16 << 20));
            assert!(proxy.cpu() < cpu + Duration::from_millis(300));
        }
    }
}

#[test]
fn a_reset_behind_end_stream_does_not_let_a_cut_upload_look_complete() {
    let upstream = silent();
    let proxy = over(&upstream, "", "");
    for rest in [
        data(1, "", true),
        data(1, "rest", true),
        [
            data(1, [b'x'; 12_000], false),
            data(1, [b'x'; 12_000], true),
        ]
        .concat(),
    ] {
        let before = upstream.seen().len();
        let mut client = client(&proxy);
        let first = [
            headers(1, &request("POST", "/hostile", &[]), false),
            data(1, "first", false),
        ];
        client.send(first.concat());
        upstream.wait_until(|seen| seen.iter().skip(before).any(|s| s.text().contains("first")));
        client.send([rest, reset(1)].concat());
        let seen = upstream.wait_until(|seen| seen.iter().skip(before).any(|s| s.closed));
        assert!(seen[before].text().contains("chunked"), "{seen:?}");
        assert!(!seen[before].bytes.ends_with(b"0\r\n\r\n"), "{seen:?}");
    }
    // All of it in one write: nothing that is whole arrives either.
    let before = upstream.seen().len();
    let mut client = client(&proxy);
    let head = headers(1, &request("POST", "/hostile", &[]), false);
    client.send([head, data(1, "all", true), reset(1)].concat());
    client.settle();
    assert!(serves(&proxy));
    let whole = |s: &Seen| s.text().contains("/hostile") && s.bytes.ends_with(b"0\r\n\r\n");
    assert!(!upstream.seen()[before..].iter().any(whole));
}

#[test]
fn a_ping_for_each_message_of_a_stream_is_no_flood() {
    const MESSAGES: usize = 2200;
    let next = Bell::default();
    let rung = next.clone();
    let upstream = Upstream::scripted(move |connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..MESSAGES {
            connection.send("5\r\nhello\r\n");
            rung.wait();
        }
        connection.send("0\r\n\r\n");
    });
    let proxy = over(&upstream, "", "");
    let mut client = client(&proxy);
    client.get(1, "/");
    for at in 0..MESSAGES {
        loop {
            let read = client.next_frame();
            let read = read.unwrap_or_else(|| panic!("ended at message {at}"));
            if read.kind == DATA {
                break;
            }
        }
        client.send(frame(PING, 0, 0, b"estimate"));
        next.ring();
    }
    assert!(matches!(client.outcome(1), Outcome::Answer(..)));
}

#[test]
fn answers_that_a_client_never_reads_are_bounded_when_they_are_heads() {
    let proxy = gateway(
        "listeners: [{ name: web, bind: 127.0.0.1, port: 0 }]
routes: [{ rules: [{ filters: [{ type: RequestRedirect, requestRedirect: { hostname: x.test, statusCode: 302 } }] }] }]",
    );
    let path = format!("/{}", "p".repeat(7900));
    let mut before = client(&proxy);
    before.get(1, &path);
    assert_eq!(before.outcome(1), Outcome::Answer(302, Vec::new()));
    let memory = proxy.resident();
    let greedy = client(&proxy);
    let mut socket = greedy.stream();
    SockRef::from(socket).set_recv_buffer_size(4096).unwrap();
    // As many as it takes; a proxy that waits for its reader takes no more at some point.
    socket
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let block = request("GET", &path, &[]);
    for n in 0..5000 {
        // It goes no faster than it would if it counted answers: that is another limit.
        if n % 25 == 0 {
            before.settle();
        }
        if socket.write_all(&headers(2 * n + 1, &block, true)).is_err() {
            break;
        }
    }
    // Others are served meanwhile.
    before.get(3, &path);
    assert_eq!(before.outcome(3), Outcome::Answer(302, Vec::new()));
    let grown = proxy.peak().saturating_sub(memory);
    assert!(grown < 8 << 20, "{grown} bytes");
}

#[test]
fn streams_that_were_filled_and_reset_give_their_memory_back() {
    let upstream = silent();
    // All but the first wait for a connection, and nobody takes their bytes.
    let proxy = over(&upstream, ", limits: { connections: 1, pending: 1000 }", "");
    client(&proxy).settle();
    let memory = proxy.resident();
    let mut idle = Vec::new();
    for _ in 0..10 {
        let mut client = client(&proxy);
        let streams = || (0..90).map(|n| 2 * n + 1);
        let block = request("POST", "/hostile", &[]);
        let open: Vec<u8> = streams()
            .flat_map(|id| headers(id, &block, false))
            .collect();
        client.send(open);
        for id in streams() {
            client.send([data(id, [b's'; 1000], false).repeat(65), reset(id)].concat());
        }
        client.settle();
        idle.push(client);
    }
    // Memory comes back as others use the allocator.
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        assert!(serves(&proxy));
        let grown = proxy.resident().saturating_sub(memory);
        if grown < 16 << 20 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{grown} bytes");
    }
}

#[test]
fn requests_that_are_reset_without_an_error_do_not_run_on() {
    let upstream = silent();
    let proxy = over(&upstream, "", "");
    let mut client = client(&proxy);
    let block = request("GET", "/hostile", &[]);
    let ended = |id| [headers(id, &block, true), reset_for(id, NO_ERROR)].concat();
    client.send((0..90).flat_map(|n| ended(2 * n + 1)).collect::<Vec<u8>>());
    client.settle();
    assert!(serves(&proxy));
    // One whose reset came with the next read may have got through, but none stays.
    let seen = upstream.wait_until(|seen| {
        let mut hostile = seen.iter().filter(|s| s.text().contains("/hostile"));
        hostile.all(|s| s.closed)
    });
    let starts = seen
        .iter()
        .filter(|s| s.text().contains("/hostile"))
        .count();
    assert!(starts <= 4, "{starts} of 90 reached the upstream");
}

#[test]
fn a_client_that_expects_100_continue_gets_it() {
    let upstream = Upstream::answering("ok");
    let proxy = over(&upstream, "", "");
    let expects = [("expect", "100-continue"), ("content-length", "5")];
    let mut asks = client(&proxy);
    asks.send(headers(1, &request("POST", "/", &expects), false));
    let first = asks.find(|f| f.stream == 1);
    assert_eq!(status_of(&first.payload), Some(100), "{first:?}");
    asks.send(data(1, "12345", true));
    assert_eq!(asks.outcome(1), Outcome::Answer(200, b"ok".to_vec()));
    assert!(upstream.all().ends_with("12345"));
    // What is refused without its body is refused at once.
    let mut refused = client(&proxy);
    let elsewhere = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "elsewhere"),
        (":path", "/"),
    ];
    refused.send(headers(
        1,
        &block(&[&elsewhere[..], &expects].concat()),
        false,
    ));
    let first = refused.find(|f| f.stream == 1);
    assert_eq!(status_of(&first.payload), Some(404), "{first:?}");
}

const BODY: usize = 6_000_000;

fn large() -> Upstream {
    Upstream::scripted(|connection| {
        while let Some(head) = connection.until(b"\r\n\r\n") {
            if target(&head) == "/own" {
                echo(connection, &head);
                continue;
            }
            connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n"));
            connection.send(vec![b'x'; BODY]);
        }
    })
}

#[test]
fn the_tail_of_an_answer_outlives_a_polite_end_that_its_client_confirms() {
    let upstream = large();
    for confirms in [false, true] {
        let proxy = over(&upstream, "", "requestsPerConnection: 1");
        let mut client = Http2::narrow(proxy.address("web"), &[(4, 0)], 16 << 10);
        client.get(1, "/large");
        // Longer than last words may take: the end was announced by then, and answered.
        client.find(|f| f.kind == GOAWAY);
        let ping = client.find(|f| f.kind == PING && f.flags & ACK == 0);
        client.send(frame(SETTINGS, ACK, 0, &[]));
        client.send(frame(PING, ACK, 0, &ping.payload));
        pass(&proxy, Duration::from_millis(1500));
        if confirms {
            client.send(frame(GOAWAY, 0, 0, &[0; 8]));
        }
        let most = 0x7fff_ffff;
        client.send([settings(&[(4, most)]), window(0, most - 65_535)].concat());
        // Slower than the application: the last of it is queued long before it is read.
        let got = read_slowly(&proxy, &mut client, usize::MAX);
        assert_eq!(got, (BODY, true), "confirmed {confirms}");
    }
}

/// Reads until so much of an answer has come; gives how much it was, and whether it was all of it.
fn read_slowly(proxy: &Selvedge, client: &mut Http2, most: usize) -> (usize, bool) {
    let (mut got, mut ended) = (0, false);
    while !ended
        && got < most
        && let Some(read) = client.next_frame()
    {
        if read.kind == DATA {
            got += read.payload.len();
            ended = read.flags & END_STREAM != 0;
            pass(proxy, Duration::from_millis(4));
        }
    }
    (got, ended)
}

#[test]
fn what_the_kernel_holds_for_a_slow_client_outlives_its_next_word() {
    let upstream = large();
    let proxy = over(&upstream, "", "requestsPerConnection: 1");
    let most = 0x7fff_ffff;
    let mut client = Http2::narrow(proxy.address("web"), &[(4, most)], 16 << 10);
    client.send(window(0, most - 65_535));
    client.get(1, "/large");
    // The rest is with the kernel by the end of the pause, and the answer is over for the proxy.
    let (got, _) = read_slowly(&proxy, &mut client, BODY - (1 << 20));
    pass(&proxy, Duration::from_secs(3));
    client.send(frame(PING, 0, 0, b"are you?"));
    pass(&proxy, Duration::from_millis(100));
    let (more, ended) = read_slowly(&proxy, &mut client, usize::MAX);
    assert_eq!((got + more, ended), (BODY, true));
}

/// Lets time go by while the proxy serves others.
fn pass(proxy: &Selvedge, time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        assert!(serves(proxy));
    }
}
