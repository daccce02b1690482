//! An exchange in which both ends may speak at any time: whose silence ends it, and when.

use std::time::{Duration, Instant};

use selvedge_tests::hostile::{ROLES, Role, Stage};
use selvedge_tests::http2::{Outcome, data, headers, request};
use selvedge_tests::upstream::Connection;
use selvedge_tests::{Raw, Upstream};

/// Three of these are more than the proxy waits for anybody.
const PAUSE: Duration = Duration::from_millis(150);
const LIMITS: &str = "streamIdle: 400ms";
const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const POST: &str = "POST /own/stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Time that passes is what this is about.
fn pass(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// In both roles, before this application.
fn before(answer: impl Fn(&mut Connection) + Clone + Send + Sync + 'static, run: impl Fn(&Stage)) {
    for role in ROLES {
        let answer = answer.clone();
        let upstream = Upstream::scripted(move |connection| {
            if connection.until(b"\r\n\r\n").is_some() {
                answer(connection);
            }
        });
        run(&Stage::over(role, LIMITS, upstream));
    }
}

/// Tells six things, one after the other, whatever the client says.
fn tell(connection: &mut Connection) {
    connection.send(HEAD);
    for _ in 0..6 {
        connection.send("1\r\na\r\n");
        pass(PAUSE);
    }
    connection.send("0\r\n\r\n");
}

/// Begins to answer, and ends once it has heard six things.
fn listen(connection: &mut Connection) {
    connection.send(HEAD);
    connection.send("1\r\na\r\n");
    for _ in 0..6 {
        connection.until(b"1\r\nb\r\n");
    }
    connection.send("1\r\nc\r\n0\r\n\r\n");
}

fn begin(stage: &Stage) -> Raw {
    let mut client = stage.client();
    client.send(POST);
    client.send("1\r\nb\r\n");
    client
}

#[test]
fn a_client_that_listens_may_be_silent() {
    before(tell, |stage| {
        let mut client = begin(stage);
        let reply = client.reply();
        assert_eq!((reply.status, reply.text().as_str()), (200, "aaaaaa"));
        let mut client = stage.http2();
        client.send(headers(1, &request("POST", "/own/stream", &[]), false));
        client.send(data(1, "b", false));
        let told = client.outcome(1);
        assert_eq!(told, Outcome::Answer(200, b"aaaaaa".to_vec()));
    });
}

#[test]
fn an_application_that_listens_may_be_silent() {
    before(listen, |stage| {
        let mut client = begin(stage);
        for _ in 0..5 {
            pass(PAUSE);
            client.send("1\r\nb\r\n");
        }
        client.send("0\r\n\r\n");
        let reply = client.reply();
        assert_eq!((reply.status, reply.text().as_str()), (200, "ac"));
        let mut client = stage.http2();
        client.send(headers(1, &request("POST", "/own/stream", &[]), false));
        for _ in 0..6 {
            client.send(data(1, "b", false));
            pass(PAUSE);
        }
        client.send(data(1, "", true));
        assert_eq!(client.outcome(1), Outcome::Answer(200, b"ac".to_vec()));
    });
}

#[test]
fn when_both_are_silent_it_ends() {
    let silent = |connection: &mut Connection| {
        connection.send(HEAD);
        connection.send("1\r\na\r\n");
        connection.drain();
    };
    before(silent, |stage| {
        let mut client = begin(stage);
        let got = String::from_utf8(client.rest()).unwrap();
        assert!(
            got.contains("200 OK") && got.ends_with("1\r\na\r\n"),
            "{got}"
        );
        let mut client = stage.http2();
        client.send(headers(1, &request("POST", "/own/stream", &[]), false));
        client.send(data(1, "b", false));
        assert!(matches!(client.outcome(1), Outcome::Reset(_)));
    });
}

#[test]
fn before_there_is_an_answer_a_client_must_go_on() {
    let deaf = |connection: &mut Connection| connection.drain();
    before(deaf, |stage| {
        let status = begin(stage).reply().status;
        assert_eq!(status, 408, "{:?}", stage.role);
        let mut client = stage.http2();
        client.send(headers(1, &request("POST", "/own/stream", &[]), false));
        client.send(data(1, "b", false));
        assert!(matches!(client.outcome(1), Outcome::Answer(408, _)));
    });
}

/// Ten seconds are no short time for a test, but they are the rule.
#[test]
fn a_slow_post_is_ended_at_a_gateway_and_a_stream_of_messages_is_not() {
    let deaf = |connection: &mut Connection| {
        let told = connection.until(b"done\r\n").is_some();
        if told {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    };
    let trickle = |role: Role, more: &str| {
        let upstream = Upstream::scripted(move |connection| deaf(connection));
        let stage = Stage::over(role, "request: 0s", upstream);
        let mut client = stage.client();
        client.send(format!(
            "POST /own/slow HTTP/1.1\r\nHost: a\r\n{more}Transfer-Encoding: chunked\r\n\r\n"
        ));
        for _ in 0..22 {
            client.send("1\r\nb\r\n");
            pass(Duration::from_millis(500));
        }
        client.send("6\r\ndone\r\n\r\n0\r\n\r\n");
        client.reply().status
    };
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| trickle(Role::Gateway, ""));
        let grpc = scope.spawn(|| trickle(Role::Gateway, "Content-Type: application/grpc\r\n"));
        let meshed = scope.spawn(|| trickle(Role::Sidecar, ""));
        assert_eq!(slow.join().unwrap(), 408);
        assert_eq!(grpc.join().unwrap(), 200);
        assert_eq!(meshed.join().unwrap(), 200);
    });
}
