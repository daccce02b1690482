//! The socket for applications: where it may be, whose it is, and what it bears.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Uid;
use rustix::thread::set_thread_uid;
use selvedge_tests::authority::CaProcess;
use selvedge_tests::checked::check_file;
use selvedge_tests::process::{Selvedge, binary};

const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";
const INBOUND: &str = "inbound: [{ bind: 127.0.0.1, port: 0, app: \"127.0.0.1:9\" }]\n";
/// As `contract::defaults::workload` has it.
const CONNECTIONS: usize = 64;
/// Those of who may not ask, as `listen.rs` of the product has it.
const STRANGERS: usize = 8;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn api(more: &str) -> String {
    format!(", workloadApi: {{ socket: $DIR/api.sock{more} }}")
}

/// What a process says that cannot start with this configuration.
fn refused(config: &std::path::Path) -> String {
    let output = Command::new(binary())
        .args(["sidecar", "--config"])
        .arg(config)
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn inode(path: &std::path::Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

/// Whether the other end has closed, within what the product allows and a little more.
fn closed(stream: &mut UnixStream, within: Duration) -> bool {
    stream.set_read_timeout(Some(within)).unwrap();
    let mut bytes = [0; 1024];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn a_socket_left_behind_is_replaced_and_another_process_s_is_not() {
    let ca = CaProcess::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    // Nobody listens to it any longer.
    drop(UnixListener::bind(&socket).unwrap());
    UnixStream::connect(&socket).unwrap_err();
    let config = ca.identity(dir.path(), WEB, &api("")) + INBOUND;
    let mut first = Selvedge::start_in(dir, "sidecar", &config, 1);
    first.wait_for("workload API");
    UnixStream::connect(&socket).unwrap();
    assert_eq!(
        fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o660
    );

    let made = inode(&socket);
    let said = refused(&first.dir().join("config.yaml"));
    let want = "workloadApi: ";
    assert!(
        said.contains(want) && said.contains("another process serves there"),
        "{said}"
    );
    assert_eq!(inode(&socket), made);
    UnixStream::connect(&socket).unwrap();

    // It goes with the process that has made it.
    first.signal("TERM");
    first.wait();
    assert!(!socket.exists());
}

#[test]
fn a_reload_moves_the_socket_and_one_that_fails_leaves_it() {
    let ca = CaProcess::start(&[]);
    let mut sidecar = ca.sidecar(WEB, &api(""), INBOUND);
    let dir = sidecar.dir().to_owned();
    let (config, old, new) = (
        dir.join("config.yaml"),
        dir.join("api.sock"),
        dir.join("new.sock"),
    );
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&new, "not a socket").unwrap();
    let moved = text.replace("api.sock", "new.sock");
    fs::write(&config, &moved).unwrap();
    sidecar.wait_for("configuration not reloaded");
    UnixStream::connect(&old).unwrap();
    assert_eq!(fs::read(&new).unwrap(), b"not a socket");
    fs::remove_file(&new).unwrap();
    fs::write(&config, moved.clone() + "\n").unwrap();
    sidecar.wait_for("configuration reloaded");
    UnixStream::connect(&new).unwrap();
    assert!(!old.exists());
    // And away.
    let at = moved.find(", workloadApi").unwrap();
    let end = at + moved[at..].find('}').unwrap() + 1;
    fs::write(&config, [&moved[..at], &moved[end..]].concat()).unwrap();
    sidecar.wait_for_next("configuration reloaded");
    assert!(!new.exists());
}

#[test]
fn too_many_and_silent_connections_are_closed() {
    let ca = CaProcess::start(&[]);
    let sidecar = ca.sidecar(WEB, &api(""), INBOUND);
    let socket = sidecar.dir().join("api.sock");
    let began = Instant::now();
    let mut open: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(PREFACE).unwrap();
            // The other side's SETTINGS: it is served.
            stream.read_exact(&mut [0; 9]).unwrap();
            stream
        })
        .collect();
    let mut beyond = UnixStream::connect(&socket).unwrap();
    assert!(closed(&mut beyond, Duration::from_secs(5)));
    // None of the others makes a call.
    assert!(closed(&mut open[0], Duration::from_secs(20)));
    assert!(began.elapsed() > Duration::from_secs(9));
    assert!(
        open.iter_mut()
            .all(|one| closed(one, Duration::from_secs(5)))
    );
    let mut again = UnixStream::connect(&socket).unwrap();
    again.write_all(PREFACE).unwrap();
    again.read_exact(&mut [0; 9]).unwrap();
    // Not HTTP/2 at all.
    let mut other = UnixStream::connect(&socket).unwrap();
    other
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    assert!(closed(&mut other, Duration::from_secs(5)));
}

