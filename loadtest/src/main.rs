//! Open-loop load test for fanfare.
fn main() {}
