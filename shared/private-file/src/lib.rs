//! Files and folders that nobody but the process' own user may read: messages and keys are in them.
//!
//! Invariant: what is made here is private from its first moment, never readable first and closed
//! afterwards; what is there already is neither opened nor changed, and who may read it can be asked.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind},
    path::Path,
};

/// The owner alone may read and write it.
#[cfg(unix)]
const FILE_MODE: u32 = 0o600;
/// The owner alone may look into it.
#[cfg(unix)]
const FOLDER_MODE: u32 = 0o700;

/// Makes a new file and opens it for writing; the folders on the way to it too, where they are
/// missing.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] where something has this name, be it a link to nothing; else what
/// the system says.
pub fn create_new(path: &Path) -> io::Result<File> {
    create_folder_of(path)?;
    private().create_new(true).open(path)
}

/// Makes the file, and the folders on the way to it, where they are missing. A link to a file that
/// is missing makes that file.
///
/// What is there is not opened: to close it again would end the locks that this process has on it,
/// and SQLite relies on them.
///
/// # Errors
/// What the system says.
pub fn create_missing(path: &Path) -> io::Result<()> {
    match create_new(path) {
        // The name is taken, and leads nowhere: whoever follows the link would make its end for
        // everybody to read.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && !path.try_exists()? => {
            private().create(true).open(path).map(drop)
        }
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Whether users besides its owner may read or change a file that should be its owner's alone.
///
/// In a volume of Kubernetes' only a right to change it counts: a Secret is mounted readable for all
/// (0644, or 0440 where the pod has a group of its own), and who is in the pod is who was to read it.
/// That is also why this is for a warning, and for no refusal.
///
/// # Errors
/// What the system says.
pub fn is_open_to_others(path: &Path) -> io::Result<bool> {
    let mode = mode_of(&fs::metadata(path)?);
    // The kubelet changes all files of a volume at once, by this link.
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

/// The rights of the group and of everybody, to read and to write.
const OTHERS_READ: u32 = 0o044;
const OTHERS_CHANGE: u32 = 0o022;

/// What the kubelet's volumes have beside their files.
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
        // A name alone: it lies in the working folder, which is there.
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
