//! `selvedge redirect`: puts the rules in force that send an application's traffic through its
//! sidecar, or removes them.

mod tools;
mod verify;

use std::process::ExitCode;

use clap::ValueEnum;
use selvedge_contract::ports;
use selvedge_injector::{Family, Plan, Wanted, iptables, nft};

use super::{complain, say};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// User of the sidecar: what it sends is not redirected.
    #[arg(long, default_value_t = ports::PROXY_USER)]
    proxy_uid: u32,
    /// Group of the sidecar, for the same.
    #[arg(long, default_value_t = ports::PROXY_USER)]
    proxy_gid: u32,
    /// Port of the sidecar for what comes to the application.
    #[arg(long, default_value_t = ports::INBOUND)]
    inbound_port: u16,
    /// Port of the sidecar for what the application sends.
    #[arg(long, default_value_t = ports::OUTBOUND)]
    outbound_port: u16,
    /// Only these ports of the application, such as `80,8000-8100`. Default: all.
    #[arg(long, value_name = "PORTS")]
    inbound_ports: Vec<String>,
    /// Not these ports of the application. The sidecar's own port for health, 15020, never is.
    #[arg(long, value_name = "PORTS")]
    skip_inbound_ports: Vec<String>,
    /// Not what comes from these addresses, such as `10.0.0.0/8`.
    #[arg(long, value_name = "CIDRS")]
    skip_inbound_from: Vec<String>,
    /// Only what the application sends to these ports. Default: to all.
    #[arg(long, value_name = "PORTS")]
    outbound_ports: Vec<String>,
    /// Not what it sends to these ports.
    #[arg(long, value_name = "PORTS")]
    skip_outbound_ports: Vec<String>,
    /// Only what it sends to these addresses. Default: to all.
    #[arg(long, value_name = "CIDRS")]
    outbound_cidrs: Vec<String>,
    /// Not what it sends to these addresses.
    #[arg(long, value_name = "CIDRS")]
    skip_outbound_cidrs: Vec<String>,
    /// Not what comes by these interfaces; `tap*` means all that begin so.
    #[arg(long, value_name = "NAMES")]
    skip_interfaces: Vec<String>,
    /// What comes by these interfaces was sent by a machine inside, and goes the way of what the
    /// application sends. The sidecar must then listen for that on every address.
    #[arg(long, value_name = "NAMES")]
    outbound_interfaces: Vec<String>,
    /// Leave IPv6 alone.
    #[arg(long)]
    ipv4_only: bool,
    /// `nft`, `iptables`, or the first of these that works.
    #[arg(long, default_value = "auto")]
    backend: Backend,
    /// Print the rules and change nothing.
    #[arg(long, group = "what")]
    dry_run: bool,
    /// Remove the rules.
    #[arg(long, group = "what")]
    cleanup: bool,
    /// Afterwards, send a probe through the rules.
    #[arg(long, group = "what")]
    verify: bool,
    /// Send the probe and change nothing.
    #[arg(long, group = "what")]
    verify_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    Auto,
    Nft,
    Iptables,
}

/// Why it did not come to an end; each has an exit code of its own.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// What is wanted makes no sense.
    #[error("{0}")]
    Wanted(String),
    /// A tool said no.
    #[error("{tool}: {said}")]
    Refused {
        /// Which.
        tool: &'static str,
        /// What it said.
        said: String,
    },
    /// A tool is not there.
    #[error("there is no `{0}` here; install the package `nftables`, or `iptables`")]
    NoTool(&'static str),
    /// This process may not.
    #[error(
        "rules need the capability NET_ADMIN; run it as root of this network namespace, in a pod with `capabilities: {{ add: [NET_ADMIN] }}`"
    )]
    NoRight,
    /// The probe went another way.
    #[error("not verified: {0}")]
    Unverified(String),
}

impl Failure {
    fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Refused { .. } => 1,
            Self::Wanted(_) => 2,
            Self::NoTool(_) | Self::NoRight => 3,
            Self::Unverified(_) => 4,
        })
    }
}

/// Exit code 0 where all is well; 1: a tool refused, 2: the options make no sense, 3: no tool or no
/// right, 4: the probe went another way.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match go(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(format_args!("error: {failure}"));
            failure.code()
        }
    }
}

