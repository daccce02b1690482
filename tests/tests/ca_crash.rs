//! The CA's memory: whatever happens to its process or its disk, no certificate is out that its log does
//! not know, and no serial number is given twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use selvedge_contract::sign::IstioCertificateRequest;
use selvedge_tests::PATIENCE;
use selvedge_tests::authority::CaProcess;
use selvedge_tests::ca_client::{Client, Shown, serial};

const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";

/// The serial numbers in the log, with how often each of them is there.
fn logged(keys: &Path) -> BTreeMap<String, usize> {
    let mut files: Vec<_> = fs::read_dir(keys.join("issued"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut serials = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        for line in text.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let serial = line["serial"].as_str().unwrap().to_owned();
            *serials.entry(serial).or_default() += 1;
        }
    }
    serials
}

/// Asks again and again, over new connections; gives the serial numbers of what it was given.
fn ask_on(
    address: SocketAddr,
    roots: &str,
    shown: &Shown,
    stop: &AtomicBool,
    given: &AtomicUsize,
) -> Vec<String> {
    let runtime = selvedge_tests::ca_client::runtime();
    let mut serials = Vec::new();
    while !stop.load(Relaxed) {
        runtime.block_on(async {
            let client = Client::new(address, roots).showing(shown);
            let Ok(mut line) = client.connect().await else {
                // Nobody is there at this moment.
                tokio::task::yield_now().await;
                return;
            };
            for _ in 0..20 {
                let (csr, _) = selvedge_tests::certs::request();
                let request = IstioCertificateRequest {
                    csr,
                    ..Default::default()
                };
                let Ok(chain) = line.create(request, &[]).await else {
                    return;
                };
                serials.push(serial(&chain[0]));
                given.fetch_add(1, Relaxed);
            }
        });
    }
    serials
}

#[test]
fn a_ca_that_is_killed_again_and_again_forgets_and_repeats_nothing() {
    // 500 in the long run, as the goal says.
    let long = std::env::var_os("SELVEDGE_LONG").is_some();
    let kills = if long { 500 } else { 40 };
    let mut ca = CaProcess::start(&[]);
    let shown = Client::new(ca.address(), &ca.bundle()).join(&ca.token(ORDERS));
    let (roots, address) = (ca.bundle(), ca.address());
    let stop = Arc::new(AtomicBool::new(false));
    let given = Arc::new(AtomicUsize::new(0));
    let serials = Mutex::new(vec![serial(&shown.chain[0])]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let (stop, given, shown, roots, serials) = (&stop, &given, &shown, &roots, &serials);
            scope.spawn(move || {
                let own = ask_on(address, roots, shown, stop, given);
                serials.lock().unwrap().extend(own);
            });
        }
        for _ in 0..kills {
            // Each time in the midst of it: a few more are out, then it ends.
            let (before, begun) = (given.load(Relaxed), std::time::Instant::now());
            while given.load(Relaxed) < before + 5 {
                assert!(begun.elapsed() < PATIENCE, "nobody is given anything");
                std::thread::yield_now();
            }
            ca.crash();
        }
        stop.store(true, Relaxed);
    });
    let serials = serials.into_inner().unwrap();
    let distinct: BTreeSet<_> = serials.iter().collect();
    assert_eq!(distinct.len(), serials.len(), "a serial was given twice");
    let logged = logged(&ca.keys());
    let twice: Vec<_> = logged.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "logged twice: {twice:?}");
    let missing: Vec<_> = serials
        .iter()
        .filter(|s| !logged.contains_key(*s))
        .collect();
    assert!(missing.is_empty(), "not logged: {missing:?}");
    println!(
        "{kills} kills, {} certificates given, {} logged, 0 twice, 0 missing",
        serials.len(),
        logged.len()
    );
}

#[test]
fn a_full_disk_refuses_for_as_long_as_it_is_full() {
    let disk = selvedge_tests::disk::Small::new(512 * 1024);
    let ca = CaProcess::start_at(disk.path().join("ca"), &[]);
    let client = Client::new(ca.address(), &ca.bundle());
    let shown = client.join(&ca.token(ORDERS));
    let client = client.showing(&shown);
    let before = logged(&ca.keys()).len();
    disk.fill();
    // The page that the log ends in has room for a few more.
    let mut more = 0;
    let full = loop {
        match client.request() {
            Ok(_) => more += 1,
            Err(status) => break status,
        }
        assert!(more < 40);
    };
    assert_eq!(full.code(), tonic::Code::Unavailable, "{full:?}");
    assert_eq!(full.message(), "try again later");
    disk.free();
    let chain = client.request().unwrap();
    let after = logged(&ca.keys());
    assert!(after.contains_key(&serial(&chain[0])));
    assert_eq!(after.len(), before + more + 1);
    ca.process().wait_for_log("No space left on device");
}

#[test]
fn one_directory_serves_one_ca() {
    let ca = CaProcess::start(&[]);
    let keys = ca.keys().display().to_string();
    let begun = std::time::Instant::now();
    let (well, said) = selvedge_tests::authority::run(&[
        "ca",
        "--trust-domain",
        "shop.local",
        "--bind",
        "127.0.0.1:0",
        "--dir",
        &keys,
    ]);
    let want = "another CA serves from this directory";
    assert!(!well && said.contains(want), "{said}");
    // The one before it might just have been ending.
    assert!(begun.elapsed() > Duration::from_secs(5));
    drop(ca);
}
