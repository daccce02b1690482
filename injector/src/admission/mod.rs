//! Injector: what the API server asks when a pod is created (AdmissionReview v1), and what it is told.
//!
//! [`review`] reads the question, [`answer()`] decides and writes. Both are pure: who fetches what is known of
//! a namespace, and serves this over TLS, is `selvedge injector`.

pub mod answer;
mod patch;
pub mod review;

pub use answer::{Answer, Verdict, answer};
pub use review::{Malformed, Review};
