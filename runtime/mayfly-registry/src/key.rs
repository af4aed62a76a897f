//! API keys.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore as _;
use serde::{Deserialize, Serialize};

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyScope {
    /// Call deployments.
    Call,
    /// Deploy, import models, read logs and usage, within its tenant or project.
    Deploy,
    /// Everything, for the operator only.
    Admin,
}

/// What every secret begins with, so that scanners and people recognise one.
const PREFIX: &str = "mf_";
/// Characters of a secret.
const SECRET_LEN: usize = 46;

/// A secret, shown once. `Debug` does not print it.
#[derive(Clone)]
pub struct SecretKey(String);

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

impl SecretKey {
    /// A new secret of 256 random bits, `mf_` and 43 characters of base64url.
    ///
    /// # Panics
    /// If the operating system has no randomness to give: a guessable key must never be made.
    pub fn generate() -> Self {
        let mut bytes = [0_u8; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut bytes).expect("the operating system gives randomness");
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// To show once.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The first characters, to recognise it by.
    pub fn prefix(&self) -> String {
        self.0.chars().take(11).collect()
    }
}

/// What is stored instead of a secret.
pub fn hash_secret(secret: &str) -> [u8; 32] {
    *mayfly_types::Digest::of(secret.as_bytes()).as_bytes()
}

/// Whether the text could be a secret of ours at all: nothing else is hashed or looked up.
pub(crate) fn is_secret(text: &str) -> bool {
    text.len() == SECRET_LEN && text.starts_with(PREFIX) && text.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_long_distinct_and_not_printed() {
        let (one, two) = (SecretKey::generate(), SecretKey::generate());
        assert!(is_secret(one.expose()), "{} characters", one.expose().len());
        assert_ne!(one.expose(), two.expose());
        assert_ne!(hash_secret(one.expose()), hash_secret(two.expose()));
        assert_eq!(format!("{one:?}"), "SecretKey(…)");
        assert_eq!(one.prefix().len(), 11);
    }

    #[test]
    fn other_texts_are_not_secrets() {
        for text in ["", "mf_", "sk-0123", &"x".repeat(46), &format!("mf_{}", "x".repeat(1 << 20))] {
            assert!(!is_secret(text));
        }
    }
}
