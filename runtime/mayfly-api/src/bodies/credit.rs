//! Prepaid credit of a tenant, project, deployment or key.

use mayfly_types::Money;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Timestamp;

/// Credit to give, or to take back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCredit {
    /// A decimal as a string; below zero takes back.
    #[schema(value_type = String)]
    pub amount: Money,
    /// For people, at most 200 characters.
    #[serde(default)]
    pub note: String,
}

/// A level's credit account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Credit {
    /// `tenant`, `project`, `deployment` or `key`.
    pub level: String,
    /// The id of it.
    pub id: String,
    /// All grants together.
    #[schema(value_type = String)]
    pub granted: Money,
    /// Spent since the first grant.
    #[schema(value_type = String)]
    pub spent: Money,
    /// What is left; below zero if it was taken back or prices were corrected.
    #[schema(value_type = String)]
    pub balance: Money,
    /// The host's.
    pub currency: String,
    /// The grants, oldest first (the newest 1,000).
    pub grants: Vec<CreditGrant>,
}

/// One grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreditGrant {
    /// Below zero where credit was taken back.
    #[schema(value_type = String)]
    pub amount: Money,
    /// For people.
    pub note: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}
