//! The key that development seals secrets with: made at the first start, and kept beside the data,
//! so that a restart can open what was sealed before.
//!
//! Invariant: nobody but the process' own user may read the file, at no moment of its making; and
//! of processes that start at once all have the key of one.

use std::{
    fs,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use roundtrip_model::{
    SealingKeys,
    sealing::{KEY_BYTES, KeyError},
};
use roundtrip_private_file::{create_new, is_open_to_others};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFileError {
    /// The file cannot be read or made.
    #[error("cannot use the file '{}'", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in it is no key.
    #[error("the key in '{}' {problem}", .path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: KeyError,
    },
}

/// The key in this file; a new one, where there is no file.
pub(crate) fn open(path: &Path) -> Result<SealingKeys, KeyFileError> {
    let failed = |source| KeyFileError::File {
        path: path.to_owned(),
        source,
    };
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make(path).map_err(failed)?;
            fs::read_to_string(path)
        }
        read => read,
    };
    warn_if_open(path);
    SealingKeys::parse([text.map_err(failed)?.trim()]).map_err(|problem| KeyFileError::Key {
        path: path.to_owned(),
        problem,
    })
}

/// Says so where others may read a file that holds a key.
pub(crate) fn warn_if_open(path: &Path) {
    // One that cannot be looked at is told by who reads it.
    if is_open_to_others(path).unwrap_or(false) {
        tracing::warn!(
            file = %path.display(),
            "other users of this machine may read or change this file, which holds a key: chmod 600"
        );
    }
}

fn make(path: &Path) -> io::Result<()> {
    // Whole before it has its name: another process may look for it at this moment.
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{:016x}", rand::random::<u64>()));
    let draft = PathBuf::from(draft);
    let key = BASE64_STANDARD.encode(rand::random::<[u8; KEY_BYTES]>());
    let written = create_new(&draft).and_then(|mut file| {
        writeln!(file, "{key}")?;
        file.sync_all()
    });
    // A link, and no renaming: that would take the place of what another was quicker to make.
    let linked = written.and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    let removed = fs::remove_file(&draft);
    linked.and(removed)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, thread};

    use super::*;

    const NONCE: [u8; roundtrip_model::sealing::NONCE_BYTES] = [0; 12];

    #[test]
    fn all_who_start_at_once_have_one_key_and_so_has_who_starts_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/encryption.key");
        let keys: Vec<_> = thread::scope(|scope| {
            let openers: Vec<_> = (0..2).map(|_| scope.spawn(|| open(&path))).collect();
            openers
                .into_iter()
                .map(|opener| opener.join().unwrap())
                .collect()
        });
        let first = open(&path).unwrap();
        let sealed = first.seal(b"secret", "c", NONCE).unwrap();
        for keys in keys {
            assert_eq!(keys.unwrap().open(&sealed, "c").unwrap(), b"secret");
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path().join("data")).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_holds_no_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encryption.key");
        fs::write(&path, "not a key").unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(
            error.contains("encryption.key") && !error.contains("not a key"),
            "{error}"
        );
    }
}
