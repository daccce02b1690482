//! The tools that put rules in force, and what is asked of them: `nft` and `iptables-restore`, both of
//! which take a whole text or nothing of it.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use selvedge_injector::{Family, Plan, iptables, nft};

use super::Failure;

/// NET_ADMIN, as a bit of a set of capabilities.
const NET_ADMIN: u64 = 1 << 12;

/// Asks before a tool would say it in its own words. Where the kernel does not tell, the tool will.
///
/// # Errors
/// [`Failure::NoRight`].
pub(super) fn check_right() -> Result<(), Failure> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    match effective {
        Some(set) if set & NET_ADMIN == 0 => Err(Failure::NoRight),
        _ => Ok(()),
    }
}

/// Puts a plan in force by nftables.
pub(super) fn nft(plan: &Plan) -> Result<(), Failure> {
    ask("nft", &["-f", "-"], Some(&nft::rules(plan))).map(drop)
}

/// Removes the table of nftables; says whether it was there.
pub(super) fn remove_nft() -> Result<bool, Failure> {
    let tables = ask("nft", &["list", "tables", "inet"], None)?;
    let ours = format!("table inet {}", nft::TABLE);
    if !tables.lines().any(|line| line.trim() == ours) {
        return Ok(false);
    }
    ask("nft", &["-f", "-"], Some(&nft::cleanup()))?;
    Ok(true)
}

const fn names(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("iptables-save", "iptables-restore"),
        Family::V6 => ("ip6tables-save", "ip6tables-restore"),
    }
}

/// Puts a plan in force by iptables, for one family.
pub(super) fn iptables(plan: &Plan, family: Family) -> Result<(), Failure> {
    let present = ask(names(family).0, &["-t", "nat"], None)?;
    restore(family, &iptables::rules(plan, family, &present))
}

/// Removes what is ours from iptables; says whether anything was.
pub(super) fn remove_iptables(families: &[Family]) -> Result<bool, Failure> {
    let mut any = false;
    for family in families {
        let present = ask(names(*family).0, &["-t", "nat"], None)?;
        if let Some(text) = iptables::cleanup(&present) {
            restore(*family, &text)?;
            any = true;
        }
    }
    Ok(any)
}

/// Waits for others who change rules, for 5 seconds at most.
fn restore(family: Family, text: &str) -> Result<(), Failure> {
    let arguments = ["--noflush", "--wait", "5"];
    ask(names(family).1, &arguments, Some(text)).map(drop)
}

/// Runs a tool to its end; gives what it printed.
fn ask(tool: &'static str, arguments: &[&str], input: Option<&str>) -> Result<String, Failure> {
    let refused = |said: String| Failure::Refused { tool, said };
    let stdin = if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => Failure::NoTool(tool),
            _ => refused(error.to_string()),
        })?;
    // One that ends before it has read all says why, which is worth more than the broken pipe.
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        let _ = pipe.write_all(text.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| refused(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    Err(refused(if said.is_empty() {
        output.status.to_string()
    } else {
        said.to_owned()
    }))
}
