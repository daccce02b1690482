//! The CA's wire messages: `istio.v1.auth.IstioCertificateService`, generated from `proto/`.

/// Generated client, server and messages.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::unwrap_used,
    clippy::use_self,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/istio.v1.auth.rs"));
}

pub use generated::istio_certificate_service_client::IstioCertificateServiceClient;
pub use generated::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
pub use generated::{IstioCertificateRequest, IstioCertificateResponse};
