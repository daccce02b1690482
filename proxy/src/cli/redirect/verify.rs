//! A probe through the rules: what is sent to an address that nobody has must come out where the
//! sidecar listens, and say where it was going.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use selvedge_injector::{Family, Plan};
use socket2::SockRef;

use crate::accept::original::original_destination;

use super::Failure;

/// The probe does not leave the machine if the rules hold.
const PATIENCE: Duration = Duration::from_secs(5);

/// Probes each family that has a route; gives a line for each.
///
/// # Errors
/// [`Failure::Unverified`].
pub(super) fn verify(plan: &Plan, proxy_gid: u32) -> Result<Vec<String>, Failure> {
    let own = rustix::process::geteuid().as_raw();
    if own == plan.proxy_uid() || rustix::process::getegid().as_raw() == proxy_gid {
        let why = "this is the user of the sidecar, whom the rules let by; probe as another one";
        return Err(Failure::Unverified(why.to_owned()));
    }
    let mut families = vec![Family::V4];
    families.extend(plan.ipv6().then_some(Family::V6));
    let (mut lines, mut verified) = (Vec::new(), false);
    for family in families {
        let name = match family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let found = match plan.probe(family) {
            None => Ok(None),
            Some(to) => probe(to, plan.outbound_port()).map(|found| found.map(|how| (to, how))),
        };
        match found {
            Ok(Some((to, how))) => {
                verified = true;
                lines.push(format!("verified {name}: what goes to {to} {how}"));
            }
            Ok(None) => lines.push(format!("{name}: nothing to verify, there is no way out")),
            Err(why) => return Err(Failure::Unverified(format!("{name}: {why}"))),
        }
    }
    if !verified {
        let why = "there is no route, so nothing can be sent; give the namespace one";
        return Err(Failure::Unverified(why.to_owned()));
    }
    Ok(lines)
}

/// Says how the probe came out. `None`: there is no route.
fn probe(to: SocketAddr, port: u16) -> Result<Option<String>, String> {
    let loopback = match to {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let here = SocketAddr::new(loopback, port);
    // A sidecar that runs has the port; then its taking the probe has to be enough.
    let listener = match TcpListener::bind(here) {
        Ok(listener) => Some(listener),
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        Err(error) => return Err(format!("{here}: {error}")),
    };
    let sent = match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(sent) => sent,
        Err(error) => {
            // Rules come behind routes: without one, nothing gets as far as to them.
            if error.kind() == ErrorKind::NetworkUnreachable {
                return Ok(None);
            }
            return Err(format!(
                "{to} was not redirected ({error}); are the rules there, in this namespace?"
            ));
        }
    };
    let Some(listener) = listener else {
        return Ok(Some("is taken where the sidecar listens".to_owned()));
    };
    let came = receive(&listener, sent)
        .map_err(|error| format!("{to} was taken by somebody else than {here} ({error})"))?;
    if came != to {
        return Err(format!("{to} came out as {came}; is `nf_conntrack` there?"));
    }
    Ok(Some(format!("comes out at {here}")))
}

/// Takes the probe, and makes sure that it is ours; gives where it was going.
fn receive(listener: &TcpListener, mut sent: TcpStream) -> io::Result<SocketAddr> {
    let sign = fastrand::u128(..).to_be_bytes();
    sent.write_all(&sign)?;
    // Of a listener, this bounds accepting.
    SockRef::from(listener).set_read_timeout(Some(PATIENCE))?;
    let (mut taken, _) = listener.accept()?;
    taken.set_read_timeout(Some(PATIENCE))?;
    let mut read = [0; 16];
    taken.read_exact(&mut read)?;
    if read != sign {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok(original_destination(&taken, taken.local_addr()?))
}
