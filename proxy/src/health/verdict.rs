//! Beside the path: what a row of checks makes of an endpoint. One failure is no verdict, nor is one
//! success after failures; but the very first check is all that is known.

use super::plan::Plan;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    unhealthy: bool,
    /// Checks in a row that speak against the verdict as it stands.
    against: u32,
    begun: bool,
}

impl Verdict {
    /// Goes on from what is known already.
    pub(super) const fn of(unhealthy: bool, begun: bool) -> Self {
        Self {
            unhealthy,
            against: 0,
            begun,
        }
    }

    /// Takes note of one more check; whether the endpoint is unhealthy now.
    pub(super) const fn after(&mut self, good: bool, plan: &Plan) -> bool {
        if good != self.unhealthy {
            self.against = 0;
        } else {
            self.against += 1;
            let enough = if self.unhealthy {
                plan.healthy_after
            } else {
                plan.unhealthy_after
            };
            if self.against >= enough || !self.begun {
                self.unhealthy = !self.unhealthy;
                self.against = 0;
            }
        }
        self.begun = true;
        self.unhealthy
    }

    /// Whether the last check speaks against the verdict as it stands.
    pub(super) const fn wavers(&self) -> bool {
        self.against > 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::plan::{Ask, Plan};
    use super::*;

    fn verdicts(checks: &str) -> String {
        let plan = Plan {
            ask: Ask::Tcp,
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            unhealthy_after: 3,
            healthy_after: 2,
        };
        let mut verdict = Verdict::default();
        let each = checks
            .chars()
            .map(|check| verdict.after(check == '+', &plan));
        each.map(|unhealthy| if unhealthy { 'x' } else { '.' })
            .collect()
    }

    #[test]
    fn three_failures_out_and_two_successes_in() {
        assert_eq!(verdicts("+--+---+-++-"), "......xxxx..");
        //                   "  the second of two successes in a row brings it back
    }

    #[test]
    fn the_first_check_counts_alone() {
        assert_eq!(verdicts("-+-++"), "xxxx.");
        assert_eq!(verdicts("+--"), "...");
    }
}
