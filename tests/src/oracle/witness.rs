//! Proxies of others, each from its Debian package, as witnesses: what our proxy has let through, they must read as the
//! oracle does.

use std::any::Any;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use super::stand::Stand;
use crate::PATIENCE;
use crate::redis::free_port;

/// A witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Apache httpd, package apache2-bin.
    Apache,
}

/// All of them.
pub const WITNESSES: [Witness; 3] = [Witness::Nginx, Witness::Haproxy, Witness::Apache];

const NGINX: &str = "daemon off; master_process off; pid $DIR/pid; error_log $DIR/log;
events {}
http {
  access_log off;
  client_body_temp_path $DIR/body; proxy_temp_path $DIR/proxy;
  fastcgi_temp_path $DIR/fastcgi; uwsgi_temp_path $DIR/uwsgi; scgi_temp_path $DIR/scgi;
  client_max_body_size 0;
  server {
    listen 127.0.0.1:$PORT;
    location / { proxy_pass http://$UPSTREAM; proxy_http_version 1.1; proxy_set_header Connection \"\"; }
  }
}
";

const HAPROXY: &str = "defaults
  mode http
  timeout connect 30s
  timeout client 30s
  timeout server 30s
listen witness
  bind 127.0.0.1:$PORT
  server upstream $UPSTREAM
";

const APACHE: &str = "ServerRoot $DIR
ServerName witness
DefaultRuntimeDir $DIR
PidFile $DIR/pid
ErrorLog $DIR/log
User nobody
Group nogroup
Listen 127.0.0.1:$PORT
LoadModule mpm_event_module $MODULES/mod_mpm_event.so
LoadModule authz_core_module $MODULES/mod_authz_core.so
LoadModule proxy_module $MODULES/mod_proxy.so
LoadModule proxy_http_module $MODULES/mod_proxy_http.so
MaxKeepAliveRequests 0
AllowEncodedSlashes NoDecode
MergeSlashes Off
ProxyPass / http://$UPSTREAM/ nocanon
";

/// A process in the foreground, and its directory. Killed when dropped.
struct Running {
    child: Child,
    _dir: TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Witness {
    /// A stand with the witness in the place of our proxy.
    ///
    /// # Panics
    /// When its package is not installed, or it does not listen in time.
    #[must_use]
    pub fn stand(self) -> Stand {
        Stand::before(|upstream| self.start(upstream))
    }

    fn start(self, upstream: SocketAddr) -> (SocketAddr, Box<dyn Any>) {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().display().to_string();
        let front = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (program, config, options): (_, _, &[&str]) = match self {
            Self::Nginx => ("/usr/sbin/nginx", NGINX, &["-e", "stderr", "-c"]),
            Self::Haproxy => ("/usr/sbin/haproxy", HAPROXY, &["-db", "-f"]),
            Self::Apache => ("/usr/sbin/apache2", APACHE, &["-X", "-f"]),
        };
        let file = dir.path().join("config");
        let config = config
            .replace("$DIR", &place)
            .replace("$PORT", &front.port().to_string())
            .replace("$UPSTREAM", &upstream.to_string())
            .replace("$MODULES", "/usr/lib/apache2/modules");
        std::fs::write(&file, config).unwrap();
        let child = Command::new(program)
            .args(options)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let child = child.unwrap_or_else(|why| panic!("{program}: {why}: install its package"));
        let running = Running { child, _dir: dir };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(front).is_err() {
            assert!(Instant::now() < deadline, "{self:?} does not listen");
            std::thread::yield_now();
        }
        (front, Box::new(running))
    }
}
