//! A real Redis server of one test: started, stopped, hung, asked by its own protocol.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::PATIENCE;

/// A server without persistence. Killed when dropped.
pub struct Redis {
    child: Option<Child>,
    dir: TempDir,
    port: u16,
    options: Vec<String>,
    password: Option<String>,
    tls: bool,
}

impl Redis {
    /// A server on a free port.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&[], None)
    }

    /// A server with these options, and a password if one is given. Where `--tls-port` is among
    /// the options, `$PORT` stands for the port, `$DIR` for its directory.
    #[must_use]
    pub fn with(options: &[&str], password: Option<&str>) -> Self {
        Self::within(tempfile::tempdir().unwrap(), options, password)
    }

    /// The same in a directory that the test has filled.
    #[must_use]
    pub fn within(dir: TempDir, options: &[&str], password: Option<&str>) -> Self {
        Self::placed(dir, free_port(), options, password)
    }

    /// The same on this port.
    #[must_use]
    pub fn placed(dir: TempDir, port: u16, options: &[&str], password: Option<&str>) -> Self {
        let place = dir.path().display().to_string();
        let fill = |text: &&str| {
            text.replace("$PORT", &port.to_string())
                .replace("$DIR", &place)
        };
        let mut server = Self {
            child: None,
            tls: options.contains(&"--tls-port"),
            options: options.iter().map(fill).collect(),
            password: password.map(ToOwned::to_owned),
            dir,
            port,
        };
        server.restart();
        server
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Ends it at once, if it runs.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it anew, empty, on the same port, and waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        command
            .current_dir(self.dir.path())
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if !self.tls {
            command.args(["--port", &port]);
        }
        if let Some(password) = &self.password {
            command.args(["--requirepass", password]);
        }
        let child = command.spawn();
        self.child =
            Some(child.expect("redis-server is missing: install the package redis-server"));
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address()).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not listen");
            std::thread::yield_now();
        }
    }

    /// Sends it a signal: `STOP` hangs it, `CONT` lets it go on.
    pub fn signal(&self, name: &str) {
        let id = self.child.as_ref().map_or(0, Child::id).to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &id])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Asks it one thing; gives the answer's lines, without those that only count.
    #[must_use]
    pub fn ask(&self, words: &[&str]) -> Vec<String> {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        if let Some(password) = &self.password {
            stream.write_all(&command(&["AUTH", password])).unwrap();
            assert_eq!(answer(&mut reader), ["OK"]);
        }
        stream.write_all(&command(words)).unwrap();
        answer(&mut reader)
    }

    /// Waits until it has a key.
    pub fn wait_for_a_key(&self, within: Duration) {
        let deadline = Instant::now() + within;
        while self.ask(&["KEYS", "*"]).is_empty() {
            assert!(Instant::now() < deadline, "nothing was counted");
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that is free now.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn command(words: &[&str]) -> Vec<u8> {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    text.into_bytes()
}

fn answer(reader: &mut impl BufRead) -> Vec<String> {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let line = line.trim_end();
    let (kind, rest) = line.split_at(1);
    match kind {
        "*" => (0..rest.parse::<i64>().unwrap())
            .flat_map(|_| answer(reader))
            .collect(),
        "$" if rest == "-1" => Vec::new(),
        "$" => {
            let mut text = vec![0; rest.parse::<usize>().unwrap() + 2];
            reader.read_exact(&mut text).unwrap();
            text.truncate(text.len() - 2);
            vec![String::from_utf8_lossy(&text).into_owned()]
        }
        _ => vec![rest.to_owned()],
    }
}
