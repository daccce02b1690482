//! Map of the certificate authority: who may ask, what is signed, with which keys, over which wire.
//!
//! One direction only: `server` → `service` → `attest`, `issue` → `authority` → `signer`, `disk`.
//!
//! - [`authority`]: the root and the intermediate: created, loaded, renewed.
//! - [`issue`]: a certificate for a proven identity; the request contributes only its public key.
//! - [`token`]: one-use join tokens, shared between processes through a directory.
//! - [`attest`]: what a caller shows (token, certificate) becomes a SPIFFE ID, or nothing.
//! - [`review`]: a token of the platform's (a Kubernetes service account's), for which the platform vouches.
//! - [`service`]: the gRPC call: limit, attest, issue, log.
//! - [`server`]: the socket: TLS, HTTP/2, limits, upkeep, shutdown.
//! - `signer`: one CA certificate with its key, and how both are made and checked.
//! - `csr`: a certificate request, reduced to the public key that signed it.
//! - `validity`: certificate times in whole seconds.
//! - `tls`: the CA's own TLS identity and how it is replaced while serving.
//! - `limit`: calls per second for each address.
//! - `disk`: private files, written whole or not at all.

pub mod attest;
pub mod authority;
mod csr;
mod disk;
pub mod issue;
mod limit;
pub mod review;
pub mod server;
pub mod service;
mod signer;
mod tls;
pub mod token;
mod validity;

pub use authority::{Authority, AuthorityError};
pub use csr::CsrError;
pub use disk::DiskError;
pub use issue::{IssueError, Issued};
pub use review::{Account, ReviewError, Reviewer};
pub use server::serve;
pub use service::CaService;
pub use tls::ServerIdentity;
pub use token::{TokenError, TokenStore};
