//! Text without the secrets in it, for what is told or logged of what somebody else said: a server
//! quotes the URL that it was given, a person puts a key where its id belongs.
//!
//! Invariant: nothing of the form of one of our secrets is left that is worth anything. Any text is
//! gone through once, however it is made.

use std::borrow::Cow;

use crate::{ids::ApiKeyId, key, signing, token};

/// What stands for what is left out.
const LEFT_OUT: char = '…';

/// The text, without the API keys, signing secrets and callback tokens in it.
#[must_use]
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

/// A kind of secret, and how it is known.
struct Kind {
    mark: &'static str,
    /// Whether it may have this byte.
    has: fn(u8) -> bool,
    /// How many of its first bytes say nothing of it, where this is one. Looks at the beginning
    /// alone, so that a text of many beginnings takes no longer than another.
    shown: fn(&[u8]) -> Option<usize>,
}

/// In bytes.
struct Secret {
    shown: usize,
    length: usize,
}

impl Kind {
    /// The secret with which this begins.
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
    // Its id stays, which is no secret: whoever reads it knows which key to revoke.
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
    // A piece that is cut before its MAC has begun is worth nothing; but which part an excerpt ends
    // in is nobody's to guess.
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
