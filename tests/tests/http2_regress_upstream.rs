//! One test for each bug that a reviewer found in the HTTP/2 engine, named for it: what upstreams do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use selvedge_tests::http2::{
    ACK, CANCEL, DATA, END_STREAM, Frame, HEADERS, Http2, NO_ERROR, Outcome, REFUSED_STREAM,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, block, data, headers, reset, reset_for, settings,
};
use selvedge_tests::http2_upstream::{Asked, Peer, answer, asked, fields};
use selvedge_tests::{Bell, Http2Upstream, Raw, Selvedge, gateway};

/// MAX_CONCURRENT_STREAMS.
const STREAMS: u16 = 3;
/// INITIAL_WINDOW_SIZE.
const WINDOW: u16 = 4;

/// A gateway before a service that speaks HTTP/2, whose `more` settings these are.
fn over(upstream: &Http2Upstream, more: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"], protocol: http2{more} }} }}
limits: {{ body: 1GiB }}",
        upstream.address()
    ))
}

fn client(proxy: &Selvedge) -> Raw {
    Raw::connect(proxy.address("web"))
}

fn http2(proxy: &Selvedge) -> Http2 {
    Http2::connect(proxy.address("web"), &[])
}

fn ok(peer: &mut Peer, asked: &Asked) {
    peer.send(
        [
            answer(asked.stream, "200", &[], false),
            data(asked.stream, "ok", true),
        ]
        .concat(),
    );
}

#[test]
fn an_answer_that_is_complete_outlives_the_reset_behind_it() {
    for code in [CANCEL, NO_ERROR] {
        let go = Bell::default();
        let rung = go.clone();
        let upstream = Http2Upstream::serving(&[], move |peer, asked| {
            let id = asked.stream;
            if asked.field(":path") == "/empty" {
                peer.send([answer(id, "200", &[], true), reset_for(id, code)].concat());
                return;
            }
            peer.send([answer(id, "200", &[], false), data(id, "first", false)].concat());
            rung.wait();
            let rest = [b'x'; 10_000];
            let rest = [
                data(id, rest, false),
                data(id, rest, false),
                data(id, "last", true),
            ];
            peer.send([rest.concat(), reset_for(id, code)].concat());
        });
        let proxy = over(&upstream, "");
        let mut client = client(&proxy);
        for _ in 0..3 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            client.until("first");
            go.ring();
            assert!(client.until("0\r\n\r\n").contains("last"), "{code}");
        }
        let reply = client.get("/empty");
        assert_eq!((reply.status, reply.text().as_str()), (200, ""), "{code}");
    }
}

/// Bodies on their way, as windows let them go.
struct Flow {
    connection: usize,
    initial: usize,
    /// Window and rest of each stream.
    streams: BTreeMap<u32, (usize, usize)>,
}

impl Flow {
    /// Takes note of a frame of the proxy, and sends what it allows.
    fn on(&mut self, peer: &mut Peer, frame: &Frame) {
        let id = frame.stream;
        match (frame.kind, id) {
            (SETTINGS, _) if frame.flags & ACK == 0 => {
                let mut entries = frame.payload.chunks(6);
                let found = entries.find(|e| e[..2] == WINDOW.to_be_bytes());
                let value = |e: &[u8]| u32::from_be_bytes(e[2..].try_into().unwrap()) as usize;
                self.initial = found.map_or(self.initial, value);
            }
            (WINDOW_UPDATE, 0) => self.connection += frame.word(0) as usize,
            (WINDOW_UPDATE, _) => {
                if let Some((window, _)) = self.streams.get_mut(&id) {
                    *window += frame.word(0) as usize;
                }
            }
            (HEADERS, _) => {
                let big = asked(frame).field(":path") == "/big";
                let length = if big { 4 << 20 } else { 20_000 };
                self.streams.insert(id, (self.initial, length));
                peer.send(answer(id, "200", &[], false));
            }
            (RST_STREAM, _) => drop(self.streams.remove(&id)),
            _ => {}
        }
        for (id, (window, left)) in &mut self.streams {
            while *left > 0 && *window > 0 && self.connection > 0 {
                let part = 16_384.min(*left).min(*window).min(self.connection);
                *left -= part;
                *window -= part;
                self.connection -= part;
                peer.send(data(*id, vec![b'z'; part], *left == 0));
            }
        }
        self.streams.retain(|_, (_, left)| *left > 0);
    }
}

