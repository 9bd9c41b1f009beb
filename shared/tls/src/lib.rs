//! The certificate authorities that an operator trusts in addition to, or in place of, the public
//! ones.
//!
//! Invariant: every certificate that [`Roots::read`] returns is usable. A missing, empty or damaged
//! file is an error at the start that names the file; no certificate is skipped.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots(Vec<CertificateDer<'static>>);

#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    #[error("cannot be read from '{}'", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The file is damaged PEM. The parser's message is omitted: it quotes the line, which may be
    /// part of a private key.
    #[error("is damaged PEM: '{}'", .0.display())]
    Pem(PathBuf),
    #[error("holds no certificate: '{}'", .0.display())]
    Empty(PathBuf),
    #[error("holds a certificate that cannot be used: '{}'", path.display())]
    Certificate {
        path: PathBuf,
        source: rustls::Error,
    },
}

impl Roots {
    /// Reads a PEM file of one or more certificates.
    pub fn read(path: &Path) -> Result<Self, RootsError> {
        let pem = fs::read(path).map_err(|source| RootsError::Read {
            path: path.to_owned(),
            source,
        })?;
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let certificates = read.map_err(|_| RootsError::Pem(path.to_owned()))?;
        if certificates.is_empty() {
            return Err(RootsError::Empty(path.to_owned()));
        }
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            let added = store.add(certificate.clone());
            added.map_err(|source| RootsError::Certificate {
                path: path.to_owned(),
                source,
            })?;
        }
        Ok(Self(certificates))
    }

    pub fn configured(path: Option<&Path>) -> Result<Self, RootsError> {
        path.map_or_else(|| Ok(Self::default()), Self::read)
    }

    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn authority() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut of = rcgen::CertificateParams::new(Vec::new()).unwrap();
        of.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        of.self_signed(&key).unwrap().pem()
    }

    fn read(content: &str) -> Result<Roots, RootsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, content).unwrap();
        Roots::read(&path)
    }

    #[test]
    fn each_certificate_of_a_file_is_a_root() {
        let roots = read(&format!("{}{}", authority(), authority())).unwrap();
        assert_eq!(roots.certificates().len(), 2);
    }

    #[rstest]
    #[case::empty("", "holds no certificate")]
    #[case::no_pem("ca", "holds no certificate")]
    #[case::damaged(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "holds a certificate that cannot be used"
    )]
    #[case::cut("-----BEGIN CERTIFICATE-----\nAAAA\n", "is damaged PEM")]
    fn a_file_that_gives_no_roots_is_refused(#[case] content: &str, #[case] problem: &str) {
        let error = read(content).unwrap_err().to_string();
        assert!(error.starts_with(problem), "{error}");
    }

    #[test]
    fn a_file_with_a_damaged_certificate_is_refused() {
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(read(&format!("{}{damaged}", authority())).is_err());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Roots::read(Path::new("/nowhere/ca.pem")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn nothing_configured_is_no_root() {
        assert!(Roots::configured(None).unwrap().is_empty());
    }
}
