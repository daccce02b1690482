//! A plan as text for `iptables-restore --noflush`, once for each family: where there is no
//! nftables. A table is replaced as a whole, and chains of others are left alone.

use std::fmt::Write;

use selvedge_contract::ports::{APP_CLASS, APP_SOURCE};

use crate::list::{Cidr, Ports};
use crate::plan::{Family, ON_LINK, Plan};

const PREROUTING: &str = "SELVEDGE_PREROUTING";
const OUTPUT: &str = "SELVEDGE_OUTPUT";
const TO_INBOUND: &str = "SELVEDGE_TO_INBOUND";
const TO_OUTBOUND: &str = "SELVEDGE_TO_OUTBOUND";

/// Our chains; those that others jump to come first.
const CHAINS: [&str; 4] = [TO_INBOUND, TO_OUTBOUND, PREROUTING, OUTPUT];

/// Where the kernel comes by, and which of our chains takes over there.
const JUMPS: [&str; 2] = [
    "PREROUTING -p tcp -j SELVEDGE_PREROUTING",
    "OUTPUT -p tcp -j SELVEDGE_OUTPUT",
];

/// Ports that one rule may name; a range counts as two.
const MULTIPORT: usize = 15;

/// Text that puts a plan in force for one family. `present` is what `iptables-save -t nat` says: our
/// chains are written anew, and jumps to them are added only where there are none.
#[must_use]
pub fn rules(plan: &Plan, family: Family, present: &str) -> String {
    let mut out = String::from("*nat\n");
    for chain in CHAINS {
        let _ = writeln!(out, ":{chain} - [0:0]");
    }
    to_inbound(&mut out, plan);
    to_outbound(&mut out, plan, family);
    prerouting(&mut out, plan, family);
    output(&mut out, plan, family);
    for jump in JUMPS {
        if jumps(present, jump) == 0 {
            let _ = writeln!(out, "-A {jump}");
        }
    }
    out.push_str("COMMIT\n");
    out
}

/// Text that removes all that is ours, by what `iptables-save -t nat` says. `None`: nothing is.
#[must_use]
pub fn cleanup(present: &str) -> Option<String> {
    let mut out = String::from("*nat\n");
    for jump in JUMPS {
        for _ in 0..jumps(present, jump) {
            let _ = writeln!(out, "-D {jump}");
        }
    }
    let there = |chain: &&&str| {
        present
            .lines()
            .any(|line| line.starts_with(&format!(":{chain} ")))
    };
    let there: Vec<&&str> = CHAINS.iter().filter(there).collect();
    // All are emptied before the first is removed: one that is jumped to cannot be.
    for (flag, chains) in [("-F", &there), ("-X", &there)] {
        for chain in chains {
            let _ = writeln!(out, "{flag} {chain}");
        }
    }
    out.push_str("COMMIT\n");
    (out.lines().count() > 2).then_some(out)
}

fn jumps(present: &str, jump: &str) -> usize {
    let rule = format!("-A {jump}");
    present
        .lines()
        .filter(|line| line.trim_end() == rule)
        .count()
}

fn rule(out: &mut String, chain: &str, rest: impl std::fmt::Display) {
    let _ = writeln!(out, "-A {chain} {rest}");
}

/// What goes to the application.
fn to_inbound(out: &mut String, plan: &Plan) {
    for ports in multiport(&plan.skip_inbound_ports) {
        rule(out, TO_INBOUND, format_args!("{ports} -j RETURN"));
    }
    for ports in which_ports(plan.inbound_ports.as_ref()) {
        let to = plan.inbound;
        rule(
            out,
            TO_INBOUND,
            format_args!("{ports} -j REDIRECT --to-ports {to}"),
        );
    }
}

