//! The command `serpens`.
fn main() {}
