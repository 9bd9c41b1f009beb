//! Files and standard input.
//!
//! Invariant: what is read at once has a bound.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use crate::failure::Failure;

/// The longest document or message that is read: the longest that a gateway can be set to accept.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 16 << 20;

/// The argument that means standard input instead of a file.
pub(crate) const STDIN: &str = "-";

/// A file or standard input, and the file's length.
pub(crate) fn open(path: &Path) -> Result<(Box<dyn BufRead>, Option<u64>), Failure> {
    if path == Path::new(STDIN) {
        return Ok((Box::new(BufReader::new(io::stdin())), None));
    }
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, file) = opened.map_err(|error| failed(path, &error))?;
    let length = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(BufReader::new(file)), length))
}

pub(crate) fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("{} cannot be read: {error}", path.display()))
}

/// Reads a whole file, or standard input.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let (reader, _) = open(path)?;
    let mut text = String::new();
    let read = reader
        .take(MAX_DOCUMENT_BYTES + 1)
        .read_to_string(&mut text);
    let bytes = read.map_err(|error| failed(path, &error))?;
    if bytes as u64 > MAX_DOCUMENT_BYTES {
        let problem = format!(
            "{} is longer than {MAX_DOCUMENT_BYTES} bytes",
            path.display()
        );
        return Err(Failure::Failed(problem));
    }
    Ok(text)
}