#[test]
fn readers_who_have_stopped_hold_up_nobody_else_on_a_shared_connection() {
    let upstream = Http2Upstream::scripted(|peer| {
        peer.send(settings(&[(STREAMS, 1000)]));
        let mut flow = Flow {
            connection: 65_535,
            initial: 65_535,
            streams: BTreeMap::new(),
        };
        while let Some(frame) = peer.frame() {
            flow.on(peer, &frame);
        }
    });
    let proxy = over(&upstream, "");
    let stuck: Vec<Http2> = (0..12)
        .map(|_| {
            let mut client = Http2::connect(proxy.address("web"), &[(WINDOW, 0)]);
            client.get(1, "/big");
            client.find(|f| f.kind == HEADERS);
            client
        })
        .collect();
    let mut other = client(&proxy);
    other
        .stream()
        .set_read_timeout(Some(std::time::Duration::from_secs(3)))
        .unwrap();
    for _ in 0..3 {
        assert_eq!(other.get("/small").body.len(), 20_000);
    }
    assert_eq!(upstream.opened(), 1);
    drop(stuck);
}

#[test]
fn a_request_that_waits_for_a_stream_is_served_when_one_ends() {
    for count in [2, 5] {
        let (come, go) = (Bell::default(), Bell::default());
        let (comes, goes) = (come.clone(), go.clone());
        let upstream = Http2Upstream::serving(&[(STREAMS, 1)], move |peer, asked| {
            if asked.field(":path") == "/when-told" {
                comes.ring();
                goes.wait();
            }
            ok(peer, asked);
        });
        let proxy = over(&upstream, ", limits: { connections: 1 }");
        assert_eq!(client(&proxy).get("/").status, 200);
        let mut client = http2(&proxy);
        for n in 0..count {
            client.get(2 * n + 1, "/when-told");
        }
        come.wait();
        client.settle();
        go.ring();
        for _ in 1..count {
            come.wait();
            go.ring();
        }
        for n in 0..count {
            let outcome = client.outcome(2 * n + 1);
            assert_eq!(
                outcome,
                Outcome::Answer(200, b"ok".to_vec()),
                "{n} of {count}"
            );
        }
        assert_eq!(upstream.opened(), 1);
    }
}

#[test]
fn a_request_that_waits_for_a_stream_is_served_when_the_peer_takes_more() {
    let (come, go) = (Bell::default(), Bell::default());
    let (comes, goes) = (come.clone(), go.clone());
    let upstream = Http2Upstream::serving(&[(STREAMS, 1)], move |peer, asked| {
        if asked.field(":path") == "/when-told" {
            comes.ring();
            goes.wait();
            return peer.send(settings(&[(STREAMS, 2)]));
        }
        ok(peer, asked);
    });
    let proxy = over(&upstream, ", limits: { connections: 1 }");
    let mut client = http2(&proxy);
    client.get(1, "/when-told");
    come.wait();
    client.get(3, "/");
    client.settle();
    go.ring();
    assert_eq!(client.outcome(3), Outcome::Answer(200, b"ok".to_vec()));
}

#[test]
fn an_empty_data_frame_in_each_answer_is_no_flood() {
    let upstream = Http2Upstream::serving(&[], |peer, asked| {
        let id = asked.stream;
        let empty = [answer(id, "200", &[], false), data(id, "", false)].concat();
        peer.send([empty, data(id, "hello", false), data(id, "", true)].concat());
    });
    let proxy = over(&upstream, "");
    let mut client = client(&proxy);
    for n in 0..30 {
        let reply = client.get("/");
        assert_eq!((reply.status, reply.text().as_str()), (200, "hello"), "{n}");
    }
    assert_eq!(upstream.opened(), 1);
}

#[test]
fn an_answer_that_ends_before_the_upload_is_whole_though_the_rest_is_refused() {
    let go = Bell::default();
    let rung = go.clone();
    let upstream = Http2Upstream::serving(&[], move |peer, asked| {
        let id = asked.stream;
        peer.send([answer(id, "413", &[], false), data(id, "too ", false)].concat());
        rung.wait();
        peer.send([data(id, "large", true), reset_for(id, CANCEL)].concat());
    });
    let proxy = over(&upstream, "");
    for _ in 0..5 {
        let mut client = client(&proxy);
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n");
        client.send(vec![b'u'; 300_000]);
        let head = client.until("too ");
        assert!(head.starts_with("HTTP/1.1 413"), "{head}");
        go.ring();
        client.until("large");
        client.until("0\r\n\r\n");
    }
}

