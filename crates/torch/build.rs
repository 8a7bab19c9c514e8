//! Compiles our C++ (c10d, autograd, oneDNN's products) against libtorch's headers.

#![allow(clippy::print_stdout)]

use std::path::PathBuf;

fn main() {
    // Emitted by torch-sys, which has already located and checked libtorch.
    let lib = PathBuf::from(std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch is"));
    let lib = lib.canonicalize().unwrap_or(lib);
    let root = lib.parent().expect("libtorch/lib has a parent").to_path_buf();
    let cuda = std::env::var_os("CARGO_FEATURE_CUDA").is_some();
    if cuda && !lib.join("libtorch_cuda.so").exists() {
        panic!(
            "the cuda feature needs a CUDA libtorch, but {} has no libtorch_cuda.so; run `make libtorch-cuda` and set \
             LIBTORCH to the absolute path of .libtorch-cuda",
            lib.display()
        );
    }

    let mut shim = cxx_build::bridges(["src/dist/c10d.rs", "src/kernels/autograd.rs"]);
    shim.files(["src/dist/c10d.cc", "src/kernels/autograd.cc", "src/kernels/native.cc"])
        .std("c++17")
        .include("src/dist")
        .include("src/kernels")
        .include("src/dist/gloo_headers")
        .flag("-isystem")
        .flag(root.join("include").to_str().expect("a UTF-8 path"))
        .flag("-isystem")
        .flag(root.join("include/torch/csrc/api/include").to_str().expect("a UTF-8 path"))
        .flag_if_supported("-Wno-unused-parameter")
        // gcc 12 takes its own _mm512_undefined_epi32 for a mistake.
        .flag_if_supported("-Wno-maybe-uninitialized")
        .define("_GLIBCXX_USE_CXX11_ABI", "1");
    // Without OpenMP, at::parallel_for in ATen's headers is a plain loop. clang would link a second OpenMP runtime beside
    // torch's.
    if shim.get_compiler().is_like_gnu() {
        shim.flag("-fopenmp");
    }
    if cuda {
        shim.define("HYDROMETER_CUDA", None).include("src/dist/cuda_headers");
        let list = root.join("cuda-include-dirs");
        println!("cargo:rerun-if-changed={}", list.display());
        if let Ok(dirs) = std::fs::read_to_string(list) {
            for dir in dirs.lines() {
                shim.flag("-isystem").flag(dir);
            }
        }
    }
    shim.compile("hydrometer_shim");

    println!("cargo:rustc-link-search=native={}", lib.display());
    for library in ["torch_cpu", "c10"] {
        println!("cargo:rustc-link-lib={library}");
    }
    if cuda {
        for library in ["torch_cuda", "c10_cuda"] {
            println!("cargo:rustc-link-lib={library}");
        }
    }
    // For the tests of this crate; the build.rs of the program does the same.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,--allow-shlib-undefined");
    let dist = ["src/dist/c10d.rs", "src/dist/c10d.cc", "src/dist/c10d.h", "src/dist/gloo_headers", "src/dist/cuda_headers"];
    let kernels = ["autograd.rs", "autograd.cc", "autograd.h", "native.cc"].map(|file| format!("src/kernels/{file}"));
    for path in ["build.rs"].into_iter().chain(dist).map(String::from).chain(kernels) {
        println!("cargo:rerun-if-changed={path}");
    }
}
