//! Lets the binaries find libtorch without environment variables.

#![allow(clippy::print_stdout)]

use std::path::PathBuf;

fn main() {
    // Emitted by torch-sys, which has already located and checked libtorch.
    let lib = PathBuf::from(std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch is"));
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.canonicalize().unwrap_or(lib).display());
    // libtorch's own dependencies (CUDA's runtime) are needed when it runs, not when we link.
    println!("cargo:rustc-link-arg=-Wl,--allow-shlib-undefined");
    println!("cargo:rerun-if-changed=build.rs");
}
