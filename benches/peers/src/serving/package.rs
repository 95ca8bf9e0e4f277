//! Debian's programs, and a directory for what they need.

use super::ServingError;
use std::path::{Path, PathBuf};

/// Where Debian keeps programs; the first two are not in everybody's path.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];

/// The path of `program`.
///
/// # Errors
/// [`ServingError::Missing`] names the package to install.
pub(crate) fn find(program: &'static str, package: &'static str) -> Result<PathBuf, ServingError> {
    FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
        .ok_or(ServingError::Missing { program, package })
}

/// A directory that goes with its owner.
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// A new one, below the system's for temporary files.
    pub(crate) fn new() -> Result<Self, ServingError> {
        let path = std::env::temp_dir().join(format!("lb-peers-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(ServingError::io(format!("create {}", path.display())))?;
        Ok(Self(path))
    }

    /// The path of a file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file in it, and gives its path.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<PathBuf, ServingError> {
        let path = self.file(name);
        std::fs::write(&path, content).map_err(ServingError::io(format!("write {}", path.display())))?;
        Ok(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What stays behind among temporary files harms no later run.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        let message = find("no-such-program", "its-package").map_err(|error| error.to_string());
        assert_eq!(message, Err("no-such-program is missing: apt-get install its-package".to_owned()));
    }
}
