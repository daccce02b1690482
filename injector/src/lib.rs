//! How the sidecar gets into a pod, and before the traffic of its application: decisions as pure functions, no
//! system call among them.
//!
//! [`Plan`] is what is redirected, checked once when it is made; [`nft`] and [`iptables`] write it as
//! rules. Who applies them is `selvedge redirect`. [`pods`] changes the objects that pods are made from;
//! [`admission`] does so when the API server asks.

pub mod admission;
pub mod iptables;
pub mod list;
pub mod nft;
pub mod plan;
pub mod pods;

pub use list::{Cidr, Interface, Ports, Problem};
pub use plan::{Family, Plan, Wanted};
