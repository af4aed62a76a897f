//! Which deployment a request is for, and which path its handler sees. The path is handed on as it came, not decoded.

use mayfly_types::Name;

/// A deployment by name, and what follows it in the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// The project's name.
    pub(crate) project: &'a str,
    /// The deployment's name.
    pub(crate) deployment: &'a str,
    /// Begins with `/`.
    pub(crate) path: &'a str,
}

/// Why a request has no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPath {
    /// A `%` without two hexadecimal digits.
    #[error("the path has a `%` that is not followed by two hexadecimal digits")]
    Encoding,
    /// A control character, encoded or not, or a byte that is not ASCII.
    #[error("the path has a control character or a byte that is not ASCII; percent-encode it as UTF-8")]
    Character,
    /// `.` or `..`, encoded or not.
    #[error("the path has a `.` or `..` segment; send it resolved")]
    Dots,
}

/// `/d/{project}/{deployment}` and what follows. None if the path is not of that form.
pub(crate) fn from_path(path: &str) -> Option<Target<'_>> {
    let rest = path.strip_prefix("/d/")?;
    let (project, rest) = rest.split_once('/')?;
    let (deployment, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    (!project.is_empty() && !deployment.is_empty()).then_some(Target { project, deployment, path })
}

/// `{deployment}--{project}.{domain}`, in any case, with or without a port. None if the host is another one.
pub(crate) fn from_host(host: &str, domain: &str) -> Option<(Name, Name)> {
    let host = host_without_port(host).to_ascii_lowercase();
    let label = host.strip_suffix(domain)?.strip_suffix('.')?;
    let (deployment, project) = label.split_once("--")?;
    Some((project.parse().ok()?, deployment.parse().ok()?))
}

fn host_without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Refuses what one server reads in one way and the next in another.
///
/// # Errors
/// [`BadPath`].
pub(crate) fn check_path(path: &str) -> Result<(), BadPath> {
    for segment in path.split('/') {
        let plain = decode_segment(segment)?;
        if plain == b"." || plain == b".." {
            return Err(BadPath::Dots);
        }
    }
    Ok(())
}

fn decode_segment(segment: &str) -> Result<Vec<u8>, BadPath> {
    let mut plain = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
            let (Some(high), Some(low)) = (digit(), digit()) else { return Err(BadPath::Encoding) };
            high << 4 | low
        } else if byte.is_ascii() {
            byte
        } else {
            return Err(BadPath::Character);
        };
        if byte.is_ascii_control() {
            return Err(BadPath::Character);
        }
        plain.push(byte);
    }
    Ok(plain)
}

/// The host a request was sent to: its target's authority (HTTP/2, absolute form), else its one `host` header.
/// None if there is none, more than one, or one that could not be a host.
pub(crate) fn host(parts: &http::request::Parts) -> Option<String> {
    let text = match parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => {
            let mut values = parts.headers.get_all(http::header::HOST).iter();
            let value = values.next()?;
            if values.next().is_some() {
                return None;
            }
            value.to_str().ok()?
        }
    };
    let fits = !text.is_empty()
        && text.len() <= 261
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']'));
    fits.then(|| text.to_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[track_caller]
    fn path(input: &str, expect: Option<(&str, &str, &str)>) {
        let got = from_path(input);
        assert_eq!(got.map(|t| (t.project, t.deployment, t.path)), expect, "{input}");
    }

    #[test]
    fn paths() {
        path("/d/p/e", Some(("p", "e", "/")));
        path("/d/p/e/", Some(("p", "e", "/")));
        path("/d/p/e/v1/embeddings", Some(("p", "e", "/v1/embeddings")));
        path("/d/p/e//x%2fy/", Some(("p", "e", "//x%2fy/")));
        path("/d/p", None);
        path("/d/p/", None);
        path("/d//e", None);
        path("/v1/models", None);
    }

    #[test]
    fn hosts() {
        let found = |host| from_host(host, "mf.example.com").map(|(p, d)| (p.to_string(), d.to_string()));
        assert_eq!(found("emb--default.mf.example.com"), Some(("default".into(), "emb".into())));
        assert_eq!(found("EMB--default.MF.example.com:8080"), Some(("default".into(), "emb".into())));
        assert_eq!(found("a-b--c-d.mf.example.com"), Some(("c-d".into(), "a-b".into())));
        for other in [
            "mf.example.com",
            "emb.mf.example.com",
            "emb--p.example.com",
            "a--b--c.mf.example.com",
            "x--y.zmf.example.com",
            "a.b--c.mf.example.com",
            "",
        ] {
            assert_eq!(found(other), None, "{other}");
        }
    }

    #[test]
    fn paths_that_two_servers_could_read_differently_are_refused() {
        for good in ["/", "/a/b", "/a%20b", "/..a/...", "/a%2fb", "//", "/%E4%B8%AD"] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("/../x", BadPath::Dots),
            ("/a/..", BadPath::Dots),
            ("/%2e%2E/x", BadPath::Dots),
            ("/.%2e", BadPath::Dots),
            ("/./x", BadPath::Dots),
            ("/%", BadPath::Encoding),
            ("/%4", BadPath::Encoding),
            ("/%zz", BadPath::Encoding),
            ("/%00", BadPath::Character),
            ("/a%0d%0ab", BadPath::Character),
            ("/ä", BadPath::Character),
        ] {
            assert_eq!(check_path(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn the_host_of_a_request() {
        let parts = |uri: &str, hosts: &[&'static str]| {
            let mut request = http::Request::builder().uri(uri);
            for host in hosts {
                request = request.header("host", *host);
            }
            request.body(()).unwrap().into_parts().0
        };
        assert_eq!(host(&parts("/x", &["a.example:80"])).as_deref(), Some("a.example:80"));
        assert_eq!(host(&parts("http://b.example/x", &["a.example"])).as_deref(), Some("b.example"));
        assert_eq!(host(&parts("/x", &[])), None);
        assert_eq!(host(&parts("/x", &["a", "b"])), None);
        assert_eq!(host(&parts("/x", &["a/b"])), None);
        assert_eq!(host(&parts("http://u@b.example/x", &[])), None);
    }
}
