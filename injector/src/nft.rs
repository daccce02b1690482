//! A plan as one table of nftables, for IPv4 and IPv6 at once. `nft -f -` takes the whole text or
//! nothing of it.

use std::fmt::Write;

use selvedge_contract::ports::{APP_CLASS, APP_SOURCE};

use crate::list::{Cidr, Interface, Ports};
use crate::plan::{Family, ON_LINK, Plan};

/// The table, which holds nothing but these rules.
pub const TABLE: &str = "selvedge_redirect";

/// Text that removes the table; it has to be there.
#[must_use]
pub fn cleanup() -> String {
    format!("delete table inet {TABLE}\n")
}

/// Text that puts a plan in force in place of whatever plan was.
#[must_use]
pub fn rules(plan: &Plan) -> String {
    let mut out = String::new();
    // Declared first, so that there is always one to delete.
    let _ = writeln!(out, "table inet {TABLE}\n{}", cleanup().trim_end());
    let _ = writeln!(out, "table inet {TABLE} {{");
    to_inbound(&mut out, plan);
    to_outbound(&mut out, plan);
    prerouting(&mut out, plan);
    output(&mut out, plan);
    out.push_str("}\n");
    out
}

fn line(out: &mut String, rule: impl std::fmt::Display) {
    let _ = writeln!(out, "\t\t{rule}");
}

fn begin(out: &mut String, chain: &str) {
    let _ = writeln!(out, "\tchain {chain} {{");
}

/// Ends a chain; another follows unless it was the `last`.
fn end(out: &mut String, last: bool) {
    out.push_str(if last { "\t}\n" } else { "\t}\n\n" });
}

/// What goes to the application.
fn to_inbound(out: &mut String, plan: &Plan) {
    begin(out, "to_inbound");
    line(
        out,
        format_args!("tcp dport {} return", ports(&plan.skip_inbound_ports)),
    );
    let which = which_ports(plan.inbound_ports.as_ref());
    line(out, format_args!("{which}redirect to :{}", plan.inbound));
    end(out, false);
}

/// What the application sends.
fn to_outbound(out: &mut String, plan: &Plan) {
    begin(out, "to_outbound");
    if !plan.skip_outbound_ports.is_empty() {
        line(
            out,
            format_args!("tcp dport {} return", ports(&plan.skip_outbound_ports)),
        );
    }
    for range in by_family(&plan.skip_outbound_cidrs, "daddr") {
        line(out, format_args!("{range} return"));
    }
    let which = which_ports(plan.outbound_ports.as_ref());
    match &plan.outbound_cidrs {
        None => line(out, format_args!("{which}redirect to :{}", plan.outbound)),
        Some(cidrs) => {
            let which = plan.outbound_ports.as_ref().map_or("", |_| which.as_str());
            for range in by_family(cidrs, "daddr") {
                line(
                    out,
                    format_args!("{range} {which}redirect to :{}", plan.outbound),
                );
            }
        }
    }
    end(out, false);
}

fn prerouting(out: &mut String, plan: &Plan) {
    begin(out, "prerouting");
    line(
        out,
        "type nat hook prerouting priority -100; policy accept;",
    );
    only_ours(out, plan);
    let by = |interface: &Interface, then: &str| format!("iifname \"{}\" {then}", interface.nft());
    for interface in &plan.skip_interfaces {
        line(out, by(interface, "return"));
    }
    for interface in &plan.outbound_interfaces {
        line(out, by(interface, "goto to_outbound"));
    }
    for range in by_family(&plan.skip_inbound_from, "saddr") {
        line(out, format_args!("{range} return"));
    }
    line(out, "goto to_inbound");
    end(out, false);
}

fn output(out: &mut String, plan: &Plan) {
    begin(out, "output");
    line(out, "type nat hook output priority -100; policy accept;");
    only_ours(out, plan);
    let proxy = [
        format!("meta skuid {}", plan.uid),
        format!("meta skgid {}", plan.gid),
    ];
    // The sidecar reaches its application: told by where it comes from, as it is by nothing else.
    line(
        out,
        format_args!("oifname \"lo\" ip saddr {APP_SOURCE} return"),
    );
    for who in &proxy {
        line(
            out,
            format_args!("oifname \"lo\" {who} ip6 dscp {} return", APP_CLASS >> 2),
        );
    }
    // The sidecar calls an address of its own pod: the application has called its own service.
    for who in &proxy {
        line(
            out,
            format_args!("oifname \"lo\" {who} ip daddr != 127.0.0.0/8 goto to_inbound"),
        );
        line(
            out,
            format_args!("oifname \"lo\" {who} ip6 daddr != ::1 goto to_inbound"),
        );
    }
    line(out, "oifname \"lo\" return");
    for who in &proxy {
        line(out, format_args!("{who} return"));
    }
    line(out, format_args!("ip6 daddr {ON_LINK} return"));
    line(out, "goto to_outbound");
    end(out, true);
}

fn only_ours(out: &mut String, plan: &Plan) {
    if !plan.ipv6 {
        line(out, "meta nfproto ipv6 return");
    }
    line(out, "meta l4proto != tcp return");
}

fn which_ports(only: Option<&Ports>) -> String {
    match only {
        // The redirection itself has to know that it is TCP.
        None => "meta l4proto tcp ".to_owned(),
        Some(only) => format!("tcp dport {} ", ports(only)),
    }
}

fn ports(ports: &Ports) -> String {
    let one = |(first, last): &(u16, u16)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    let all: Vec<String> = ports.ranges().iter().map(one).collect();
    format!("{{ {} }}", all.join(", "))
}

/// One match for each family that occurs.
fn by_family(cidrs: &[Cidr], side: &str) -> Vec<String> {
    let of = |family, word: &str| {
        let mut all = cidrs
            .iter()
            .filter(|cidr| Family::of(cidr.first()) == family)
            .map(ToString::to_string);
        let first = all.next()?;
        let all = all.fold(first, |list, next| format!("{list}, {next}"));
        Some(format!("{word} {side} {{ {all} }}"))
    };
    [of(Family::V4, "ip"), of(Family::V6, "ip6")]
        .into_iter()
        .flatten()
        .collect()
}
