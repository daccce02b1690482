//! What a running CA is given in files: an intermediate, lists of what is revoked; looked at every 2 s.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use selvedge_ca::{Authority, CaService, Given, Replaced};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Takes the lists in a file; gives its text.
pub(super) fn revoke(file: &Path, authority: &Authority) -> Result<String, String> {
    let at = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| at(&error))?;
    let count = authority
        .revoked
        .replace(&text)
        .map_err(|error| at(&error))?;
    tracing::info!(target: "selvedge::ca", count, "certificates are revoked");
    Ok(text)
}

/// Takes them again when they are others.
pub(super) async fn follow_list(file: PathBuf, authority: Arc<Authority>, mut last: String) {
    let mut complained = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = tokio::fs::read_to_string(&file).await;
        if now.is_ok_and(|now| now == last) {
            complained = false;
            continue;
        }
        match revoke(&file, &authority) {
            Ok(text) => last = text,
            Err(error) if !complained => {
                complained = true;
                tracing::error!(target: "selvedge::ca", %error, "the lists before stay in force");
            }
            Err(_) => {}
        }
    }
}

/// Signs with what the files say from when they say it.
pub(super) async fn follow_files(dir: PathBuf, service: CaService) {
    let mut last = Replaced::Nothing;
    loop {
        tokio::time::sleep(LOOK).await;
        let (dir, service) = (dir.clone(), service.clone());
        let look = move || {
            let given = Given::read(&dir)?;
            service.take(&given, SystemTime::now())
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(replaced)) => {
                replaced.tell(last);
                last = replaced;
            }
            Ok(Err(error)) => {
                tracing::error!(target: "selvedge::ca", %error, "intermediate not replaced");
            }
            Err(_) => return,
        }
    }
}
