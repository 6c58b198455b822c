//! What several operations share.

#[cfg(test)]
pub(crate) mod tests;
