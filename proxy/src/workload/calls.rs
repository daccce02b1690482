//! Which call goes where, and what each has to bring: the header of the Workload API, and a user who may ask.

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hyper::body::Incoming;
use selvedge_contract::defaults::workload::{ANSWER, MESSAGE};
use selvedge_contract::workload::secrets::secret_discovery_service_server::SecretDiscoveryServiceServer;
use selvedge_contract::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;

use super::Access;
use super::secrets::SecretService;
use super::service::WorkloadService;
use crate::identity::applicant::Applicant;

/// What shows that a caller means this API, and was not led to it (Workload Endpoint, section 4).
const HEADER: &str = "workload.spiffe.io";

/// Who asks, as the kernel says; in each request's extensions.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: Option<i32>,
    pub(super) access: Arc<ArcSwap<Access>>,
    /// Ends the streams.
    pub(super) shutdown: CancellationToken,
}

/// What can be called.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    workload: SpiffeWorkloadApiServer<WorkloadService>,
    secrets: SecretDiscoveryServiceServer<SecretService>,
}

impl Calls {
    pub(super) fn new(applicant: Arc<Applicant>) -> Self {
        let workload = WorkloadService::new(applicant.clone());
        let secrets = SecretService::new(applicant);
        Self {
            workload: SpiffeWorkloadApiServer::new(workload)
                .max_decoding_message_size(MESSAGE)
                .max_encoding_message_size(ANSWER),
            secrets: SecretDiscoveryServiceServer::new(secrets)
                .max_decoding_message_size(MESSAGE)
                .max_encoding_message_size(ANSWER),
        }
    }

    pub(super) async fn answer(
        mut self,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Body>, Infallible> {
        let path = request.uri().path();
        let secrets = path.starts_with("/envoy.service.secret.v3.SecretDiscoveryService/");
        let refused = match secrets {
            // Envoy does not send it.
            true => may_ask(&request),
            false => means_it(&request).and_then(|()| may_ask(&request)),
        };
        match refused {
            Err(status) => Ok(status.into_http()),
            Ok(()) if secrets => self.secrets.call(request).await,
            Ok(()) => self.workload.call(request).await,
        }
    }
}

fn means_it(request: &http::Request<Incoming>) -> Result<(), Status> {
    let mut values = request.headers().get_all(HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(()),
        _ => {
            let told = "security header missing from request: expected `workload.spiffe.io: true`";
            Err(Status::invalid_argument(told))
        }
    }
}

fn may_ask(request: &http::Request<Incoming>) -> Result<(), Status> {
    let asking = request.extensions().get::<Asking>();
    let asking = asking.ok_or_else(|| Status::internal("internal error"))?;
    let Asking { uid, gid, pid, .. } = asking;
    if asking.access.load().admits(*uid, *gid) {
        return Ok(());
    }
    tracing::warn!(uid, gid, pid, "workload API: refused");
    Err(Status::permission_denied("no identity issued"))
}
