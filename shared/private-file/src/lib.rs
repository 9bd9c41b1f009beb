//! Files and folders that nobody but the process' own user may read: messages and keys are in them.
//!
//! Invariant: what is made here is private from its first moment, never readable first and closed
//! afterwards; what is there already is neither opened nor changed.

use std::{
    fs::{DirBuilder, File, OpenOptions},
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
