//! Identifiers. Each is a UUIDv7 behind its own type, written as a prefix and 32 hexadecimal digits (`dep_0193…`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The text is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind} id (expected `{prefix}_` and 32 hexadecimal digits)")]
pub struct IdError {
    kind: &'static str,
    prefix: &'static str,
    text: String,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, ordered by the time it was made.
            #[expect(clippy::new_without_default, reason = "two defaults would differ")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id with these 16 bytes, as [`Self::to_bytes`] gave them.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes of the id.
            pub const fn to_bytes(self) -> [u8; 16] {
                *self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                const START: usize = concat!($prefix, "_").len();
                // In one piece: it is in the headers of every answer.
                let mut text = [0; START + 32];
                text[..START].copy_from_slice(concat!($prefix, "_").as_bytes());
                self.0.simple().encode_lower(&mut text[START..]);
                f.write_str(std::str::from_utf8(&text).unwrap_or_default())
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .filter(|hex| hex.len() == 32)
                    .and_then(|hex| Uuid::try_parse(hex).ok())
                    .map(Self)
                    .ok_or_else(|| IdError {
                        kind: $kind,
                        prefix: $prefix,
                        text: text.chars().take(64).collect(),
                    })
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    )*};
}

ids! {
    /// Who owns projects and pays.
    TenantId, "ten", "tenant";
    /// Holds deployments, keys and models of its own.
    ProjectId, "prj", "project";
    /// A named endpoint of a project.
    DeploymentId, "dep", "deployment";
    /// One immutable version of a deployment.
    RevisionId, "rev", "revision";
    /// An API key (never the secret itself).
    KeyId, "key", "key";
    /// A model package registered under a name.
    ModelId, "mod", "model";
    /// One call.
    RequestId, "req", "request";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let id = DeploymentId::new();
        assert_eq!(id.to_string().parse::<DeploymentId>(), Ok(id));
        assert_eq!(DeploymentId::from_bytes(id.to_bytes()), id);
    }

    #[test]
    fn another_kind_is_refused() {
        let id = TenantId::new().to_string();
        assert!(id.parse::<DeploymentId>().is_err());
        assert!("dep_12".parse::<DeploymentId>().is_err());
        assert!("".parse::<DeploymentId>().is_err());
    }
}
