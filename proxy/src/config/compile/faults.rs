//! Policies of failures on purpose.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use selvedge_contract::config::{FaultPolicy, GrpcCode};

use crate::policy::fault::{Chance, Fault, Refusal};

use super::{At, Pass};

/// Longest wait.
const LONGEST: Duration = Duration::from_secs(300);

impl Pass<'_> {
    /// A `fault` policy.
    pub(super) fn fault(&mut self, at: &At, name: &str, spec: &FaultPolicy) -> Fault {
        if spec.delay.is_none() && spec.abort.is_none() {
            self.error(
                at,
                "nothing would ever fail",
                "set `delay`, `abort`, or both",
            );
        }
        let delay = spec.delay.as_ref().map(|delay| {
            let at = at.then("delay");
            if delay.duration.0 > LONGEST {
                let told = "longer than a caller waits";
                self.error(&at.then("duration"), told, "expected 5m at most");
            }
            (self.chance(&at, delay.percentage), delay.duration.0)
        });
        let abort = spec.abort.as_ref().map(|abort| {
            let at = at.then("abort");
            let status = abort.status.unwrap_or(503);
            if !(400..600).contains(&status) {
                let told = format!("{status} is no failure");
                self.error(
                    &at.then("status"),
                    told,
                    "expected a status from 400 to 599",
                );
            }
            let refusal = Refusal {
                status: StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
                grpc: abort.grpc.unwrap_or(GrpcCode::Unavailable).number(),
            };
            (self.chance(&at, abort.percentage), refusal)
        });
        Fault {
            name: Arc::from(name),
            delay,
            abort,
        }
    }

    fn chance(&mut self, at: &At, percentage: f64) -> Chance {
        if !(0.0..=100.0).contains(&percentage) {
            let told = format!("{percentage} in a hundred");
            self.error(&at.then("percentage"), told, "expected 0 to 100");
        }
        Chance(percentage)
    }
}
