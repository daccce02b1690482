//! `selvedge redirect` in namespaces of its own: rules that are there once, that verify, that go
//! away whole, by both backends; and what it says where it cannot.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use selvedge_tests::netns::{Namespace, run};
use selvedge_tests::process::binary;

/// What is in force: nftables' own, and both of iptables. Others' counters are left out.
fn in_force(place: &Namespace) -> String {
    let nft = run(place.command("nft").args(["list", "tables"]));
    let mut all =
        nft.lines()
            .filter(|line| line.contains("selvedge"))
            .fold(String::new(), |all, line| {
                let words = line.split_whitespace().collect::<Vec<_>>();
                all + &run(place
                    .command("nft")
                    .args(["list", "table"])
                    .args(&words[1..]))
            });
    for tool in ["iptables", "ip6tables"] {
        let rules = run(place.command(tool).args(["-t", "nat", "-S"]));
        for line in rules.lines().filter(|line| line.contains("SELVEDGE")) {
            all = all + line + "\n";
        }
    }
    all
}

fn redirect(place: &Namespace, arguments: &[&str]) -> Output {
    let mut command = place.command(binary());
    command.arg("redirect").args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn rules_are_there_once_verify_and_go_away_whole() {
    let (place, _other) = Namespace::pair();
    // Somebody else's, which are none of our business.
    let others = [
        "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "9", "-j", "ACCEPT",
    ];
    run(place.command("iptables").args(others));
    assert_eq!(in_force(&place), "");
    let unredirected = redirect(&place, &["--verify-only"]);
    assert_eq!(
        unredirected.status.code(),
        Some(4),
        "{}",
        said(&unredirected)
    );
    assert!(said(&unredirected).contains("192.0.2.2:1404 was not redirected"));

    for (backend, mark) in [
        ("nft", "table inet"),
        ("iptables", "-N SELVEDGE_OUTPUT"),
        ("auto", "table inet"),
    ] {
        let first = redirect(&place, &["--backend", backend, "--verify"]);
        assert!(first.status.success(), "{}", said(&first));
        for line in [
            "verified IPv4: what goes to 192.0.2.2:1404 comes out at 127.0.0.1:15001",
            "verified IPv6",
        ] {
            assert!(said(&first).contains(line), "{}", said(&first));
        }
        let rules = in_force(&place);
        assert!(rules.contains(mark), "{rules}");
        // By one backend only, and by the same rules after a second time.
        assert_ne!(
            rules.contains("table inet"),
            rules.contains("SELVEDGE_"),
            "{rules}"
        );
        assert!(redirect(&place, &["--backend", backend]).status.success());
        assert_eq!(in_force(&place), rules, "{backend}");
    }
    let gone = redirect(&place, &["--cleanup"]);
    assert!(
        gone.status.success() && said(&gone).contains("removed"),
        "{}",
        said(&gone)
    );
    assert_eq!(in_force(&place), "");
    let again = redirect(&place, &["--cleanup"]);
    assert!(again.status.success() && said(&again).contains("nothing was redirected"));
    let left = run(place
        .command("iptables")
        .args(["-t", "nat", "-S", "OUTPUT"]));
    assert!(left.contains("--dport 9 -j ACCEPT"), "{left}");
}

#[test]
fn another_plan_takes_the_place_of_the_first() {
    let (place, _other) = Namespace::pair();
    assert!(
        redirect(&place, &["--backend", "iptables"])
            .status
            .success()
    );
    assert!(
        redirect(
            &place,
            &[
                "--backend",
                "iptables",
                "--ipv4-only",
                "--skip-outbound-ports",
                "1404,3306"
            ]
        )
        .status
        .success()
    );
    let rules = in_force(&place);
    assert!(
        rules.contains("--dports 1404,3306") && !rules.contains("dscp"),
        "{rules}"
    );
    let verified = redirect(
        &place,
        &[
            "--verify-only",
            "--ipv4-only",
            "--skip-outbound-ports",
            "1404,3306",
        ],
    );
    assert!(
        said(&verified).contains("192.0.2.2:1405 comes out"),
        "{}",
        said(&verified)
    );
    let narrow = [
        "--backend",
        "nft",
        "--outbound-ports",
        "80",
        "--outbound-cidrs",
        "10.8.0.0/16",
    ];
    assert!(redirect(&place, &narrow).status.success());
    let rules = in_force(&place);
    assert!(!rules.contains("SELVEDGE"), "{rules}");
    assert!(
        rules.contains("ip daddr 10.8.0.0/16 tcp dport 80 redirect to :15001"),
        "{rules}"
    );
}

#[test]
fn what_is_missing_is_named() {
    let place = Namespace::new();
    let mut unprivileged = place.command_of(1000, binary());
    let output = unprivileged.arg("redirect").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("NET_ADMIN"), "{}", said(&output));
    // Tools are looked for where PATH says: nowhere.
    let mut bare = place.command("env");
    let bare = bare.args(["PATH=/nowhere"]).arg(binary()).arg("redirect");
    let output = bare.output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(
        said(&output).contains("install the package `nftables`"),
        "{}",
        said(&output)
    );
    assert!(redirect(&place, &[]).status.success());
    let output = redirect(&place, &["--verify-only"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(
        said(&output).contains("there is no route"),
        "{}",
        said(&output)
    );
    let mut exempt = place.command_of(1337, binary());
    let output = exempt.args(["redirect", "--verify-only"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(
        said(&output).contains("the user of the sidecar"),
        "{}",
        said(&output)
    );
}

#[test]
fn where_nftables_fails_iptables_takes_its_place() {
    let place = Namespace::new();
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("nft");
    std::fs::write(&broken, "#!/bin/sh\necho no such kernel >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&broken, Permissions::from_mode(0o755)).unwrap();
    let path = format!(
        "PATH={}:/usr/sbin:/usr/bin:/sbin:/bin",
        dir.path().display()
    );
    let mut command = place.command("env");
    let output = command
        .arg(&path)
        .arg(binary())
        .arg("redirect")
        .output()
        .unwrap();
    assert!(
        said(&output).contains("warning: nft: no such kernel"),
        "{}",
        said(&output)
    );
    assert!(output.status.success(), "{}", said(&output));
    assert!(in_force(&place).contains("-A SELVEDGE_OUTPUT"));
    let mut command = place.command("env");
    let named = command
        .arg(&path)
        .arg(binary())
        .args(["redirect", "--backend", "nft"]);
    let output = named.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("error: nft: no such kernel"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_dry_run_prints_and_needs_no_right() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=1000", "--regid=1000", "--clear-groups"]);
        let command = command.arg(binary()).arg("redirect").args(arguments);
        command.output().unwrap()
    };
    let output = run(&[
        "--dry-run",
        "--skip-inbound-ports",
        "8080",
        "--skip-inbound-ports",
        "9090",
    ]);
    assert!(output.status.success());
    for part in [
        "# nft -f -",
        "tcp dport { 8080, 9090, 15020 } return",
        "# ip6tables-restore --noflush",
        "--dports 8080,9090,15020 -j RETURN",
    ] {
        assert!(said(&output).contains(part), "{}", said(&output));
    }
    let output = run(&[
        "--dry-run",
        "--backend",
        "nft",
        "--outbound-cidrs",
        "10.0.0.1/8",
        "--proxy-gid",
        "0",
    ]);
    assert_eq!(output.status.code(), Some(2));
    for part in [
        "error: --proxy-gid: ",
        "error: --outbound-cidrs, entry 1: ",
        "did you mean `10.0.0.0/8`?",
    ] {
        assert!(said(&output).contains(part), "{}", said(&output));
    }
}
