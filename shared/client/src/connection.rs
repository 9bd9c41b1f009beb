//! Which gateway to call, and with which key: from the command line, a profile or the environment.
//!
//! Invariant: a profile's key goes only to the profile's URL.

use std::path::PathBuf;

use roundtrip_tls::Roots;
use secrecy::SecretString;
use url::Url;

use crate::{arguments::Common, failure::Failure, profiles};

const DEFAULT_URL: &str = "http://127.0.0.1:8000";

pub(crate) const URL: &str = "ROUNDTRIP_URL";
pub(crate) const API_KEY: &str = "ROUNDTRIP_API_KEY";
pub(crate) const CA_FILE: &str = "ROUNDTRIP_CA_FILE";
pub(crate) const PROFILE: &str = "ROUNDTRIP_PROFILE";
pub(crate) const PROFILES: &str = "ROUNDTRIP_PROFILES";

/// The file of profiles below the user's configuration folder.
const PROFILES_FILE: &str = "roundtrip/profiles.toml";

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) url: Url,
    pub(crate) key: Option<SecretString>,
    pub(crate) roots: Roots,
}

impl Connection {
    /// `variable` reads the environment; a variable that is set but empty counts as not set.
    pub(crate) fn of(
        common: &Common,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let has_options =
            common.url.is_some() || common.api_key.is_some() || common.ca_file.is_some();
        // Options for one command take precedence over a profile of the whole shell.
        let named = common.profile.clone();
        let named = named.or_else(|| variable(PROFILE).filter(|_| !has_options));
        let (url, key, ca_file) = match named {
            Some(_) if has_options => {
                return Err(Failure::Usage(
                    "--profile has its own URL, key and CA file: use it without --url, --api-key and \
                     --ca-file"
                        .to_owned(),
                ));
            }
            Some(name) => {
                let profile = profiles::read(&profiles_file(&variable)?, &name)?;
                (profile.url, profile.api_key, profile.ca_file)
            }
            None => (
                common.url.clone().or_else(|| variable(URL)),
                common
                    .api_key
                    .clone()
                    .or_else(|| variable(API_KEY).map(SecretString::from)),
                common
                    .ca_file
                    .clone()
                    .or_else(|| variable(CA_FILE).map(PathBuf::from)),
            ),
        };
        let roots = Roots::configured(ca_file.as_deref());
        Ok(Self {
            url: base(url.as_deref().unwrap_or(DEFAULT_URL))?,
            key,
            roots: roots.map_err(|error| Failure::Usage(format!("the CA file {error}")))?,
        })
    }
}

fn profiles_file(variable: &impl Fn(&str) -> Option<String>) -> Result<PathBuf, Failure> {
    if let Some(path) = variable(PROFILES) {
        return Ok(path.into());
    }
    let folder = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".config")));
    let folder = folder.ok_or_else(|| {
        Failure::Usage(format!(
            "set {PROFILES}: there is no HOME to find the profiles in"
        ))
    })?;
    Ok(folder.join(PROFILES_FILE))
}

/// The URL of the API. An error does not quote it, because it may hold a password.
pub(crate) fn base(text: &str) -> Result<Url, Failure> {
    let wrong = |problem: &str| Failure::Usage(format!("the gateway's URL {problem}"));
    let url = roundtrip_model::channel::http_url(text).map_err(|problem| wrong(&problem))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "must not contain a user name or a password; the key is apart from it",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("must not contain '?' or '#'"));
    }
    Ok(url)
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, fs::Permissions, os::unix::fs::PermissionsExt};

    use secrecy::ExposeSecret;

    use super::*;

    /// The URL and the key that these options and variables lead to.
    fn of(common: &Common, variables: &[(&str, &str)]) -> Result<(String, String), String> {
        let variables: BTreeMap<_, _> = variables.iter().copied().collect();
        let connection = Connection::of(common, |name| {
            variables.get(name).map(|value| (*value).to_owned())
        });
        let connection = connection.map_err(|failure| failure.to_string())?;
        let key = connection.key.as_ref().map(ExposeSecret::expose_secret);
        Ok((
            connection.url.to_string(),
            key.unwrap_or_default().to_owned(),
        ))
    }

    fn found(url: &str, key: &str) -> (String, String) {
        (url.to_owned(), key.to_owned())
    }

    #[test]
    fn options_come_before_variables_and_those_before_the_default() {
        let variables = [(URL, "http://b"), (API_KEY, "kb"), (PROFILE, "")];
        let mut common = Common::default();
        assert_eq!(
            of(&common, &[(URL, "")]),
            Ok(found("http://127.0.0.1:8000/", ""))
        );
        assert_eq!(of(&common, &variables), Ok(found("http://b/", "kb")));
        common.url = Some("http://a/prefix".to_owned());
        common.api_key = Some("ka".to_owned().into());
        assert_eq!(of(&common, &variables), Ok(found("http://a/prefix", "ka")));
    }

    #[test]
    fn a_profile_comes_with_its_own_url_and_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roundtrip/profiles.toml");
        fs::create_dir(folder.path().join("roundtrip")).unwrap();
        fs::write(&path, "[p]\nurl = \"http://p\"\n[q]\napi_key = \"kq\"").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let home = folder.path().to_str().unwrap();
        let variables = [
            ("XDG_CONFIG_HOME", home),
            (URL, "http://b"),
            (API_KEY, "kb"),
        ];
        let profile = |name: &str| Common {
            profile: Some(name.to_owned()),
            ..Common::default()
        };
        // The variables' key does not go to the profile's URL, and the other way round.
        assert_eq!(of(&profile("p"), &variables), Ok(found("http://p/", "")));
        assert_eq!(
            of(&profile("q"), &variables),
            Ok(found("http://127.0.0.1:8000/", "kq"))
        );
        let both = Common {
            url: Some("http://a".to_owned()),
            ..profile("q")
        };
        assert!(of(&both, &variables).unwrap_err().contains("without --url"));
        let file = [(PROFILES, path.to_str().unwrap()), (PROFILE, "q")];
        assert_eq!(
            of(&Common::default(), &file),
            Ok(found("http://127.0.0.1:8000/", "kq"))
        );
    }

    #[test]
    fn a_url_with_a_password_is_refused_without_showing_it() {
        for url in [
            "http://user:secret@host",
            "secret",
            "http://host/?key=secret",
        ] {
            let refused = base(url).unwrap_err().to_string();
            assert!(refused.starts_with("the gateway's URL must"), "{refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
