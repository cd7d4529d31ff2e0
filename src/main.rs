//! servesim: what an LLM serving deployment will do, before the hardware is bought.
fn main() {}