/// What the application sends.
fn to_outbound(out: &mut String, plan: &Plan, family: Family) {
    for ports in multiport(&plan.skip_outbound_ports) {
        rule(out, TO_OUTBOUND, format_args!("{ports} -j RETURN"));
    }
    for cidr in of(family, &plan.skip_outbound_cidrs) {
        rule(out, TO_OUTBOUND, format_args!("-d {cidr} -j RETURN"));
    }
    let ranges = match &plan.outbound_cidrs {
        None => vec![String::new()],
        Some(cidrs) => of(family, cidrs)
            .map(|cidr| format!("-d {cidr} "))
            .collect(),
    };
    for range in ranges {
        for ports in which_ports(plan.outbound_ports.as_ref()) {
            let to = plan.outbound;
            rule(
                out,
                TO_OUTBOUND,
                format_args!("{range}{ports} -j REDIRECT --to-ports {to}"),
            );
        }
    }
}

fn prerouting(out: &mut String, plan: &Plan, family: Family) {
    for interface in &plan.skip_interfaces {
        rule(
            out,
            PREROUTING,
            format_args!("-i {} -j RETURN", interface.iptables()),
        );
    }
    for interface in &plan.outbound_interfaces {
        rule(
            out,
            PREROUTING,
            format_args!("-i {} -g {TO_OUTBOUND}", interface.iptables()),
        );
    }
    for cidr in of(family, &plan.skip_inbound_from) {
        rule(out, PREROUTING, format_args!("-s {cidr} -j RETURN"));
    }
    rule(out, PREROUTING, format_args!("-g {TO_INBOUND}"));
}

fn output(out: &mut String, plan: &Plan, family: Family) {
    let proxy = [
        format!("-m owner --uid-owner {}", plan.uid),
        format!("-m owner --gid-owner {}", plan.gid),
    ];
    // The sidecar reaches its application: told by where it comes from, as it is by nothing else.
    let own = match family {
        Family::V4 => {
            rule(
                out,
                OUTPUT,
                format_args!("-o lo -s {APP_SOURCE}/32 -j RETURN"),
            );
            "127.0.0.0/8"
        }
        Family::V6 => {
            for who in &proxy {
                let class = APP_CLASS >> 2;
                rule(
                    out,
                    OUTPUT,
                    format_args!("-o lo {who} -m dscp --dscp {class} -j RETURN"),
                );
            }
            "::1/128"
        }
    };
    // The sidecar calls an address of its own pod: the application has called its own service.
    for who in &proxy {
        rule(
            out,
            OUTPUT,
            format_args!("! -d {own} -o lo {who} -g {TO_INBOUND}"),
        );
    }
    rule(out, OUTPUT, "-o lo -j RETURN");
    for who in &proxy {
        rule(out, OUTPUT, format_args!("{who} -j RETURN"));
    }
    if family == Family::V6 {
        rule(out, OUTPUT, format_args!("-d {ON_LINK} -j RETURN"));
    }
    rule(out, OUTPUT, format_args!("-g {TO_OUTBOUND}"));
}

fn of(family: Family, cidrs: &[Cidr]) -> impl Iterator<Item = &Cidr> {
    cidrs
        .iter()
        .filter(move |cidr| Family::of(cidr.first()) == family)
}

fn which_ports(only: Option<&Ports>) -> Vec<String> {
    only.map_or_else(|| vec!["-p tcp".to_owned()], multiport)
}

/// As many matches as it takes to name all of them.
fn multiport(ports: &Ports) -> Vec<String> {
    let mut matches: Vec<(usize, String)> = Vec::new();
    for (first, last) in ports.ranges() {
        let (cost, text) = if first == last {
            (1, first.to_string())
        } else {
            (2, format!("{first}:{last}"))
        };
        match matches.last_mut() {
            Some((used, list)) if *used + cost <= MULTIPORT => {
                *used += cost;
                list.push(',');
                list.push_str(&text);
            }
            _ => matches.push((cost, text)),
        }
    }
    let written = matches.into_iter();
    written
        .map(|(_, list)| format!("-p tcp -m multiport --dports {list}"))
        .collect()
}
