//! The certificate authority through its public interface: real files, real chains, real sockets.

// `cfg(test)` tells the linter that the functions beside the tests are tests as well.
#[cfg(test)]
mod authority;
#[cfg(test)]
mod issue;
#[cfg(test)]
mod serve;
#[cfg(test)]
mod support;
#[cfg(test)]
mod token;
