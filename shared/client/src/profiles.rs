//! The file of profiles: gateways by name, each with its URL and key.
//!
//! Invariant: a file that others may read or change is refused. An error names a place in the file
//! and never quotes it, as any line may hold a key.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use secrecy::SecretString;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{failure::Failure, safe_text::safe};

const MAX_FILE_BYTES: u64 = 64 << 10;

/// The permissions of the group and of others.
#[cfg(unix)]
const OTHERS: u32 = 0o077;

#[derive(Debug, Default)]
pub(crate) struct Profile {
    pub(crate) url: Option<String>,
    pub(crate) api_key: Option<SecretString>,
    pub(crate) ca_file: Option<PathBuf>,
}

/// Reads a profile.
pub(crate) fn read(path: &Path, name: &str) -> Result<Profile, Failure> {
    let shown = path.display();
    let cannot = |error| Failure::Usage(format!("the profiles in {shown} cannot be read: {error}"));
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::Usage(format!(
            "there is no profile '{name}': the file {shown} does not exist"
        )),
        _ => cannot(error),
    })?;
    refuse_open_file(path, &file)?;
    let mut text = String::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
    let bytes = read.map_err(cannot)?;
    if bytes as u64 > MAX_FILE_BYTES {
        let problem = format!("{shown} is larger than {MAX_FILE_BYTES} bytes");
        return Err(Failure::Usage(problem));
    }
    parse(&text, name).map_err(|wrong| {
        let place = wrong.at.map_or(String::new(), |offset| {
            let before = text.get(..offset).unwrap_or(&text);
            format!(", line {}", before.matches('\n').count() + 1)
        });
        Failure::Usage(format!("{shown}{place}: {}", wrong.problem))
    })
}

#[cfg(unix)]
fn refuse_open_file(path: &Path, file: &File) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;

    let mode = file.metadata()?.mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let path = path.display().to_string();
    Err(Failure::Usage(format!(
        "the profiles in {path} can be read or changed by others (mode {mode:04o}); run: chmod 600 '{}'",
        path.replace('\'', "'\\''")
    )))
}

#[cfg(not(unix))]
fn refuse_open_file(_: &Path, _: &File) -> Result<(), Failure> {
    Ok(())
}

/// What is wrong, and where.
struct Wrong {
    at: Option<usize>,
    problem: String,
}

fn parse(text: &str, name: &str) -> Result<Profile, Wrong> {
    let profiles = DeTable::parse(text).map_err(|error| Wrong {
        at: error.span().map(|span| span.start),
        // The parser's messages are constants; only its `Display` quotes the text.
        problem: error.message().replace('\n', " "),
    })?;
    let mut names = Vec::new();
    for (key, value) in profiles.into_inner() {
        if key.get_ref() == name {
            return profile(value);
        }
        names.push(safe(key.get_ref()).into_owned());
    }
    let known = if names.is_empty() {
        "it has none".to_owned()
    } else {
        format!("it has {}", names.join(", "))
    };
    Err(Wrong {
        at: None,
        problem: format!("there is no profile '{name}'; {known}"),
    })
}

fn profile(value: Spanned<DeValue<'_>>) -> Result<Profile, Wrong> {
    let at = Some(value.span().start);
    let DeValue::Table(table) = value.into_inner() else {
        return Err(Wrong {
            at,
            problem: "a profile must be a section, such as [production]".to_owned(),
        });
    };
    let mut profile = Profile::default();
    for (key, value) in table {
        let wrong = |problem: &str| Wrong {
            at: Some(key.span().start),
            problem: problem.to_owned(),
        };
        let DeValue::String(text) = value.into_inner() else {
            return Err(wrong("the value must be a string in quotes"));
        };
        let text = text.into_owned();
        match &**key.get_ref() {
            "url" => profile.url = Some(text),
            "api_key" => profile.api_key = Some(text.into()),
            "ca_file" => profile.ca_file = Some(text.into()),
            _ => return Err(wrong("a profile has the keys url, api_key and ca_file")),
        }
    }
    Ok(profile)
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use rstest::rstest;
    use secrecy::ExposeSecret;

    use super::*;

    const FILE: &str = "[staging]\nurl = \"https://staging.example\"\n\n[production]\nurl = \
                        \"https://gateway.example\"\napi_key = \"rt_key_secret\"\n";

    fn read_file(content: &str, mode: u32, name: &str) -> Result<Profile, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("it's profiles.toml");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        read(&path, name).map_err(|failure| failure.to_string())
    }

    #[rstest]
    #[case(0o600)]
    #[case(0o400)]
    fn a_profile_of_a_private_file_is_read(#[case] mode: u32) {
        let profile = read_file(FILE, mode, "production").unwrap();
        assert_eq!(profile.url.unwrap(), "https://gateway.example");
        assert_eq!(profile.api_key.unwrap().expose_secret(), "rt_key_secret");
        assert!(profile.ca_file.is_none());
    }

    #[rstest]
    #[case(0o644)]
    #[case(0o640)]
    #[case(0o602)]
    fn a_file_that_others_may_read_or_change_is_refused_with_the_remedy(#[case] mode: u32) {
        let refused = read_file(FILE, mode, "production").unwrap_err();
        assert!(refused.contains("run: chmod 600 '"), "{refused}");
        assert!(refused.ends_with(r"it'\''s profiles.toml'"), "{refused}");
    }

    #[rstest]
    #[case::unknown(FILE, "there is no profile 'p'; it has production, staging")]
    #[case::empty("", "there is no profile 'p'; it has none")]
    #[case::no_section("p = \"rt_key_secret\"", "line 1: a profile must be a section")]
    #[case::no_text("[p]\napi_key = 5", "line 2: the value must be a string")]
    #[case::misspelt(
        "[p]\nurl = \"x\"\nkey = \"rt_key_secret\"",
        "line 3: a profile has the keys"
    )]
    #[case::no_toml("[p]\napi_key = rt_key_secret\n", "line 2: ")]
    fn a_wrong_file_is_refused_by_its_line_and_not_quoted(
        #[case] content: &str,
        #[case] problem: &str,
    ) {
        let refused = read_file(content, 0o600, "p").unwrap_err();
        assert!(refused.contains(problem), "{refused}");
        assert!(!refused.contains("secret"), "{refused}");
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let content = "#".repeat(usize::try_from(MAX_FILE_BYTES).unwrap() + 1);
        let refused = read_file(&content, 0o600, "p").unwrap_err();
        assert!(refused.contains("larger than"), "{refused}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let missing = read(Path::new("/nowhere/profiles.toml"), "p").unwrap_err();
        assert!(missing.to_string().contains("/nowhere/profiles.toml"));
    }
}
