//! What is redirected: every choice checked, every list in normal form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use selvedge_contract::ports;

use crate::list::{Cidr, Interface, Ports, Problem};

/// What somebody asks for, as text. The names of its settings are those of the fields, with dashes.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// User of the sidecar: what it sends is not redirected.
    pub proxy_uid: u32,
    /// Its group, for the same.
    pub proxy_gid: u32,
    /// Where the sidecar takes what comes for the application.
    pub inbound_port: u16,
    /// Where it takes what the application sends.
    pub outbound_port: u16,
    /// Only these ports of the application. Empty: all.
    pub inbound_ports: Vec<String>,
    /// Not these.
    pub skip_inbound_ports: Vec<String>,
    /// Not what comes from these addresses.
    pub skip_inbound_from: Vec<String>,
    /// Only what goes to these ports. Empty: all.
    pub outbound_ports: Vec<String>,
    /// Not what goes to these.
    pub skip_outbound_ports: Vec<String>,
    /// Only what goes to these addresses. Empty: all.
    pub outbound_cidrs: Vec<String>,
    /// Not what goes to these.
    pub skip_outbound_cidrs: Vec<String>,
    /// Not what comes by these interfaces.
    pub skip_interfaces: Vec<String>,
    /// What comes by these was sent by a machine inside, and is treated as the application's.
    pub outbound_interfaces: Vec<String>,
    /// IPv6 too.
    pub ipv6: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            proxy_uid: ports::PROXY_USER,
            proxy_gid: ports::PROXY_USER,
            inbound_port: ports::INBOUND,
            outbound_port: ports::OUTBOUND,
            inbound_ports: Vec::new(),
            skip_inbound_ports: Vec::new(),
            skip_inbound_from: Vec::new(),
            outbound_ports: Vec::new(),
            skip_outbound_ports: Vec::new(),
            outbound_cidrs: Vec::new(),
            skip_outbound_cidrs: Vec::new(),
            skip_interfaces: Vec::new(),
            outbound_interfaces: Vec::new(),
            ipv6: true,
        }
    }
}

/// Version of the Internet Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// What is redirected. Only [`Plan::new`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) inbound: u16,
    pub(crate) outbound: u16,
    pub(crate) inbound_ports: Option<Ports>,
    pub(crate) skip_inbound_ports: Ports,
    pub(crate) skip_inbound_from: Vec<Cidr>,
    pub(crate) outbound_ports: Option<Ports>,
    pub(crate) skip_outbound_ports: Ports,
    pub(crate) outbound_cidrs: Option<Vec<Cidr>>,
    pub(crate) skip_outbound_cidrs: Vec<Cidr>,
    pub(crate) skip_interfaces: Vec<Interface>,
    pub(crate) outbound_interfaces: Vec<Interface>,
    pub(crate) ipv6: bool,
}

impl Plan {
    /// Checks what is wanted.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn new(wanted: &Wanted) -> Result<Self, Vec<Problem>> {
        let mut wrong = Vec::new();
        numbers(wanted, &mut wrong);
        let mut ports = |setting, lists: &[String]| Ports::read(setting, lists, &mut wrong);
        let inbound_ports = ports("inbound-ports", &wanted.inbound_ports);
        let skipped = ports("skip-inbound-ports", &wanted.skip_inbound_ports);
        let outbound_ports = ports("outbound-ports", &wanted.outbound_ports);
        let skip_outbound_ports = ports("skip-outbound-ports", &wanted.skip_outbound_ports);
        // Health is the sidecar's own, and has to answer whatever becomes of the rest.
        let mut skip_inbound_ports = skipped.ranges().to_vec();
        skip_inbound_ports.push((ports::HEALTH, ports::HEALTH));
        let mut cidrs = |setting, lists: &[String]| Cidr::read(setting, lists, &mut wrong);
        let skip_inbound_from = cidrs("skip-inbound-from", &wanted.skip_inbound_from);
        let outbound_cidrs = cidrs("outbound-cidrs", &wanted.outbound_cidrs);
        let skip_outbound_cidrs = cidrs("skip-outbound-cidrs", &wanted.skip_outbound_cidrs);
        let mut names = |setting, lists: &[String]| Interface::read(setting, lists, &mut wrong);
        let skip_interfaces = names("skip-interfaces", &wanted.skip_interfaces);
        let outbound_interfaces = names("outbound-interfaces", &wanted.outbound_interfaces);
        for both in skip_interfaces
            .iter()
            .filter(|i| outbound_interfaces.contains(i))
        {
            let what = format!("`{}` is in `skip-interfaces` too", both.nft());
            let remedy = "leave it in one of them";
            wrong.push(Problem::new("outbound-interfaces", what, remedy));
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(Self {
            uid: wanted.proxy_uid,
            gid: wanted.proxy_gid,
            inbound: wanted.inbound_port,
            outbound: wanted.outbound_port,
            inbound_ports: Some(inbound_ports).filter(|ports| !ports.is_empty()),
            skip_inbound_ports: Ports::of(skip_inbound_ports),
            skip_inbound_from,
            outbound_ports: Some(outbound_ports).filter(|ports| !ports.is_empty()),
            skip_outbound_ports,
            outbound_cidrs: Some(outbound_cidrs).filter(|cidrs| !cidrs.is_empty()),
            skip_outbound_cidrs,
            skip_interfaces,
            outbound_interfaces,
            ipv6: wanted.ipv6,
        })
    }

