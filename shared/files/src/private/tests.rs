use std::{
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
};

use tempfile::TempDir;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn new_files_and_folders_are_private_to_their_owner() {
    let root = TempDir::new().unwrap();
    let outer = root.path().join("outer");
    let inner = outer.join("inner");
    let path = inner.join("file");
    let mut file = create_new(&path).unwrap();
    file.write_all(b"secret").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"secret");
    assert_eq!(mode(&path), 0o600);
    assert_eq!([mode(&outer), mode(&inner)], [0o700, 0o700]);
}

#[test]
fn a_missing_file_is_created_private() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("data/file");
    create_missing(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&root.path().join("data")), 0o700);
    assert_eq!(fs::read(&path).unwrap(), b"");
}

/// The owner may want a group to read it.
#[test]
fn an_existing_file_keeps_its_content_and_permissions() {
    let root = TempDir::new().unwrap();
    fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
    let path = root.path().join("file");
    fs::write(&path, "kept").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    create_missing(&path).unwrap();
    let error = create_new(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).unwrap(), b"kept");
    assert_eq!([mode(root.path()), mode(&path)], [0o755, 0o644]);
}

#[test]
fn a_link_is_no_new_file() {
    let root = TempDir::new().unwrap();
    let (end, link) = (root.path().join("end"), root.path().join("link"));
    symlink(&end, &link).unwrap();
    let error = create_new(&link).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(!end.exists());
}

#[test]
fn the_missing_target_of_a_link_is_created_private() {
    let root = TempDir::new().unwrap();
    let (end, link) = (root.path().join("end"), root.path().join("link"));
    symlink(&end, &link).unwrap();
    create_missing(&link).unwrap();
    assert_eq!(mode(&end), 0o600);
    fs::write(&end, "kept").unwrap();
    create_missing(&link).unwrap();
    assert_eq!(fs::read(&end).unwrap(), b"kept");
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "no folder").unwrap();
    assert!(create_new(&file.join("inner")).is_err());
    assert!(create_missing(&file.join("inner")).is_err());
}

#[test]
fn a_file_that_others_may_access_is_reported() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("tls.key");
    fs::write(&path, "secret").unwrap();
    let is_open = |mode| {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        is_open_to_others(&path).unwrap()
    };
    assert_eq!([0o600, 0o400, 0o700, 0o611].map(is_open), [false; 4]);
    assert_eq!([0o640, 0o604, 0o644, 0o620, 0o602].map(is_open), [true; 5]);
    // The layout in which the kubelet mounts a Secret.
    symlink("..2026_11_23", root.path().join("..data")).unwrap();
    assert_eq!([0o644, 0o440, 0o640, 0o400].map(is_open), [false; 4]);
    assert_eq!([0o666, 0o660].map(is_open), [true; 2]);
    assert!(is_open_to_others(&root.path().join("missing")).is_err());
}
