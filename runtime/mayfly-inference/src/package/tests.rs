//! Import as a whole.
