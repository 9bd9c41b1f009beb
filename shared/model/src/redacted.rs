//! Removes secrets from text that others wrote before it is logged or returned. A server may quote
//! the URL that it received; a client may send a key in place of its id.
//!
//! Invariant: the result contains no usable text in the form of one of our secrets. The text is
//! scanned once, whatever its content.

use std::borrow::Cow;

use crate::{ids::ApiKeyId, key, signing, token};

const LEFT_OUT: char = '…';

pub fn redacted(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let (mut kept, mut copied, mut at) = (String::new(), 0, 0);
    while at < bytes.len() {
        let Some(secret) = KINDS.iter().find_map(|kind| kind.begins(&bytes[at..])) else {
            at += 1;
            continue;
        };
        kept.push_str(&text[copied..at + secret.shown]);
        kept.push(LEFT_OUT);
        at += secret.length;
        copied = at;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    kept.push_str(&text[copied..]);
    Cow::Owned(kept)
}

struct Kind {
    mark: &'static str,
    has: fn(u8) -> bool,
    /// How many of the first bytes may be shown; `None` if this is not a secret. Examines only the
    /// beginning, so that a text of many beginnings takes linear time.
    shown: fn(&[u8]) -> Option<usize>,
}

/// In bytes.
struct Secret {
    shown: usize,
    length: usize,
}

impl Kind {
    fn begins(&self, bytes: &[u8]) -> Option<Secret> {
        if !bytes.starts_with(self.mark.as_bytes()) {
            return None;
        }
        let shown = (self.shown)(bytes)?;
        let hidden = bytes[shown..].iter().take_while(|byte| (self.has)(**byte));
        Some(Secret {
            shown,
            length: shown + hidden.count(),
        })
    }
}

const KINDS: [Kind; 3] = [
    // The id is kept: it is public, and names the key to revoke.
    Kind {
        mark: key::MARK,
        has: is_key,
        shown: |bytes| {
            let longest = key::PREFIX.len() + ApiKeyId::LENGTH;
            let digits = bytes[key::MARK.len()..]
                .iter()
                .take(longest - key::MARK.len())
                .take_while(|byte| byte.is_ascii_hexdigit());
            let id = key::MARK.len() + digits.count();
            bytes
                .get(id)
                .is_some_and(|next| is_key(*next))
                .then_some(id)
        },
    },
    Kind {
        mark: signing::PREFIX,
        has: is_signing_secret,
        shown: |bytes| {
            let prefix = signing::PREFIX.len();
            let next = bytes.get(prefix).copied();
            next.is_some_and(is_signing_secret).then_some(prefix)
        },
    },
    // A token that is cut before its MAC is useless. Where an excerpt was cut is unknown, so all
    // that follows the key's name is removed.
    Kind {
        mark: token::VERSION,
        has: is_token,
        shown: |bytes| {
            let name = token::VERSION.len()..token::VERSION.len() + token::NAME_CHARACTERS;
            let is_one = bytes.get(name.end) == Some(&b'.')
                && bytes[name].iter().all(|byte| is_token(*byte));
            is_one.then_some(0)
        },
    },
];

fn is_key(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-".contains(&byte)
}

fn is_signing_secret(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=_-".contains(&byte)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

#[cfg(test)]
mod tests;
