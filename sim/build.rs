//! Rebuilds the crate when a file is added to the catalogue or leaves it: the embedding macro sees only changes inside
//! files that it knows.

fn main() {
    println!("cargo:rerun-if-changed=../scenarios");
}
