//! How the sidecar gets into a pod: whether ([`decide`]), as it wishes ([`options`]), as the installation
//! says ([`settings`]), from the object that holds it ([`workload`], [`stream`]).

pub mod containers;
pub mod decide;
pub mod options;
pub mod pod;
pub mod probes;
pub mod render;
pub mod settings;
pub mod socket;
pub mod stream;
pub mod workload;
