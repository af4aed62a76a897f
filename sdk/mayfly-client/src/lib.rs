//! A typed client of Mayfly's control plane, and of deployments: what the CLI and other tools use.
//!
//! ```no_run
//! # async fn example() -> Result<(), mayfly_client::Error> {
//! let client = mayfly_client::Client::new("http://127.0.0.1:9090", "mf_…")?;
//! for project in client.projects().await? {
//!     println!("{}", project.name);
//! }
//! # Ok(()) }
//! ```
//!
//! Lists are read to their end, page by page. Bodies are those of `mayfly-api`, re-exported as [`api`].

#![forbid(unsafe_code)]

mod audit;
mod calls;
mod credit;
mod deployments;
mod error;
mod http;
mod level;
mod limits;
mod logs;
mod models;
mod package;
mod prices;
mod tenancy;
mod upload;

pub use audit::AuditQuery;
pub use calls::{Invocation, UsageQuery};
pub use error::Error;
pub use http::Client;
pub use level::Level;
pub use logs::Logs;
pub use mayfly_api as api;
pub use models::ModelPlace;
pub use package::PackageError;
pub use upload::Progress;
