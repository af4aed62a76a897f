//! Settings of the two listeners. Every queue, buffer and wait has a limit with a name and a unit.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of [`crate::Gateway`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// Also answer at `{deployment}--{project}.{domain}`. None: paths only.
    pub domain: Option<String>,
    /// How callers reach the data listener, for the URLs that are shown. None: its own address.
    pub public_url: Option<String>,
    /// Connections open at once on the data listener; one more is refused with 503.
    pub connections_max: u32,
    /// Connections open at once on the admin listener; one more is refused with 503.
    pub admin_connections_max: u32,
    /// Requests at once on one HTTP/2 connection.
    pub streams_per_connection_max: u32,
    /// Bytes of a request's target and headers together; more is refused with 431.
    pub header_bytes_max: u32,
    /// Headers of a request; more is refused with 431.
    pub headers_max: u32,
    /// How long a request's head may take to arrive, and how long an unused connection is kept.
    pub head_ms_max: u64,
    /// How long the next piece of a request's body may take to arrive.
    pub body_idle_ms_max: u64,
    /// Bytes of a body that has to be read to find its deployment (`/v1/embeddings`).
    pub openai_body_bytes_max: u64,
    /// How long such a body may take to arrive in full.
    pub openai_body_ms_max: u64,
    /// Bytes of such bodies held at once, over all requests; beyond, 503. While it fills up, who holds most is refused
    /// first: a tenant may hold four times what is free.
    pub openai_held_bytes_max: u64,
    /// Bytes of a JSON body on the admin listener.
    pub control_body_bytes_max: u64,
    /// Uploads at once; one more is refused with 503.
    pub uploads_max: u32,
    /// Readers of logs that follow, at once; one more is refused with 503.
    pub log_followers_max: u32,
    /// At a stop, how long running requests may take to end before they are cut.
    pub drain_ms_max: u64,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            domain: None,
            public_url: None,
            connections_max: 10_000,
            admin_connections_max: 256,
            streams_per_connection_max: 256,
            header_bytes_max: 64 * 1024,
            headers_max: 128,
            head_ms_max: 30_000,
            body_idle_ms_max: 30_000,
            openai_body_bytes_max: 16 << 20,
            openai_body_ms_max: 60_000,
            openai_held_bytes_max: 512 << 20,
            control_body_bytes_max: 1 << 20,
            uploads_max: 8,
            log_followers_max: 64,
            drain_ms_max: 30_000,
        }
    }
}

impl GatewayConfig {
    /// All problems at once, each as a sentence that names the key.
    ///
    /// # Errors
    /// One text for each problem.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        for (key, value) in [
            ("connections_max", u64::from(self.connections_max)),
            ("admin_connections_max", u64::from(self.admin_connections_max)),
            ("streams_per_connection_max", u64::from(self.streams_per_connection_max)),
            ("headers_max", u64::from(self.headers_max)),
            ("head_ms_max", self.head_ms_max),
            ("body_idle_ms_max", self.body_idle_ms_max),
            ("openai_body_ms_max", self.openai_body_ms_max),
            ("control_body_bytes_max", self.control_body_bytes_max),
            ("uploads_max", u64::from(self.uploads_max)),
        ] {
            if value == 0 {
                problems.push(format!("gateway.{key} must be at least 1"));
            }
        }
        if !(1024..=1 << 20).contains(&self.header_bytes_max) {
            problems.push("gateway.header_bytes_max must be between 1024 and 1048576".to_owned());
        }
        if self.headers_max > 10_000 {
            problems.push("gateway.headers_max must be at most 10000".to_owned());
        }
        if self.openai_held_bytes_max < self.openai_body_bytes_max {
            problems.push("gateway.openai_held_bytes_max must be at least gateway.openai_body_bytes_max".to_owned());
        }
        if let Some(domain) = &self.domain
            && !is_domain(domain)
        {
            problems.push(format!("gateway.domain `{domain}` is not a host name in lower case, without a port"));
        }
        if let Some(url) = &self.public_url
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            problems.push(format!("gateway.public_url `{url}` must begin with http:// or https://"));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    pub(crate) fn head_wait(&self) -> Duration {
        Duration::from_millis(self.head_ms_max)
    }

    pub(crate) fn body_idle(&self) -> Duration {
        Duration::from_millis(self.body_idle_ms_max)
    }

    pub(crate) fn openai_body(&self) -> Duration {
        Duration::from_millis(self.openai_body_ms_max)
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms_max)
    }
}

fn is_domain(text: &str) -> bool {
    text.len() <= 200
        && text.split('.').all(|label| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(GatewayConfig::default().validate(), Ok(()));
    }

    #[test]
    fn all_problems_at_once() {
        let config = GatewayConfig {
            uploads_max: 0,
            header_bytes_max: 1,
            domain: Some("Not a domain".to_owned()),
            public_url: Some("example.com".to_owned()),
            ..GatewayConfig::default()
        };
        let problems = config.validate().expect_err("four keys are wrong");
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems.iter().any(|p| p.contains("gateway.domain")));
    }
}