    /// Whether a connection of the application to this address goes to the sidecar.
    #[must_use]
    pub fn takes_outbound(&self, to: SocketAddr) -> bool {
        let ip = to.ip();
        let among = |cidrs: &[Cidr]| cidrs.iter().any(|cidr| cidr.contains(ip));
        let on_link = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let ports = self.outbound_ports.as_ref();
        let cidrs = self.outbound_cidrs.as_ref();
        (self.ipv6 || ip.is_ipv4())
            && !ip.is_loopback()
            && !on_link
            && !self.skip_outbound_ports.contains(to.port())
            && !among(&self.skip_outbound_cidrs)
            && ports.is_none_or(|ports| ports.contains(to.port()))
            && cidrs.is_none_or(|cidrs| among(cidrs))
    }

    /// Where a probe has to go so that it comes out at the sidecar: to an address that nobody has
    /// (RFC 5737, RFC 3849), as long as the plan takes one of those. `None`: the plan takes nothing of
    /// this family.
    #[must_use]
    pub fn probe(&self, family: Family) -> Option<SocketAddr> {
        let nobody: &[IpAddr] = match family {
            Family::V4 => &[
                IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
                IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)),
                IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2)),
            ],
            Family::V6 => &[IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2))],
        };
        let wanted = self.outbound_cidrs.iter().flatten();
        let ips = nobody.iter().copied().chain(
            wanted
                .map(|cidr| cidr.first())
                .filter(|ip| Family::of(*ip) == family),
        );
        let named = self.outbound_ports.iter().flat_map(Ports::ranges);
        // One behind what is skipped is not skipped, or there is none left.
        let behind = self.skip_outbound_ports.ranges().iter();
        let ports: Vec<u16> = [PROBE]
            .into_iter()
            .chain(named.map(|(first, _)| *first))
            .chain(behind.filter_map(|(_, last)| last.checked_add(1)))
            .collect();
        ips.flat_map(|ip| ports.iter().map(move |port| SocketAddr::new(ip, *port)))
            .find(|to| self.takes_outbound(*to))
    }

    /// Where the sidecar takes what the application sends.
    #[must_use]
    pub const fn outbound_port(&self) -> u16 {
        self.outbound
    }

    /// User of the sidecar.
    #[must_use]
    pub const fn proxy_uid(&self) -> u32 {
        self.uid
    }

    /// Whether IPv6 is redirected too.
    #[must_use]
    pub const fn ipv6(&self) -> bool {
        self.ipv6
    }
}

/// Neighbours on a link of IPv6: which link is not part of the address, and the kernel does not say it
/// of a connection that it has redirected. So nobody could carry one on.
pub(crate) const ON_LINK: &str = "fe80::/10";

/// Port of a probe, unless the plan does not take it. Nothing is registered for it.
const PROBE: u16 = 1404;

fn numbers(wanted: &Wanted, wrong: &mut Vec<Problem>) {
    for (setting, id) in [
        ("proxy-uid", wanted.proxy_uid),
        ("proxy-gid", wanted.proxy_gid),
    ] {
        if id == 0 {
            let what = "what root sends would all go past the sidecar";
            let remedy = "run the sidecar as a user of its own, such as 1337";
            wrong.push(Problem::new(setting, what, remedy));
        }
    }
    for (setting, port) in [
        ("inbound-port", wanted.inbound_port),
        ("outbound-port", wanted.outbound_port),
    ] {
        if port == 0 {
            let remedy = "name the port that the sidecar listens on";
            wrong.push(Problem::new(setting, "0 is no port", remedy));
        }
    }
    if wanted.inbound_port == wanted.outbound_port {
        let what = format!("{} is `inbound-port` too", wanted.outbound_port);
        let remedy = "give each direction a port of its own";
        wrong.push(Problem::new("outbound-port", what, remedy));
    }
}