#[test]
fn trailers_behind_a_body_of_known_length_arrive() {
    for (length, body) in [("5", "hello"), ("0", "")] {
        let upstream = Http2Upstream::serving(&[], move |peer, asked| {
            let id = asked.stream;
            let mut frames = answer(id, "200", &[("content-length", length)], false);
            if !body.is_empty() {
                frames.extend(data(id, body, false));
            }
            frames.extend(headers(id, &block(&[("grpc-status", "7")]), true));
            peer.send(frames);
        });
        let proxy = over(&upstream, "");
        let mut client = http2(&proxy);
        client.get(1, "/");
        client.find(|f| f.kind == HEADERS);
        let last = client.find(|f| f.stream == 1 && f.flags & END_STREAM != 0);
        let status = ("grpc-status".to_owned(), "7".to_owned());
        assert_eq!(last.kind, HEADERS, "{length}: {last:?}");
        assert_eq!(fields(&last.payload), Some(vec![status]), "{length}");
    }
}

#[test]
fn no_stream_is_opened_before_the_peer_has_said_how_many_it_takes() {
    let announce = Bell::default();
    let told = announce.clone();
    let early = Arc::new(AtomicUsize::new(0));
    let refused = early.clone();
    let upstream = Http2Upstream::scripted(move |peer| {
        if peer.index() == 0 {
            told.wait();
        }
        peer.send(settings(&[(STREAMS, 10)]));
        // Until the proxy has read that, it may have opened too many: those are refused.
        let (mut live, mut known) = (Vec::new(), false);
        while let Some(frame) = peer.frame() {
            match frame.kind {
                SETTINGS if frame.flags & ACK != 0 => known = true,
                HEADERS if live.len() == 10 => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    peer.send(reset_for(frame.stream, REFUSED_STREAM));
                }
                HEADERS => live.push(asked(&frame)),
                _ => {}
            }
            if known {
                live.drain(..).for_each(|asked| ok(peer, &asked));
            }
        }
    });
    let proxy = over(&upstream, "");
    let mut client = http2(&proxy);
    for n in 0..40 {
        client.get(2 * n + 1, "/");
    }
    client.settle();
    announce.ring();
    for n in 0..40 {
        let outcome = client.outcome(2 * n + 1);
        assert_eq!(outcome, Outcome::Answer(200, b"ok".to_vec()), "{n}");
    }
    assert_eq!(early.load(Ordering::Relaxed), 0);
}

#[test]
fn a_peer_that_takes_no_streams_is_not_called_again_and_again() {
    let upstream = Http2Upstream::serving(&[(STREAMS, 0)], ok);
    let proxy = over(&upstream, "");
    let mut client = client(&proxy);
    let begun = std::time::Instant::now();
    for n in 0..20 {
        assert_eq!(client.get("/").status, 503, "{n}");
    }
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    assert!(upstream.opened() <= 5, "{} connections", upstream.opened());
}

#[test]
fn frames_that_cross_the_reset_of_any_stream_are_no_fault_of_the_connection() {
    let reset_seen = Bell::default();
    let seen = reset_seen.clone();
    let victim = Mutex::new(0);
    let first = Mutex::new(0);
    let upstream = Http2Upstream::scripted(move |peer| {
        peer.send(settings(&[(STREAMS, 1000)]));
        while let Some(frame) = peer.frame() {
            let id = frame.stream;
            match frame.kind {
                RST_STREAM => seen.ring(),
                HEADERS => {
                    let part = [answer(id, "200", &[], false), data(id, "part", false)].concat();
                    let asked = asked(&frame);
                    match asked.field(":path") {
                        "/victim" => *victim.lock().unwrap() = id,
                        "/last" => {
                            // It was under way when the first was reset, and took its time.
                            peer.send(data(*first.lock().unwrap(), "late", false));
                            ok(peer, &asked);
                            peer.send(data(*victim.lock().unwrap(), " and whole", true));
                            continue;
                        }
                        _ => {
                            let mut first = first.lock().unwrap();
                            *first = if *first == 0 { id } else { *first };
                        }
                    }
                    peer.send(part);
                }
                _ => {}
            }
        }
    });
    let proxy = over(&upstream, "");
    let mut victim = http2(&proxy);
    victim.get(1, "/victim");
    victim.find(|f| f.kind == DATA);
    for _ in 0..8 {
        let mut client = http2(&proxy);
        let streams = || (0..75).map(|n| 2 * n + 1);
        for id in streams() {
            client.get(id, "/cancelled");
        }
        for id in streams() {
            client.find(|f| f.kind == DATA && f.stream == id);
        }
        client.send(streams().flat_map(reset).collect::<Vec<u8>>());
        for _ in streams() {
            reset_seen.wait();
        }
    }
    assert_eq!(client(&proxy).get("/last").text(), "ok");
    assert_eq!(
        victim.outcome(1),
        Outcome::Answer(200, b" and whole".to_vec())
    );
    assert_eq!(upstream.opened(), 1);
}