fn go(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.cleanup {
        return cleanup(arguments.backend);
    }
    let plan = plan(arguments)?;
    if arguments.dry_run {
        print(&plan, arguments.backend);
        return Ok(());
    }
    if !arguments.verify_only {
        let by = apply(&plan, arguments.backend)?;
        let families = if plan.ipv6() { "IPv4 and IPv6" } else { "IPv4" };
        say(format_args!(
            "redirected by {by}, {families}: inbound to {}, outbound to {}, but for user {}",
            arguments.inbound_port, arguments.outbound_port, arguments.proxy_uid
        ));
    }
    if arguments.verify || arguments.verify_only {
        for verified in verify::verify(&plan, arguments.proxy_gid)? {
            say(verified);
        }
    }
    Ok(())
}

fn plan(arguments: &Arguments) -> Result<Plan, Failure> {
    let wanted = Wanted {
        proxy_uid: arguments.proxy_uid,
        proxy_gid: arguments.proxy_gid,
        inbound_port: arguments.inbound_port,
        outbound_port: arguments.outbound_port,
        inbound_ports: arguments.inbound_ports.clone(),
        skip_inbound_ports: arguments.skip_inbound_ports.clone(),
        skip_inbound_from: arguments.skip_inbound_from.clone(),
        outbound_ports: arguments.outbound_ports.clone(),
        skip_outbound_ports: arguments.skip_outbound_ports.clone(),
        outbound_cidrs: arguments.outbound_cidrs.clone(),
        skip_outbound_cidrs: arguments.skip_outbound_cidrs.clone(),
        skip_interfaces: arguments.skip_interfaces.clone(),
        outbound_interfaces: arguments.outbound_interfaces.clone(),
        ipv6: !arguments.ipv4_only,
    };
    Plan::new(&wanted).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|p| format!("--{p}")).collect();
        Failure::Wanted(lines.join("\nerror: "))
    })
}

/// The text that each tool would be given, where nothing is in force yet.
fn print(plan: &Plan, backend: Backend) {
    if backend != Backend::Iptables {
        say("# nft -f -");
        say(nft::rules(plan).trim_end());
    }
    if backend != Backend::Nft {
        say("# iptables-restore --noflush");
        say(iptables::rules(plan, Family::V4, "").trim_end());
        if plan.ipv6() {
            say("# ip6tables-restore --noflush");
            say(iptables::rules(plan, Family::V6, "").trim_end());
        }
    }
}

/// Puts a plan in force by one backend, then takes back what the other may have in force.
fn apply(plan: &Plan, backend: Backend) -> Result<&'static str, Failure> {
    tools::check_right()?;
    let by_nft = match backend {
        Backend::Nft => {
            tools::nft(plan)?;
            true
        }
        Backend::Iptables => false,
        Backend::Auto => match tools::nft(plan) {
            Ok(()) => true,
            Err(Failure::NoTool(_)) => false,
            Err(refused) => {
                complain(format_args!(
                    "warning: {refused}; iptables is tried instead"
                ));
                false
            }
        },
    };
    let other = if by_nft {
        tools::remove_iptables(&[Family::V4, Family::V6])
    } else {
        tools::iptables(plan, Family::V4)?;
        if plan.ipv6() {
            tools::iptables(plan, Family::V6)?;
        } else {
            tools::remove_iptables(&[Family::V6])?;
        }
        tools::remove_nft()
    };
    match other {
        // Whoever is not there has nothing in force.
        Ok(_) | Err(Failure::NoTool(_)) => {}
        // Nor has who does not work with this kernel, as far as anyone can tell.
        Err(failure) => complain(format_args!(
            "warning: {failure}; rules that it has in force would stay"
        )),
    }
    Ok(if by_nft { "nftables" } else { "iptables" })
}

fn cleanup(backend: Backend) -> Result<(), Failure> {
    tools::check_right()?;
    let by_nft = (backend != Backend::Iptables).then(tools::remove_nft);
    let families = [Family::V4, Family::V6];
    let by_iptables = (backend != Backend::Nft).then(|| tools::remove_iptables(&families));
    let (mut removed, mut asked) = (false, false);
    let mut missing = None;
    for result in [by_nft, by_iptables].into_iter().flatten() {
        match result {
            Ok(some) => (removed, asked) = (removed || some, true),
            Err(Failure::NoTool(tool)) => missing = Some(tool),
            Err(failure) => return Err(failure),
        }
    }
    match missing {
        Some(tool) if !asked => Err(Failure::NoTool(tool)),
        _ if removed => {
            say("the rules are removed");
            Ok(())
        }
        _ => {
            say("nothing was redirected");
            Ok(())
        }
    }
}
