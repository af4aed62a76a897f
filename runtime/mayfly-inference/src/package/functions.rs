//! Functions that a model brings itself. The runtime replaces each call by the body, so calls that multiply, or come
//! back to themselves, could make a small file into an endless graph: the size after that is counted here.

use super::operators::shown;

/// Functions that call functions, one inside the other.
const CALL_DEPTH_MAX: usize = 32;

/// The nodes of one function or of the main graph.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) name: String,
    /// Own nodes, those of its subgraphs included.
    pub(super) nodes: u64,
    /// Deepest subgraph.
    pub(super) depth: usize,
    /// Calls: which function, and at which subgraph depth.
    pub(super) calls: Vec<(usize, usize)>,
}

/// Nodes and subgraph depth once everything is in place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Size {
    pub(super) nodes: u64,
    pub(super) depth: usize,
}

/// The size of `main` with all calls replaced by the bodies in `functions`.
///
/// # Errors
/// A text, if functions call each other in a circle or too deeply.
pub(super) fn expanded(main: &Body, functions: &[Body]) -> Result<Size, String> {
    let mut known = vec![None; functions.len()];
    size(main, functions, &mut known, 0)
}

fn size(body: &Body, functions: &[Body], known: &mut [Option<Size>], level: usize) -> Result<Size, String> {
    if level > CALL_DEPTH_MAX {
        return Err(format!(
            "the function `{}` is called through more than {CALL_DEPTH_MAX} functions, or calls itself",
            shown(&body.name)
        ));
    }
    let mut total = Size { nodes: body.nodes, depth: body.depth };
    for &(callee, at) in &body.calls {
        let inner = match known[callee] {
            Some(inner) => inner,
            None => {
                let inner = size(&functions[callee], functions, known, level + 1)?;
                known[callee] = Some(inner);
                inner
            }
        };
        total.nodes = total.nodes.saturating_add(inner.nodes);
        total.depth = total.depth.max(at.saturating_add(inner.depth));
    }
    Ok(total)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn body(nodes: u64, calls: &[usize]) -> Body {
        Body { nodes, calls: calls.iter().map(|callee| (*callee, 1)).collect(), ..Body::default() }
    }

    #[test]
    fn calls_multiply() {
        let functions: Vec<_> =
            (0..30).map(|i| if i == 29 { body(1, &[]) } else { body(0, &[i + 1, i + 1]) }).collect();
        let size = expanded(&body(0, &[0]), &functions).unwrap();
        assert_eq!(size, Size { nodes: 1 << 29, depth: 30 });
    }

    #[test]
    fn circles_end() {
        let functions = [body(1, &[1]), body(1, &[0])];
        assert!(expanded(&body(0, &[0]), &functions).unwrap_err().contains("calls itself"));
        // A chain with shared parts stays linear in time.
        let ladder: Vec<_> = (0..32).map(|i| body(1, &vec![i + 1; if i < 31 { 100 } else { 0 }])).collect();
        assert_eq!(expanded(&body(0, &[0]), &ladder).unwrap().nodes, u64::MAX);
    }
}
