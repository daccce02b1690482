//! The CA's wire messages, generated from `proto/`: `istio.v1.auth.IstioCertificateService`, and what
//! only our own proxies ask for, `selvedge.ca.v1`.

crate::generated!(
    /// Generated client, server and messages.
    mod generated = "/istio.v1.auth.rs"
);

crate::generated!(
    /// The same of `selvedge.ca.v1`.
    mod ours = "/selvedge.ca.v1.rs"
);

/// Metadata of a certificate request: which process of its identity asks.
pub const INSTANCE: &str = "selvedge-instance";

pub use generated::istio_certificate_service_client::IstioCertificateServiceClient;
pub use generated::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
pub use generated::{IstioCertificateRequest, IstioCertificateResponse};
pub use ours::tokens_client::TokensClient;
pub use ours::tokens_server::{Tokens, TokensServer};
pub use ours::trust_client::TrustClient;
pub use ours::trust_server::{Trust, TrustServer};
pub use ours::{Bundle, Held, MintRequest, Minted};
