//! Plans and the rules that they become, word for word; and texts that are no plan.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that fails should panic"
)]

use std::path::Path;

use selvedge_injector::{Family, Plan, Wanted, iptables, nft};

fn list(entries: &[&str]) -> Vec<String> {
    entries.iter().map(ToString::to_string).collect()
}

/// Every setting at once.
fn everything() -> Wanted {
    let sixteen: Vec<String> = (0..16).map(|n| (7000 + 2 * n).to_string()).collect();
    Wanted {
        proxy_uid: 2000,
        proxy_gid: 2001,
        inbound_port: 16,
        outbound_port: 17,
        inbound_ports: list(&["80,8000-8100", "443"]),
        skip_inbound_ports: list(&["9000-9002,9001-9005"]),
        skip_inbound_from: list(&["10.9.0.0/16,10.9.1.0/24", "fd00:9::/64"]),
        outbound_ports: vec![sixteen.join(","), "9000-9100".to_owned()],
        skip_outbound_ports: list(&["25,3306"]),
        outbound_cidrs: list(&["10.0.0.0/8,fd00::/8"]),
        skip_outbound_cidrs: list(&["169.254.169.254", "10.1.2.0/24", "fd00:1::1"]),
        skip_interfaces: list(&["eth1,cali*"]),
        outbound_interfaces: list(&["tap0"]),
        ipv6: true,
    }
}

fn plan(wanted: &Wanted) -> Plan {
    Plan::new(wanted).unwrap_or_else(|problems| panic!("{problems:?}"))
}

#[track_caller]
fn golden(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let wanted = std::fs::read_to_string(&file).unwrap_or_default();
    if wanted != text {
        let now = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&now, text).unwrap();
        panic!("{} is not what {} has", now.display(), file.display());
    }
}

#[test]
fn rules_word_for_word() {
    let ipv4 = Wanted {
        ipv6: false,
        ..Wanted::default()
    };
    for (name, wanted) in [
        ("default", Wanted::default()),
        ("ipv4-only", ipv4),
        ("everything", everything()),
    ] {
        let plan = plan(&wanted);
        golden(&format!("{name}.nft"), &nft::rules(&plan));
        golden(
            &format!("{name}.v4"),
            &iptables::rules(&plan, Family::V4, ""),
        );
        golden(
            &format!("{name}.v6"),
            &iptables::rules(&plan, Family::V6, ""),
        );
    }
}

/// As `iptables-save` prints what is in force, with rules of somebody else around ours.
const PRESENT: &str = "# Generated\n*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]
:OTHERS - [0:0]\n:SELVEDGE_OUTPUT - [0:0]\n:SELVEDGE_PREROUTING - [0:0]
:SELVEDGE_TO_INBOUND - [0:0]\n:SELVEDGE_TO_OUTBOUND - [0:0]
-A PREROUTING -p tcp -j SELVEDGE_PREROUTING\n-A OUTPUT -p tcp -j SELVEDGE_OUTPUT
-A OUTPUT -p tcp -j OTHERS\n-A SELVEDGE_OUTPUT -o lo -j RETURN\nCOMMIT\n";

#[test]
fn what_is_there_is_not_added_again_and_only_ours_is_removed() {
    let again = iptables::rules(&plan(&Wanted::default()), Family::V4, PRESENT);
    assert!(!again.contains("-A PREROUTING") && !again.contains("-A OUTPUT "));
    assert!(again.contains(":SELVEDGE_OUTPUT - [0:0]"), "emptied");
    let gone = iptables::cleanup(PRESENT).unwrap();
    golden("cleanup.v4", &gone);
    assert_eq!(
        iptables::cleanup("*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"),
        None
    );
    // What was left half done, or done twice by hand.
    let half = "*nat\n:SELVEDGE_TO_INBOUND - [0:0]\nCOMMIT\n";
    let text = "*nat\n-F SELVEDGE_TO_INBOUND\n-X SELVEDGE_TO_INBOUND\nCOMMIT\n";
    assert_eq!(iptables::cleanup(half).as_deref(), Some(text));
    let jump = "-A OUTPUT -p tcp -j SELVEDGE_OUTPUT\n";
    let twice = PRESENT.replace(jump, &jump.repeat(2));
    let gone = iptables::cleanup(&twice).unwrap();
    assert_eq!(
        gone.matches("-D OUTPUT -p tcp -j SELVEDGE_OUTPUT").count(),
        2
    );
}

#[test]
fn every_mistake_is_named_with_its_place_and_its_remedy() {
    let wanted = Wanted {
        proxy_uid: 0,
        inbound_port: 0,
        outbound_port: 0,
        skip_inbound_ports: list(&["80,,+81", "90-80,0,65536, 1,08"]),
        outbound_cidrs: list(&["10.0.0.1/8,10.0.0.0/33,10.0.0/8,::1/0x8,example.com"]),
        skip_outbound_cidrs: list(&["::ffff:10.0.0.0/104,2001:db8::1/32"]),
        skip_interfaces: list(&["eth0,lo,\"; flush ruleset,*,sixteen-letters-"]),
        outbound_interfaces: list(&["eth0"]),
        ..Wanted::default()
    };
    let problems = Plan::new(&wanted).unwrap_err();
    let text: Vec<String> = problems.iter().map(|p| format!("{p}\n")).collect();
    golden("problems.txt", &text.concat());
}

#[test]
fn lists_have_an_end() {
    let ports: Vec<String> = (1..1000).map(|n| (n * 3).to_string()).collect();
    let wanted = Wanted {
        skip_outbound_ports: vec![ports.join(",")],
        ..Wanted::default()
    };
    let problems = Plan::new(&wanted).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].what.contains("more than 256"), "{problems:?}");
}

#[test]
fn what_a_plan_takes_and_where_a_probe_goes() {
    let all = plan(&Wanted::default());
    let to = |text: &str| text.parse().unwrap();
    assert!(all.takes_outbound(to("10.0.0.1:80")) && all.takes_outbound(to("[fd00::1]:80")));
    assert!(!all.takes_outbound(to("127.0.0.1:80")) && !all.takes_outbound(to("[::1]:80")));
    assert_eq!(all.probe(Family::V4), Some(to("192.0.2.2:1404")));
    assert_eq!(all.probe(Family::V6), Some(to("[2001:db8::2]:1404")));

    let some = plan(&everything());
    for (address, taken) in [
        ("10.2.0.1:7000", true),
        ("10.2.0.1:9050", true),
        ("10.2.0.1:80", false),
        ("10.1.2.3:7000", false),
        ("11.0.0.1:7000", false),
        ("[fd00::1]:7002", true),
        ("[fd00:1::1]:7002", false),
        ("[2001:db8::1]:7002", false),
    ] {
        assert_eq!(some.takes_outbound(to(address)), taken, "{address}");
    }
    assert_eq!(some.probe(Family::V4), Some(to("10.0.0.0:7000")));
    let none = plan(&Wanted {
        skip_outbound_cidrs: list(&["0.0.0.0/0"]),
        skip_outbound_ports: list(&["1404"]),
        ..Wanted::default()
    });
    assert_eq!(none.probe(Family::V4), None);
    assert_eq!(none.probe(Family::V6), Some(to("[2001:db8::2]:1405")));
}