/// Does something as this user, on a thread of its own.
fn as_user<T: Send>(user: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let done = scope.spawn(move || {
            set_thread_uid(Uid::from_raw(user)).unwrap();
            work()
        });
        done.join().unwrap()
    })
}

#[test]
fn strangers_do_not_take_the_places_of_the_application() {
    let ca = CaProcess::start(&[]);
    let sidecar = ca.sidecar(WEB, &api(", uids: [4711]"), INBOUND);
    fs::set_permissions(sidecar.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = sidecar.dir().join("api.sock");
    let connect = |times: usize| {
        let socket = socket.clone();
        move || -> Vec<_> {
            let all = (0..times).map(|_| UnixStream::connect(&socket).unwrap());
            all.collect()
        }
    };
    let began = Instant::now();
    let served = |stream: &mut UnixStream| {
        stream.write_all(PREFACE).unwrap();
        stream.read_exact(&mut [0; 9]).is_ok()
    };
    // More than there are places, and those who are served say no more than that they are there.
    let mut strangers = as_user(4712, connect(2 * CONNECTIONS));
    let held: Vec<_> = strangers
        .iter_mut()
        .filter_map(|one| one.write_all(PREFACE).ok().map(|()| one))
        .filter(|one| (&mut &**one).read_exact(&mut [0; 9]).is_ok())
        .collect();
    assert_eq!(held.len(), STRANGERS);
    // All places are the application's.
    let mut application = as_user(4711, connect(CONNECTIONS));
    assert!(application.iter_mut().all(served));
    assert!(began.elapsed() < Duration::from_secs(9));
    // The log is not theirs to fill.
    sidecar.wait_for_log("too many connections");
    let log = sidecar.log();
    let told = log
        .iter()
        .filter(|line| line.contains("too many connections"));
    assert_eq!(told.count(), 1);
    for one in held {
        assert!(closed(one, Duration::from_secs(20)));
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    let ca = CaProcess::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let long = format!("/tmp/{}", "a".repeat(103));
    let check = |mode: &str, api: &str, rest: &str| {
        let more = format!(", workloadApi: {{ {api} }}");
        let text = ca.identity(dir.path(), WEB, &more) + rest;
        let file = dir.path().join("config.yaml");
        fs::write(
            &file,
            text.replace("$DIR", &dir.path().display().to_string()),
        )
        .unwrap();
        check_file(mode, &file)
    };
    let (well, said) = check(
        "sidecar",
        "socket: $DIR/api.sock, uids: [1], gids: [2]",
        INBOUND,
    );
    assert!(well, "{said}");
    for (api, key, why) in [
        ("uids: [1]", "socket", "there is no path"),
        ("socket: api.sock", "socket", "no path of a socket"),
        ("socket: /tmp/", "socket", "no path of a socket"),
        (&*format!("socket: {long}"), "socket", "108 bytes"),
        (
            "socket: $DIR/none/api.sock",
            "socket",
            "there is no directory",
        ),
        ("socket: $DIR/file", "socket", "is there, and is no socket"),
        ("socket: $DIR/a, mode: rw", "mode", "`rw` is no mode"),
        ("socket: $DIR/a, user: 1", "user", "unknown"),
    ] {
        let (well, said) = check("sidecar", api, INBOUND);
        let place = format!("identity.workloadApi.{key}");
        assert!(!well && said.contains(why), "{api}: {said}");
        assert!(
            said.contains(&place) && said.contains("config.yaml:1:"),
            "{api}: {said}"
        );
    }
    let listener = "listeners: [{ name: a, port: 8080 }]\n";
    let (well, said) = check("gateway", "socket: $DIR/a", listener);
    assert!(
        !well && said.contains("a gateway has no application beside it"),
        "{said}"
    );
}
