//! What a path becomes under `ReplaceFullPath` and `ReplacePrefixMatch` of Gateway API.

/// A change of path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathEdit {
    /// The whole path.
    Full(String),
    /// The matched prefix: `prefix` (as configured) becomes `replacement`.
    Prefix {
        /// The prefix that the rule matches.
        prefix: String,
        /// What stands in its place.
        replacement: String,
    },
}

impl PathEdit {
    /// The new path; it begins with `/`.
    ///
    /// Slashes at the seam are never doubled and never lost: with prefix `/foo` and replacement
    /// `/xyz/`, `/foo/bar` becomes `/xyz/bar`, and with replacement `/`, `/foo` becomes `/`.
    #[must_use]
    pub fn apply(&self, path: &str) -> String {
        match self {
            Self::Full(full) => full.clone(),
            Self::Prefix {
                prefix,
                replacement,
            } => {
                let rest = path
                    .strip_prefix(prefix.trim_end_matches('/'))
                    .unwrap_or(path);
                let head = replacement.trim_end_matches('/');
                let rest = rest.trim_start_matches('/');
                match (head.is_empty(), rest.is_empty()) {
                    (true, true) => "/".to_owned(),
                    // A final slash of path or replacement stays, an absent one is not invented.
                    (false, true) if path.ends_with('/') && path.len() > prefix.len() => {
                        format!("{head}/")
                    }
                    (false, true) => replacement.clone(),
                    (_, false) => format!("{head}/{rest}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_gateway_api() {
        for (path, prefix, replacement, want) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/", "/", "/xyz", "/xyz"),
        ] {
            let edit = PathEdit::Prefix {
                prefix: prefix.into(),
                replacement: replacement.into(),
            };
            assert_eq!(edit.apply(path), want, "{path} {prefix} {replacement}");
        }
        assert_eq!(PathEdit::Full("/x".into()).apply("/a/b"), "/x");
    }
}
