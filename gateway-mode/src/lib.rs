//! North-south decisions as pure functions: no sockets, no clock, no configuration files.
//!
//! - [`introspection`]: what an authorization server says of a token.
//! - [`jwt`]: whether a token is signed by a key and says what is asked for.
//! - [`oidc`]: how a user logs in at an issuer, and what a session holds.
//! - [`seal`]: texts that strangers keep and cannot read.
//! - [`limit`]: who has used up a rate.
//! - [`occupancy`]: how many requests of each client are on their way.
//! - [`apikey`]: whose a key is.
//! - [`aggregate`]: how the parts of an answer come together.
//! - [`address`]: which range of addresses one falls into.
//! - [`authorize`], [`expression`]: who may do what.
//! - [`basic`]: whether a password is a user's.
//! - [`body`]: edits of JSON documents.
//! - [`cache`]: what may be stored, and for how long it is of use.
//! - [`compression`]: which coding a client and a response agree on.
//! - [`cors`]: whose pages may call.
//! - [`difference`]: where two JSON documents differ.
//! - [`csrf`]: whether a page of one's own has sent something.
//! - [`redirect`]: where a `RequestRedirect` points.
//! - [`rewrite`]: what a path becomes.
//! - [`signature`]: whether a shared secret has signed a request.
//! - [`template`]: texts with values in them, escaped for where they go.
//! - [`geo`]: which country an address is in.
//! - [`hostname`]: which host names a pattern takes, and which of two is the more specific.

pub mod address;
pub mod aggregate;
pub mod apikey;
pub mod authorize;
pub mod basic;
pub mod body;
pub mod cache;
pub mod compression;
pub mod cors;
pub mod csrf;
pub mod difference;
pub mod expression;
pub mod geo;
pub mod hostname;
pub mod introspection;
pub mod jwt;
pub mod limit;
pub mod occupancy;
pub mod oidc;
pub mod redirect;
pub mod rewrite;
pub mod seal;
pub mod signature;
pub mod template;
