//! Private files and folders, and who else may read them. An existing file is neither opened nor
//! changed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind},
    path::Path,
};

/// Only the owner may read and write it.
#[cfg(unix)]
const FILE_MODE: u32 = 0o600;
/// Only the owner may list and enter it.
#[cfg(unix)]
const FOLDER_MODE: u32 = 0o700;

/// Creates a new file and opens it for writing. Creates missing parent folders too.
///
/// # Errors
///
/// [`ErrorKind::AlreadyExists`] if the name is taken, even by a dangling link; otherwise the
/// system's error.
pub fn create_new(path: &Path) -> io::Result<File> {
    create_folder_of(path)?;
    private().create_new(true).open(path)
}

/// Creates the file and its parent folders if they are missing. A dangling link creates its target.
///
/// An existing file is not opened. Closing it would release this process's locks on it, and SQLite
/// relies on them.
pub(crate) fn create_missing(path: &Path) -> io::Result<()> {
    match create_new(path) {
        // The name is a dangling link. Opening it for writing would create its target readable for
        // everyone.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && !path.try_exists()? => {
            private().create(true).open(path).map(drop)
        }
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Whether users other than its owner may read or change a file that should be private.
///
/// In a Kubernetes volume only write permission counts. A Secret is mounted readable for all (0644,
/// or 0440 if the pod has its own group). Only the pod's own containers can reach it. Therefore the
/// result is for a warning, and not for a refusal.
pub fn is_open_to_others(path: &Path) -> io::Result<bool> {
    let mode = mode_of(&fs::metadata(path)?);
    // The kubelet replaces all files of a volume at once, through this link.
    let is_mounted = path
        .parent()
        .is_some_and(|folder| folder.join(VOLUME_LINK).is_symlink());
    let others = if is_mounted {
        OTHERS_CHANGE
    } else {
        OTHERS_READ | OTHERS_CHANGE
    };
    Ok(mode & others != 0)
}

/// Permissions of the group and of others: to read, and to change.
const OTHERS_READ: u32 = 0o044;
const OTHERS_CHANGE: u32 = 0o022;

/// The link that the kubelet keeps in each of its volumes.
const VOLUME_LINK: &str = "..data";

#[cfg(unix)]
fn mode_of(metadata: &fs::Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::mode(metadata)
}

#[cfg(not(unix))]
fn mode_of(_: &fs::Metadata) -> u32 {
    0
}

fn create_folder_of(path: &Path) -> io::Result<()> {
    let mut folders = DirBuilder::new();
    folders.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut folders, FOLDER_MODE);
    match path.parent() {
        // A bare name lies in the working folder, which exists.
        Some(folder) if !folder.as_os_str().is_empty() => folders.create(folder),
        _ => Ok(()),
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, FILE_MODE);
    options
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
