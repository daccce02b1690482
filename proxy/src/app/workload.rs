//! Beside the path: the socket for the application, kept as the configuration says.

use std::path::Path;
use std::sync::Arc;

use selvedge_contract::config::WorkloadApi;

use super::StartError;
use crate::config::Snapshot;
use crate::identity::Keeper;
use crate::identity::applicant::Applicant;
use crate::workload::Endpoint;

/// What is served, and where.
#[derive(Debug, Default)]
pub(super) struct Workload {
    /// One for as long as the process lives: its certificate outlives a change of the socket.
    applicant: Option<Arc<Applicant>>,
    endpoint: Option<(WorkloadApi, Endpoint)>,
}

/// A socket that is bound where it has to be, and not in force yet.
#[derive(Debug)]
pub(super) enum Next {
    /// None is asked for.
    Nothing,
    /// The one that is there; who may ask may be others.
    Same(WorkloadApi),
    /// Another.
    Other(WorkloadApi, Endpoint),
}

impl Workload {
    /// Binds what this configuration asks for.
    ///
    /// # Errors
    /// [`StartError::Trust`] with the path and what is wrong; nothing has changed then.
    pub(super) fn plan(
        &mut self,
        snapshot: &Snapshot,
        keeper: Option<&Keeper>,
    ) -> Result<Next, StartError> {
        let spec = snapshot.source.identity.as_ref();
        let spec = spec.and_then(|spec| spec.workload_api.clone());
        let (Some(spec), Some(keeper)) = (spec, keeper) else {
            return Ok(Next::Nothing);
        };
        let there = self.endpoint.as_ref().map(|(_, endpoint)| endpoint.path());
        if there == Some(Path::new(&spec.socket)) {
            return Ok(Next::Same(spec));
        }
        let failed = |why: &dyn std::fmt::Display| {
            StartError::Trust(format!("workloadApi: {}: {why}", spec.socket))
        };
        if self.applicant.is_none() {
            self.applicant = keeper.applicant();
        }
        let Some(applicant) = self.applicant.clone() else {
            return Err(failed(&"there is no CA to ask"));
        };
        let endpoint = Endpoint::start(&spec, applicant).map_err(|error| failed(&error))?;
        Ok(Next::Other(spec, endpoint))
    }

    /// Puts it in force.
    pub(super) fn apply(&mut self, next: Next) {
        self.endpoint = match (next, self.endpoint.take()) {
            (Next::Nothing, _) => None,
            (Next::Other(spec, endpoint), _) => Some((spec, endpoint)),
            (Next::Same(spec), Some((before, endpoint))) => {
                if spec != before
                    && let Err(error) = endpoint.admit(&spec)
                {
                    tracing::error!(%error, "workload API: who may ask stays as it was");
                }
                Some((spec, endpoint))
            }
            (Next::Same(_), None) => None,
        };
    }
}
