//! Keys that development creates at its first start and keeps beside the data. So a restart opens
//! sealed secrets and accepts earlier tokens.
//!
//! Invariant: a key file is readable only by the process's user from the moment it exists.
//! Processes that start at once get the same key.

use std::{
    error::Error,
    fs,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use roundtrip_files::{create_new, is_open_to_others};
use roundtrip_model::{SealingKeys, TokenKeys, sealing::KEY_BYTES};

#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFileError {
    #[error("cannot use the file '{}'", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the key in '{}' {problem}", .path.display())]
    Key {
        path: PathBuf,
        problem: Box<dyn Error + Send + Sync>,
    },
}

/// The key in this file that seals channels' secrets. Creates the file if it is missing.
pub(crate) fn sealing(path: &Path) -> Result<SealingKeys, KeyFileError> {
    open(path, |text| Ok(SealingKeys::parse([text])?))
}

/// The key in this file for the tokens in response URLs. Creates the file if it is missing.
pub(crate) fn tokens(path: &Path) -> Result<TokenKeys, KeyFileError> {
    open(path, |text| Ok(TokenKeys::new([text.as_bytes()])?))
}

fn open<K>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<K, Box<dyn Error + Send + Sync>>,
) -> Result<K, KeyFileError> {
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
    parse(text.map_err(failed)?.trim()).map_err(|problem| KeyFileError::Key {
        path: path.to_owned(),
        problem,
    })
}

/// Warns if other users may read a key file.
pub(crate) fn warn_if_open(path: &Path) {
    // A file that cannot be read is reported by its reader.
    if is_open_to_others(path).unwrap_or(false) {
        tracing::warn!(
            file = %path.display(),
            "other users of this machine may read or change this file, which holds a key: chmod 600"
        );
    }
}

fn make(path: &Path) -> io::Result<()> {
    // Write the file before it gets its name: another process may look for it now.
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{:016x}", rand::random::<u64>()));
    let draft = PathBuf::from(draft);
    let key = BASE64_STANDARD.encode(rand::random::<[u8; KEY_BYTES]>());
    let written = create_new(&draft).and_then(|mut file| {
        writeln!(file, "{key}")?;
        file.sync_all()
    });
    // Link instead of rename: a rename would replace the key of a faster process.
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
    fn concurrent_and_later_starts_share_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/encryption.key");
        let keys: Vec<_> = thread::scope(|scope| {
            let openers: Vec<_> = (0..2).map(|_| scope.spawn(|| sealing(&path))).collect();
            openers
                .into_iter()
                .map(|opener| opener.join().unwrap())
                .collect()
        });
        let first = sealing(&path).unwrap();
        let sealed = first.seal(b"secret", "c", NONCE).unwrap();
        for keys in keys {
            assert_eq!(keys.unwrap().open(&sealed, "c").unwrap(), b"secret");
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path().join("data")).unwrap().count(), 1);
    }

    #[test]
    fn a_file_without_a_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encryption.key");
        fs::write(&path, "not a key").unwrap();
        let errors = [
            sealing(&path).unwrap_err().to_string(),
            tokens(&path).unwrap_err().to_string(),
        ];
        for error in errors {
            assert!(
                error.contains("encryption.key") && !error.contains("not a key"),
                "{error}"
            );
        }
    }
}
