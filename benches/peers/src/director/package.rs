//! Debian's programs, and a directory for what they need.

use super::DirectorError;
use std::path::{Path, PathBuf};

/// Where Debian keeps programs; the first two are not in everybody's path.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];

/// The path of `program`.
///
/// # Errors
/// [`DirectorError::Missing`] names the package to install.
pub(super) fn find(program: &'static str, package: &'static str) -> Result<PathBuf, DirectorError> {
    FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
        .ok_or(DirectorError::Missing { program, package })
}

/// A directory that goes with its owner.
pub(super) struct Directory(PathBuf);

impl Directory {
    /// A new one, below the system's for temporary files.
    pub(super) fn new() -> Result<Self, DirectorError> {
        let path = std::env::temp_dir().join(format!("lb-peers-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(DirectorError::io(format!("create {}", path.display())))?;
        Ok(Self(path))
    }

    /// The path of a file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file in it, and gives its path.
    pub(super) fn write(&self, name: &str, content: &str) -> Result<PathBuf, DirectorError> {
        let path = self.file(name);
        std::fs::write(&path, content).map_err(DirectorError::io(format!("write {}", path.display())))?;
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
