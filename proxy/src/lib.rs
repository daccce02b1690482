//! Map of a request, and the modules in the order in which it meets them.
//!
//! 1. [`accept`]: a socket becomes a connection with its facts.
//! 2. [`tls`]: sessions, certificates, who the peer is.
//! 3. [`protocol`]: bytes become requests; responses become bytes.
//! 4. [`exchange`]: the spine, which calls 5 to 9 and is the only one to do so.
//! 5. [`route`]: which rule.
//! 6. [`policy`]: whether, and in which form; gives a `Permit`.
//! 7. [`balance`]: which endpoint; gives a `Lease`.
//! 8. [`upstream`]: the request goes out, a response head comes back.
//! 9. [`respond`]: what the client gets, and how it ended.
//!
//! Beside the path: [`message`] (what the stages hand each other), [`error`] (what can go wrong),
//! [`config`] (files to snapshot), [`worker`] and [`app`] (threads), [`identity`] (certificates of
//! one's own), [`workload`] (what the application is given), [`acme`] (public certificates),
//! [`discover`] (endpoints by DNS and from a cluster), [`health`] (whether they are well), `kubernetes` (its API), `webhook` (new pods),
//! `attest` (whose tokens the CA takes), [`pages`] and [`overload`] (memory), [`telemetry`], [`admin`], [`drain`].

pub mod accept;
pub mod acme;
pub mod admin;
pub mod app;
#[cfg(feature = "ca")]
pub mod attest;
pub mod balance;
pub mod cache;
pub mod cli;
pub mod config;
pub mod discover;
pub mod drain;
pub mod error;
pub mod exchange;
pub mod fetch;
pub mod health;
pub mod identity;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod message;
pub mod overload;
pub mod pages;
pub mod policy;
pub mod protocol;
pub mod respond;
pub mod route;
pub mod telemetry;
pub mod timer;
pub mod tls;
pub mod upstream;
#[cfg(feature = "injector")]
pub mod webhook;
pub mod worker;
pub mod workload;
