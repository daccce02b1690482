//! The database of countries that the configuration names.

use std::fs::{File, Metadata};
use std::io::Read;
use std::sync::Arc;
use std::time::SystemTime;

use selvedge_contract::defaults::policy::GEO_BYTES;
use selvedge_gateway::geo::Geo;

use super::{At, Compiler, Pass};

/// A database, and what it was read from: it is not read again while that stays as it is.
pub(super) type Known = Option<(String, Option<SystemTime>, u64, Arc<Geo>)>;

impl Compiler {
    /// The database, if there is one.
    pub(super) fn geo(&mut self, pass: &mut Pass<'_>) {
        let Some(spec) = &pass.config.geo else {
            self.geo = None;
            return;
        };
        let at = At::key("geo").then("database");
        let name = &spec.database;
        let opened = File::open(name).and_then(|file| Ok((file.metadata()?, file)));
        let (found, file) = match opened {
            Ok((found, file)) if found.len() <= GEO_BYTES => (found, file),
            Ok(_) => return pass.error(&at, format!("`{name}` is too large"), "expected 512MiB"),
            Err(error) => {
                let remedy = "expected a file that can be read";
                return pass.error(&at, format!("`{name}`: {error}"), remedy);
            }
        };
        let time = |found: &Metadata| found.modified().ok();
        if let Some((known, when, length, geo)) = &self.geo
            && (known, *when, *length) == (name, time(&found), found.len())
        {
            pass.geo = Some(geo.clone());
            return;
        }
        let mut bytes = Vec::new();
        let read = file.take(GEO_BYTES).read_to_end(&mut bytes);
        let read = read.map_err(|e| e.to_string());
        match read.and_then(|_| Geo::new(bytes).map_err(|e| e.to_string())) {
            Ok(geo) => {
                let geo = Arc::new(geo);
                pass.geo = Some(geo.clone());
                self.geo = Some((name.clone(), time(&found), found.len(), geo));
            }
            Err(error) => {
                let remedy = "expected a database in MaxMind's form";
                pass.error(&at, format!("`{name}`: {error}"), remedy);
            }
        }
    }
}
