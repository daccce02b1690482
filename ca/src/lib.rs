//! Map of the certificate authority: who may ask, what is signed, with which keys, over which wire.
//!
//! One direction only: `server` → `service` → `attest`, `issue` → `authority` → `signer`, `disk`.
//!
//! - [`authority`]: what signs at this moment, and what is trusted.
//! - [`bundle`]: what is trusted, as proxies are given it.
//! - `generation`: one root with its intermediate: created, loaded, renewed.
//! - [`given`]: an intermediate that was made elsewhere.
//! - [`rotation`]: how a root is replaced: the states and their rules; `steps`: what each step does.
//! - [`log`]: every certificate and token, on the disk before it leaves the process.
//! - [`ledger`]: certificates that were issued here: no other proves anything.
//! - [`holders`]: which proxies there are, and which bundle each of them has.
//! - [`issue`]: a certificate for a proven identity; the request contributes only its public key.
//! - `jwt`: the key that signs JWT-SVIDs, and what it signs; [`mint`]: the call for them.
//! - `document`: what the CA publishes: the SPIFFE bundle.
//! - [`token`]: one-use join tokens, shared between processes through a directory.
//! - [`attest`]: what a caller shows (token, certificate) becomes a SPIFFE ID, or nothing.
//! - [`records`]: both of these together.
//! - [`revoked`]: certificates that count no more before their end.
//! - [`review`]: a token of the platform's (a Kubernetes service account's), for which the platform vouches.
//! - [`path_template`]: from the claims of a token to an identity.
//! - [`service`]: the gRPC call: limit, attest, issue, log.
//! - [`trust`]: the call by which proxies follow the bundle, and say which they have.
//! - [`status`]: what the CA says of itself; [`control`]: how the command line asks for it, and for the
//!   steps of a rotation.
//! - [`server`]: the socket: TLS, HTTP/2, limits, upkeep, shutdown.
//! - `signer`: one CA certificate with its key, and how both are made and checked.
//! - `csr`: a certificate request, reduced to the public key that signed it.
//! - `validity`: certificate times in whole seconds.
//! - `tls`: the CA's own TLS identity and how it is replaced while serving.
//! - `line`: one connection: its place, and how long it may stay.
//! - `crowd`: connections and streams of each address.
//! - `limit`: calls per second for each address and identity.
//! - `disk`: private files, written whole or not at all.

pub mod attest;
pub mod authority;
pub mod bundle;
pub mod control;
mod crowd;
mod csr;
mod disk;
mod document;
mod generation;
pub mod given;
pub mod holders;
pub mod issue;
mod jwt;
pub mod ledger;
mod limit;
mod line;
pub mod log;
pub mod mint;
pub mod path_template;
pub mod records;
pub mod review;
pub mod revoked;
pub mod rotation;
pub mod server;
pub mod service;
mod signer;
pub mod status;
mod steps;
mod tls;
pub mod token;
pub mod trust;
mod validity;

pub use authority::{Authority, AuthorityError};
pub use bundle::Bundle;
pub use csr::CsrError;
pub use disk::DiskError;
pub use given::{Given, Replaced};
pub use issue::{IssueError, Issued, Lives};
pub use records::Records;
pub use review::{Account, ReviewError, Reviewer};
pub use server::serve;
pub use service::CaService;
pub use tls::ServerIdentity;
pub use token::{TokenError, TokenStore};
