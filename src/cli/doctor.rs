//! `hydrometer doctor`: checks this machine and this build.

use std::process::{Command, ExitCode};

use anyhow::Result;
use hydrometer_base::numerics::{self, NUMERICS};
use hydrometer_record::provenance::cpu_model;
use hydrometer_torch::dist::c10d;
use serde_json::json;

use super::{Output, terminal};
use crate::say;
use crate::sweep::provenance::memory_gb;

struct Check {
    name: &'static str,
    found: String,
    /// What to do about it, if something is missing.
    cure: Option<&'static str>,
}

pub fn doctor(output: Output) -> Result<ExitCode> {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |flag: &str| flags.lines().any(|line| line.starts_with("flags") && line.split_whitespace().any(|f| f == flag));
    let mut checks = Vec::new();
    let mut add = |name, found: String, cure: Option<&'static str>| checks.push(Check { name, found, cure });
    for (name, program, cure) in [
        ("cargo", "cargo", "install Rust to rebuild: https://rustup.rs"),
        ("C++ compiler", "c++", "install a C++17 compiler to rebuild, e.g. apt install g++"),
        ("python3", "python3", "install Python 3 with pip and venv to set up libtorch"),
    ] {
        match Command::new(program).arg("--version").output() {
            Ok(found) => {
                let text = String::from_utf8_lossy(&found.stdout);
                add(name, text.lines().next().unwrap_or_default().to_string(), None);
            }
            Err(_) => add(name, "missing".into(), Some(cure)),
        }
    }
    let built = c10d::torch_config().lines().nth(1).unwrap_or_default().trim().trim_start_matches("- ").to_string();
    add("libtorch", format!("{}, built with {built}", c10d::torch_version()), None);
    add("cpu", cpu_model(), None);
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    add("cores", cores.to_string(), None);
    add("CPU family", numerics::family(), None);
    add("numerics", format!("version {NUMERICS}"), None);
    let settings = numerics::settings();
    if !settings.is_empty() {
        let shown: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        add(
            "environment",
            shown.join(" "),
            Some("these change the trained numbers in their last bits; unset them to compare with other machines"),
        );
    }
    add("ATen kernels", c10d::cpu_capability(), None);
    if has("amx_bf16") {
        add("bf16 products", "AMX through oneDNN; ONEDNN_VERBOSE=1 shows it at work".into(), None);
    } else if has("avx512_bf16") {
        add("bf16 products", "AVX-512 BF16 through oneDNN".into(), None);
    } else {
        add("bf16 products", "emulated: slow".into(), Some("use precision = \"f32\" on this machine"));
    }
    let memory = memory_gb();
    add("memory", format!("{memory:.1} GB"), (memory < 4.0).then_some("the quickstart needs 4 GB; close other programs"));
    let cuda = if tch::Cuda::is_available() {
        (format!("{} devices", tch::Cuda::device_count()), None)
    } else if cfg!(feature = "cuda") {
        ("in this build, but no device was found".to_string(), Some("check the driver with nvidia-smi"))
    } else {
        ("not in this build (--device cpu)".to_string(), None)
    };
    add("CUDA", cuda.0, cuda.1);

    if output == Output::Json {
        let list: Vec<_> =
            checks.iter().map(|c| json!({ "name": c.name, "found": c.found, "ok": c.cure.is_none(), "cure": c.cure })).collect();
        terminal::json(&json!({ "checks": list, "version": env!("CARGO_PKG_VERSION") }));
    } else {
        say!("hydrometer {}", env!("CARGO_PKG_VERSION"));
        for Check { name, found, cure } in &checks {
            say!("{} {name:<14} {found}", if cure.is_some() { "!" } else { " " });
            if let Some(cure) = cure {
                say!("                 -> {cure}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
