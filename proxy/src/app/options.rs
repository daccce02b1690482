//! How a process is started, and why it may not be.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use selvedge_contract::config::Config;

use crate::config::load::{Loaded, load};
use crate::config::tree::Node;
use crate::config::{Mode, Report};
use crate::identity::{self, Source};

use super::findings::findings_of;

/// How a process is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// What it is.
    pub mode: Mode,
    /// Where the configuration is.
    pub config: ConfigInput,
    /// Worker threads; `None` is the default of the mode.
    pub workers: Option<usize>,
    /// Where certificates come from instead of what the configuration says; for dev mode.
    pub source: Option<Source>,
    /// The ports are held by whoever starts this: they need not be free.
    pub held_ports: bool,
}

/// Where a configuration is.
#[derive(Debug, Clone)]
pub enum ConfigInput {
    /// In files and directories, merged.
    Files(Vec<PathBuf>),
    /// Here already.
    Memory(Box<Config>),
}

impl ConfigInput {
    pub(super) fn load(&self, mode: Mode) -> Result<Loaded<Config>, Report> {
        match self {
            Self::Files(paths) => {
                load(paths).map_err(|broken| broken.judge(|guess| findings_of(guess, mode)))
            }
            Self::Memory(config) => Ok(Loaded {
                config: (**config).clone(),
                tree: Node::empty(0),
                report: Report::default(),
            }),
        }
    }

    /// The files and directories, to be watched.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::Files(paths) => paths.clone(),
            Self::Memory(_) => Vec::new(),
        }
    }
}

/// Why a process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file that says whom to trust.
    #[error("identity.{0}")]
    Trust(String),
    /// The configuration.
    #[error("the configuration has errors:\n\n{}", .0.to_text())]
    Config(Report),
    /// A port.
    #[error("cannot listen on {address} ({name}): {source}")]
    Bind {
        /// Listener.
        name: String,
        /// Address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The identity.
    #[error("identity: {0}")]
    Identity(#[from] identity::IdentityError),
    /// Discovery.
    #[error("discovery: {0}")]
    Discovery(String),
    /// A thread or a runtime.
    #[error("{0}")]
    System(#[from] io::Error),
}
