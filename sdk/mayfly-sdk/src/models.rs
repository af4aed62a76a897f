//! Which models this deployment was granted.

use crate::bindings::mayfly::inference::models;

/// The aliases of all granted models, sorted. Open one with [`Model::named`](crate::Model::named).
pub fn granted() -> Vec<String> {
    models::granted()
}
