//! One sequence's way through its constraint.

use std::fmt;

use llguidance::api::StopReason;
use llguidance::toktrie::SimpleVob;

use super::OptionError;

/// The tokens allowed at one place.
#[derive(Clone)]
pub(crate) struct Mask(SimpleVob);

impl Mask {
    /// One bit for each token, the lowest bit of the first word for token 0. Tokens behind the last word are not allowed.
    pub(crate) fn words(&self) -> &[u32] {
        self.0.as_slice()
    }

    #[cfg(test)]
    pub(crate) fn of(allowed: &[bool]) -> Self {
        Self(SimpleVob::from_slice(allowed))
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mask({} tokens)", self.0.num_set())
    }
}

/// One sequence's state. A clone goes on by itself: choices of one request compile their constraint once.
#[derive(Clone)]
pub(crate) struct Matcher {
    inner: llguidance::Matcher,
    kind: &'static str,
    mask: Mask,
}

impl Matcher {
    pub(super) fn new(mut inner: llguidance::Matcher, kind: &'static str) -> Result<Self, String> {
        let mask = inner.compute_mask_or_eos().map_err(|error| error.to_string())?;
        Ok(Self { inner, kind, mask: Mask(mask) })
    }

    /// The tokens that may come next; once [`Self::is_over`], only those that end a text.
    pub(crate) fn mask(&self) -> &Mask {
        &self.mask
    }

    /// Takes the token that came, and computes the next mask: tens of microseconds as a rule, some milliseconds at the
    /// limit.
    ///
    /// # Errors
    /// [`OptionError::TooLarge`]: the constraint costs more at this place than a step may. [`OptionError::Unusable`]:
    /// the token was not in the mask, or no token can follow.
    pub(crate) fn accept(&mut self, token: u32) -> Result<(), OptionError> {
        self.inner.consume_token(token).map_err(|error| self.failed(&error.to_string()))?;
        let mask = self.inner.compute_mask_or_eos().map_err(|error| self.failed(&error.to_string()))?;
        self.mask = Mask(mask);
        Ok(())
    }

    /// Whether the text is complete and nothing can follow, or its end token came.
    pub(crate) fn is_over(&self) -> bool {
        self.inner.is_stopped()
    }

    fn failed(&self, detail: &str) -> OptionError {
        tracing::debug!(kind = self.kind, detail, "a constraint ended a generation");
        match self.inner.stop_reason() {
            StopReason::LexerTooComplex | StopReason::ParserTooComplex => too_costly(self.kind),
            _ if detail.contains("limit") || detail.contains("fuel") || detail.contains("too complex") => {
                too_costly(self.kind)
            }
            _ => OptionError::Unusable {
                kind: self.kind,
                detail: "no token of this model can continue the text at the place it has reached".to_owned(),
            },
        }
    }
}

fn too_costly(kind: &'static str) -> OptionError {
    OptionError::TooLarge {
        kind,
        detail: "one step through it costs more than this host allows; simplify it".to_owned(),
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher").field("kind", &self.kind).field("mask", &self.mask).finish_non_exhaustive()
    }
}
