//! Calls of gRPC: which methods have metrics of their own.

/// Methods of gRPC with series of their own, some twenty each; calls of others are counted together.
pub const METHODS: usize = 200;
/// So many of them at most belong to one pair of route and service: a backend that takes any name leaves room for
/// others.
pub const METHODS_OF_ONE: usize = 150;
/// Bytes of a path of gRPC, service and method, that may become labels.
pub const METHOD_BYTES: usize = 192;
