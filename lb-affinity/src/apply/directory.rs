//! The journal's directory: whose it must be, and the lock in it.
//!
//! Root writes to the kernel's files what a journal says. So nobody else may be able to put one there, nor a link in the place of a
//! file that is written.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::{ApplyError, Distrust};
use crate::sys;

/// Makes the directory, if it is not there, and looks whose it is.
pub(super) fn prepare(directory: &Path) -> Result<(), ApplyError> {
    let failed = |source| ApplyError::Journal { path: directory.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => failed(io::ErrorKind::NotADirectory.into()),
        _ => failed(error),
    })?;
    let found = directory.symlink_metadata().map_err(failed)?;
    let (user, mode) = (sys::effective_user(), found.mode() & 0o7777);
    let why = if found.is_symlink() {
        Distrust::Link
    } else if ![0, user].contains(&found.uid()) {
        Distrust::Owner { user: found.uid() }
    } else if mode & 0o022 != 0 {
        Distrust::Writable { mode }
    } else {
        return Ok(());
    };
    Err(ApplyError::Untrusted { directory: directory.to_owned(), why })
}

/// Opens a file of the directory: no link, and nothing that keeps waiting whoever opens it.
pub(super) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// The lock on the directory, with the process id of its holder inside.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Takes the lock of a directory that was [prepared](prepare).
    pub(super) fn take(directory: &Path) -> Result<Self, ApplyError> {
        let path = directory.join("lock");
        let failed = |source| ApplyError::Journal { path: path.clone(), source };
        let mut options = OpenOptions::new();
        let mut file = open(&path, options.read(true).write(true).create(true)).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = file.read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse().ok());
                return Err(ApplyError::Locked { directory: directory.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // The name helps whoever is refused, and no more. Without room for it there may be room enough to restore.
        let named = file.set_len(0).and_then(|()| file.rewind());
        let _ = named.and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // To close it is not enough: a child that another thread has just forked has it open until it calls exec. That fails
        // only for files that are no files.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_directory_that_others_can_use_is_not_used() {
        let base = std::env::temp_dir().join(format!("lb-affinity-directory-{}", std::process::id()));
        let own = base.join("own");
        prepare(&own).unwrap();
        prepare(&own).unwrap();
        assert_eq!(own.metadata().unwrap().mode() & 0o777, 0o700);
        for (mode, trusted) in [(0o755, true), (0o700, true), (0o775, false), (0o1777, false), (0o702, false)]
        {
            std::fs::set_permissions(&own, Permissions::from_mode(mode)).unwrap();
            match prepare(&own) {
                Ok(()) => assert!(trusted, "{mode:o}"),
                Err(ApplyError::Untrusted { why, .. }) => {
                    assert_eq!((why, trusted), (Distrust::Writable { mode }, false));
                }
                Err(other) => panic!("{other}"),
            }
        }
        symlink(&own, base.join("link")).unwrap();
        let error = prepare(&base.join("link")).unwrap_err();
        assert!(matches!(error, ApplyError::Untrusted { why: Distrust::Link, .. }), "{error}");
        std::fs::write(base.join("file"), "").unwrap();
        let error = prepare(&base.join("file")).unwrap_err().to_string();
        assert!(error.contains("not a directory"), "{error}");
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_link_in_the_place_of_the_lock_is_not_followed() {
        let base = std::env::temp_dir().join(format!("lb-affinity-link-{}", std::process::id()));
        prepare(&base).unwrap();
        std::fs::write(base.join("precious"), "precious").unwrap();
        symlink("precious", base.join("lock")).unwrap();
        assert!(matches!(Lock::take(&base), Err(ApplyError::Journal { .. })));
        assert_eq!(std::fs::read(base.join("precious")).unwrap(), b"precious");
        std::fs::remove_dir_all(base).unwrap();
    }
}
