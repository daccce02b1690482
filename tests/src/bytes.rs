//! Applications that do not speak HTTP, and how two pods of the mesh know of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::pod::{Pod, serve};

/// A service in the mesh at each of these ports of the other pod, called at the same port of
/// 10.96.0.20.
#[must_use]
pub fn services(ports: &[u16], identity: &str) -> String {
    let service = |port: &u16| {
        format!(
            "  to-{port}: {{ endpoints: [\"10.7.0.2:{port}\"], addresses: [\"10.96.0.20:{port}\"], \
             mesh: {{ identity: \"{identity}\" }} }}\n"
        )
    };
    ports.iter().map(service).collect()
}

/// An outbound port with such services.
#[must_use]
pub fn outbound(ports: &[u16], identity: &str) -> String {
    let services = services(ports, identity);
    format!("outbound: {{ bind: \"[::]:15001\", transparent: true }}\nservices:\n{services}")
}

/// An inbound port with more to say of it.
#[must_use]
pub fn inbound(more: &str) -> String {
    format!("inbound: [{{ bind: \"::\", port: 15006, transparent: true, {more} }}]\n")
}

/// Sends back what comes, until it ends; then says so.
pub fn echo(mut stream: TcpStream) {
    let mut part = [0; 4096];
    while let Ok(n) = stream.read(&mut part) {
        if n == 0 {
            let _ = stream.write_all(b"<end>");
            return;
        }
        let _ = stream.write_all(&part[..n]);
    }
}

/// Reads this, and nothing else.
///
/// # Panics
/// When something else comes, or nothing.
pub fn expect(stream: &mut TcpStream, wanted: &[u8]) {
    let mut got = vec![0; wanted.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&got),
        String::from_utf8_lossy(wanted)
    );
}

/// Reads to the end.
#[must_use]
pub fn rest(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    String::from_utf8_lossy(&rest).into_owned()
}

/// A program of one test; killed when dropped.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A real server of an application, once it says that it is there.
///
/// # Panics
/// When it ends without having said so.
#[must_use]
pub fn start(command: &mut Command, ready: &str) -> Running {
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let running = Running(child);
    let mut lines = output.lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(ready)), "{ready}");
    // It may say more, and must not be stopped by that.
    std::thread::spawn(move || lines.for_each(drop));
    running
}

/// An application that counts who gets through to it, and answers.
#[must_use]
pub fn counting(pod: &Pod, port: u16, says: &'static str) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    serve(pod.listen(port), move |mut stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        let _ = stream.write_all(says.as_bytes());
        echo(stream);
    });
    count
}
