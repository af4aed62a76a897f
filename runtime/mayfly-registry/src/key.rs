//! API keys.

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
    pub fn generate() -> Self {
        todo!()
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
