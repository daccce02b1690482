//! Part of stage 7, balance: the atomics on which workers meet. Under the feature `model-check` they are those
//! of a checker, which runs threads in every order that it draws (`balance/model.rs`).

#[cfg(feature = "model-check")]
pub(super) use shuttle::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(not(feature = "model-check"))]
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64};
