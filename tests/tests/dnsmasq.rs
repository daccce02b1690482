//! Row UP-07 of the battery with a name server that is not ours, dnsmasq: names with services behind them (SRV),
//! other names for names, addresses that go while requests are on their way to them.

use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::Instant;

use selvedge_tests::netns::Namespace;
use selvedge_tests::{Bell, PATIENCE, Raw, Selvedge, Upstream};

/// A name server that says what its arguments say, until it is dropped.
struct Names(Child);

impl Names {
    fn saying(place: &Namespace, records: &[&str]) -> Self {
        let fixed = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--local-ttl=1",
            // What nobody has said is not there: asked, and answered at once.
            "--local=/test/",
        ];
        let mut command = place.command("dnsmasq");
        command.args(fixed).args(records);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.unwrap())
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn gateway(place: &Namespace, service: &str) -> Selvedge {
    let config = format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}], timeouts: {{ request: 0s }} }}] }}]
services: {{ app: {{ {service} }} }}
admin: {{ bind: \"127.0.0.1:0\", health: \"127.0.0.1:0\" }}
"
    );
    Selvedge::gateway_in(place, &config)
}

/// An endpoint that answers with its name; `/held` only when the bell has rung.
fn endpoint(place: &Namespace, address: &str, name: &'static str, bell: &Bell) -> Upstream {
    let (address, bell): (SocketAddr, _) = (address.parse().unwrap(), bell.clone());
    place.inside(0, move || {
        Upstream::scripted_at(address, move |connection| {
            while let Some(request) = connection.request() {
                if request.starts_with(b"GET /held ") {
                    bell.wait();
                }
                connection.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}"
                ));
            }
        })
    })
}

fn ask(place: &Namespace, proxy: &Selvedge) -> String {
    let web = proxy.address("web");
    place.inside(0, || Raw::connect(web).get("/")).text()
}

fn wait_for(place: &Namespace, proxy: &Selvedge, by: &str) {
    let deadline = Instant::now() + PATIENCE;
    while ask(place, proxy) != by {
        assert!(Instant::now() < deadline, "never answered by {by}");
        std::thread::yield_now();
    }
}

#[test]
fn up_07_a_name_with_services_behind_it() {
    let place = Namespace::new();
    place.resolve_by("127.0.0.1");
    let bell = Bell::default();
    let a = endpoint(&place, "127.0.0.1:0", "a", &bell);
    let b = endpoint(&place, "127.0.0.2:0", "b", &bell);
    let (one, two) = (a.address().port(), b.address().port());
    let hosts = [
        "--host-record=one.test,127.0.0.1",
        "--host-record=two.test,127.0.0.2",
    ];
    let srv = |name: &str, port: u16, priority: u16| {
        format!("--srv-host=_http._tcp.app.test,{name}.test,{port},{priority},1")
    };
    // The second is for when the first is gone.
    let (first, second) = (srv("one", one, 0), srv("two", two, 10));
    let names = Names::saying(&place, &[hosts[0], hosts[1], &first, &second]);
    let proxy = gateway(&place, "dns: _http._tcp.app.test.");
    wait_for(&place, &proxy, "a");
    for _ in 0..10 {
        assert_eq!(ask(&place, &proxy), "a");
    }
    drop(names);
    let _names = Names::saying(&place, &[hosts[1], &second]);
    wait_for(&place, &proxy, "b");
    for _ in 0..10 {
        assert_eq!(ask(&place, &proxy), "b");
    }
}

#[test]
fn up_07_what_is_on_its_way_to_an_address_that_goes_arrives() {
    let place = Namespace::new();
    place.resolve_by("127.0.0.1");
    let bell = Bell::default();
    let a = endpoint(&place, "127.0.0.1:0", "a", &bell);
    let port = a.address().port();
    let _b = endpoint(&place, &format!("127.0.0.2:{port}"), "b", &bell);
    // The name is another name's.
    let other = "--cname=app.test,real.test";
    let names = Names::saying(&place, &["--host-record=real.test,127.0.0.1", other]);
    let proxy = gateway(&place, &format!("dns: app.test., port: {port}"));
    wait_for(&place, &proxy, "a");
    let web = proxy.address("web");
    let mut held: Vec<Raw> = (0..4)
        .map(|_| place.inside(0, || Raw::connect(web)))
        .collect();
    for client in &mut held {
        client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    a.wait_until(|seen| {
        let requests = seen
            .iter()
            .map(|one| one.text().matches("GET /held ").count());
        requests.sum::<usize>() == 4
    });
    drop(names);
    let names = Names::saying(&place, &["--host-record=real.test,127.0.0.2", other]);
    wait_for(&place, &proxy, "b");
    // The name is gone altogether: what was known last stays.
    drop(names);
    let _names = Names::saying(&place, &[]);
    // It wakes any of those who wait.
    held.iter().for_each(|_| bell.ring());
    for client in &mut held {
        let reply = client.reply();
        assert_eq!((reply.status, reply.text().as_str()), (200, "a"));
    }
    assert_eq!(ask(&place, &proxy), "b");
    // And then nothing is kept open to it.
    let _ = a.wait_until(|seen| seen.iter().all(|one| one.closed));
}
