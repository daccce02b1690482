//! The calls of the SPIFFE Workload API.

use std::sync::Arc;

use selvedge_contract::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use selvedge_contract::workload::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
    ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse,
    X509svidRequest, X509svidResponse,
};
use tonic::{Request, Response, Status};

use super::follow::{Answers, Changes, follow, shutdown};
use super::{jwt, x509};
use crate::identity::applicant::Applicant;

/// See the module; a clone shares everything.
#[derive(Debug, Clone)]
pub(super) struct WorkloadService {
    applicant: Arc<Applicant>,
}

impl WorkloadService {
    pub(super) const fn new(applicant: Arc<Applicant>) -> Self {
        Self { applicant }
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadService {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let ended = shutdown(&request)?;
        let changes = Changes::of(&self.applicant, true).await;
        let store = self.applicant.store().clone();
        let answers = follow(changes, ended, move |svid| x509::svid(&store, svid))?;
        Ok(Response::new(answers))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let ended = shutdown(&request)?;
        let changes = Changes::of(&self.applicant, false).await;
        let store = self.applicant.store().clone();
        let answers = follow(changes, ended, move |_| x509::bundles(&store))?;
        Ok(Response::new(answers))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let JwtsvidRequest {
            audience,
            spiffe_id,
        } = request.into_inner();
        jwt::check_audience(&audience)?;
        let identity = self.applicant.store().current();
        let identity = identity.filter(|_| self.applicant.store().is_ready());
        let identity = identity.ok_or_else(x509::none_yet)?;
        if !spiffe_id.is_empty() && *spiffe_id != *identity.id {
            return Err(Status::permission_denied("no identity issued"));
        }
        let svid = Jwtsvid {
            spiffe_id: identity.id.to_string(),
            svid: self.applicant.token(audience).await?.to_string(),
            hint: String::new(),
        };
        Ok(Response::new(JwtsvidResponse { svids: vec![svid] }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let ended = shutdown(&request)?;
        let changes = Changes::of(&self.applicant, false).await;
        let store = self.applicant.store().clone();
        let answers = follow(changes, ended, move |_| jwt::bundles(&store))?;
        Ok(Response::new(answers))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let answer = jwt::validate(self.applicant.store(), request.get_ref())?;
        Ok(Response::new(answer))
    }
}
