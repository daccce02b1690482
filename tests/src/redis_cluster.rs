//! Real Redis servers that are a cluster, for one test: slots spread, moved, asked for.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::PATIENCE;
use crate::redis::Redis;

/// Servers of one cluster.
pub struct RedisCluster {
    /// The servers. Those behind the first ones keep no slot, if so wanted.
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    /// So many servers that share all slots, and so many more without any, with this password.
    #[must_use]
    pub fn start(keeping: usize, idle: usize, password: Option<&str>) -> Self {
        let buses: Vec<String> = (0..keeping + idle).map(|_| port().to_string()).collect();
        let nodes: Vec<Redis> = buses
            .iter()
            .map(|bus| {
                let options = [
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    bus,
                    "--cluster-node-timeout",
                    "1000",
                    "--cluster-require-full-coverage",
                    "no",
                    // A replica follows at once, and not with others that may come.
                    "--repl-diskless-sync-delay",
                    "0",
                ];
                let dir = tempfile::tempdir().unwrap();
                Redis::placed(dir, port(), &options, password)
            })
            .collect();
        let cluster = Self { nodes };
        for (at, node) in cluster.nodes.iter().enumerate() {
            let epoch = (at + 1).to_string();
            fine(node, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
            if at < keeping {
                let (first, end) = (16_384 * at / keeping, 16_384 * (at + 1) / keeping);
                let (first, last) = (first.to_string(), (end - 1).to_string());
                fine(node, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            }
            let port = node.address().port().to_string();
            let meet = ["CLUSTER", "MEET", "127.0.0.1", &port, &buses[at]];
            // All by name: by hearsay it would take longer.
            for earlier in &cluster.nodes[..at] {
                fine(earlier, &meet);
            }
        }
        cluster.settle();
        cluster
    }

    /// Waits until all agree.
    pub fn settle(&self) {
        let deadline = Instant::now() + PATIENCE;
        let known = format!("cluster_known_nodes:{}\r\n", self.nodes.len());
        let well = |node: &Redis| {
            let info = node.ask(&["CLUSTER", "INFO"]).concat();
            info.contains("cluster_state:ok\r\n")
                && info.contains("cluster_slots_ok:16384\r\n")
                && info.contains(&known)
        };
        while !self.nodes.iter().all(well) {
            assert!(Instant::now() < deadline, "the cluster does not settle");
            // Servers that are asked all the time have none for each other.
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// The server that has a key of which its name holds this; its place and the whole name.
    #[must_use]
    pub fn keeper(&self, part: &str) -> Option<(usize, String)> {
        self.nodes.iter().enumerate().find_map(|(at, node)| {
            let keys = node.ask(&["KEYS", "*"]);
            let found = keys.into_iter().find(|key| key.contains(part));
            found.map(|key| (at, key))
        })
    }

    /// The slot of a key.
    #[must_use]
    pub fn slot(&self, key: &str) -> String {
        self.nodes[0].ask(&["CLUSTER", "KEYSLOT", key]).concat()
    }

    /// Begins to move a slot: from now on keys of it that are not there are asked for elsewhere.
    pub fn begin_move(&self, slot: &str, from: usize, to: usize) {
        let [source, target] = [from, to].map(|at| self.id(at));
        fine(
            &self.nodes[to],
            &["CLUSTER", "SETSLOT", slot, "IMPORTING", &source],
        );
        fine(
            &self.nodes[from],
            &["CLUSTER", "SETSLOT", slot, "MIGRATING", &target],
        );
    }

    /// Moves one key.
    pub fn move_key(&self, key: &str, from: usize, to: usize) {
        let port = self.nodes[to].address().port().to_string();
        fine(
            &self.nodes[from],
            &["MIGRATE", "127.0.0.1", &port, key, "0", "5000"],
        );
    }

    /// The slot has moved.
    pub fn end_move(&self, slot: &str, from: usize, to: usize) {
        let target = self.id(to);
        for at in [to, from] {
            fine(
                &self.nodes[at],
                &["CLUSTER", "SETSLOT", slot, "NODE", &target],
            );
        }
    }

    /// Makes a server without slots the replica of another, and waits until it follows.
    pub fn replicate(&self, replica: usize, of: usize) {
        let id = self.id(of);
        fine(&self.nodes[replica], &["CLUSTER", "REPLICATE", &id]);
        let deadline = Instant::now() + PATIENCE;
        let follows = || {
            let info = self.nodes[replica].ask(&["INFO", "replication"]).concat();
            info.contains("master_link_status:up\r\n")
        };
        while !follows() {
            assert!(Instant::now() < deadline, "the replica does not follow");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        self.settle();
    }

    fn id(&self, at: usize) -> String {
        self.nodes[at].ask(&["CLUSTER", "MYID"]).concat()
    }
}

fn fine(node: &Redis, words: &[&str]) {
    assert_eq!(node.ask(words), ["OK"], "{words:?}");
}

/// A port that this process has not given out before, free now, and none of those that the system
/// gives to clients: one that a stranger takes in between would join two clusters.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + u16::try_from(std::process::id() % 160).unwrap() * 100;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 4000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
