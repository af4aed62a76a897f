//! Whose account is meant: limits and credit are kept for tenants, projects, deployments and keys.

/// One of the four levels a call is accounted at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level<'a> {
    /// A tenant, by name.
    Tenant(&'a str),
    /// A project, by name.
    Project(&'a str),
    /// A deployment, by its project's name and its own.
    Deployment(&'a str, &'a str),
    /// A key, by id.
    Key(&'a str),
}

impl<'a> Level<'a> {
    /// The path of `what` (for example `credit`) of this level.
    pub(crate) fn path(self, what: &'a str) -> Vec<&'a str> {
        let mut path = vec!["api", "v1"];
        match self {
            Self::Tenant(name) => path.extend(["tenants", name]),
            Self::Project(name) => path.extend(["projects", name]),
            Self::Deployment(project, name) => path.extend(["projects", project, "deployments", name]),
            Self::Key(id) => path.extend(["keys", id]),
        }
        path.push(what);
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(Level::Tenant("t").path("credit"), ["api", "v1", "tenants", "t", "credit"]);
        assert_eq!(
            Level::Deployment("p", "d").path("credit"),
            ["api", "v1", "projects", "p", "deployments", "d", "credit"]
        );
    }
}
