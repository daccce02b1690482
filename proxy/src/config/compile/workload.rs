//! The socket for the application: what is wrong with where it is to be, and who may ask on it.

use std::path::Path;

use crate::workload::{Access, MAX_PATH};

use super::{At, Pass};
use crate::config::Mode;

impl Pass<'_> {
    pub(super) fn check_workload_api(&mut self, mode: Mode) {
        let Some(identity) = &self.config.identity else {
            return;
        };
        let Some(api) = &identity.workload_api else {
            return;
        };
        let at = At::key("identity").then("workloadApi");
        if mode == Mode::Gateway {
            let remedy = "leave it out: it is for the application beside a sidecar";
            self.error(&at, "a gateway has no application beside it", remedy);
        }
        if identity.ca.is_none() {
            let remedy = "set `identity.ca` instead of `certificate` and `key`";
            let message = "the application's own certificate is asked of a CA, and there is none";
            self.error(&at, message, remedy);
        }
        if let Err(error) = Access::of(api) {
            let remedy = "expected an octal mode such as `\"0660\"`";
            self.error(&at.then("mode"), error, remedy);
        }
        self.check_socket(&at.then("socket"), &api.socket);
    }

    fn check_socket(&mut self, at: &At, socket: &str) {
        let path = Path::new(socket);
        let remedy = "expected an absolute path such as `/run/selvedge/api.sock`";
        if socket.is_empty() {
            self.error(at, "there is no path", remedy);
        } else if !path.is_absolute() || socket.ends_with('/') || socket.contains('\0') {
            self.error(at, format!("`{socket}` is no path of a socket"), remedy);
        } else if socket.len() > MAX_PATH {
            let message = format!("the path has {} bytes", socket.len());
            let remedy = format!("expected {MAX_PATH} at most: the kernel takes no more");
            self.error(at, message, remedy);
        } else if !path.parent().is_some_and(Path::is_dir) {
            let dir = path.parent().unwrap_or(path).display();
            let message = format!("there is no directory `{dir}`");
            self.error(at, message, "make it, or name another");
        } else if path.exists() && !crate::workload::is_socket(path) {
            let message = format!("`{socket}` is there, and is no socket");
            self.error(at, message, "remove it, or name another path");
        }
    }
}
