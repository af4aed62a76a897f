//! Who asks for a generation, as far as the engine needs to know.

use mayfly_types::{DeploymentId, KeyId, TenantId};

/// Whose turn a generation takes, and whose earlier prompts it may go on from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    /// Whose tokens are counted together where several want to be served.
    pub(crate) owner: u128,
    /// Whose earlier prompts may be gone on from.
    pub(crate) reuse: Option<[u8; 32]>,
}

impl Asker {
    /// A caller with `key`. Prompts are gone on from within a deployment only, and within one key of it unless all
    /// `share`: how soon a first token comes, and how many tokens are counted as cached, tells a caller which beginnings
    /// others have sent, so only the deployment's owner can want that.
    pub(crate) fn new(tenant: TenantId, deployment: DeploymentId, key: KeyId, share: bool) -> Self {
        // Different words for the two, so that what was sent while keys were apart stays apart.
        let mut scope = if share {
            blake3::Hasher::new_derive_key("mayfly prefix reuse: deployment")
        } else {
            let mut scope = blake3::Hasher::new_derive_key("mayfly prefix reuse: deployment and key");
            scope.update(&key.to_bytes());
            scope
        };
        scope.update(&deployment.to_bytes());
        Self { owner: crate::grants::owner(tenant), reuse: Some(*scope.finalize().as_bytes()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_apart_unless_the_owner_shares_and_deployments_always() {
        let tenant = TenantId::new();
        let (here, there) = (DeploymentId::new(), DeploymentId::new());
        let (ours, theirs) = (KeyId::new(), KeyId::new());
        let scope = |deployment, key, share| Asker::new(tenant, deployment, key, share).reuse;
        assert_eq!(scope(here, ours, false), scope(here, ours, false));
        assert_ne!(scope(here, ours, false), scope(here, theirs, false));
        assert_ne!(scope(here, ours, false), scope(there, ours, false));
        assert_eq!(scope(here, ours, true), scope(here, theirs, true));
        assert_ne!(scope(here, ours, true), scope(there, ours, true));
        assert_ne!(scope(here, ours, true), scope(here, ours, false));
        assert!(scope(here, ours, true).is_some());
    }
}
