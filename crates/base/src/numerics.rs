//! The numerics version of a result, and what else determines its bits: the processor family and library settings.
//!
//! The same recipe trains to the same bits given the same numerics version, the same libtorch, the same number of threads and a
//! processor of the same family. Results record the version; `hydrometer verify` calls results of an older version stale.

use std::collections::BTreeMap;

/// The current numerics version. A commit that deliberately changes any number that training produces must raise it.
pub const NUMERICS: u32 = 4;

/// The version assumed for results that record none.
pub const UNRECORDED: u32 = 1;

/// What a version changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub version: u32,
    pub date: &'static str,
    /// A noun phrase, for sentences.
    pub what: &'static str,
}

/// All versions, oldest first.
pub const HISTORY: [Change; 4] = [
    Change { version: 1, date: "2026-11-24", what: "the first arithmetic, and that of results which record no version" },
    Change {
        version: 2,
        date: "2026-11-24",
        what: "the rounding of cached teacher probabilities, which moves the losses of distilled arms by up to 0.5%, \
               and the precision of logits in bf16",
    },
    Change {
        version: 3,
        date: "2026-11-25",
        what: "the order of sums in attention, norms, gradients and predictions, and in bf16 the rounding between them, \
               which is less",
    },
    Change {
        version: 4,
        date: "2026-11-25",
        what: "the rounding of residual sums, of queries, keys and values, of the feed-forward layer's inputs, each of which one \
               operation computes, and of the labels' gradients",
    },
];

/// The changes after `version`, up to the current one.
pub fn changes_since(version: u32) -> impl Iterator<Item = &'static Change> {
    HISTORY.iter().filter(move |change| change.version > version)
}

/// Environment variables that make ATen, oneDNN or MKL choose other kernels than the processor alone would.
const SETTINGS: [&str; 11] = [
    "ATEN_CPU_CAPABILITY",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "TORCH_MKLDNN_MATMUL_MIN_DIM",
];

/// Those of the variables that are set, with their values.
pub fn settings() -> BTreeMap<String, String> {
    let set = |name: &&str| Some((name.to_string(), std::env::var_os(name)?.to_string_lossy().into_owned()));
    SETTINGS.iter().filter_map(set).collect()
}

/// With these settings oneDNN and MKL compute on a processor with AMX as on one without it: the family is then the narrower one.
const WITHOUT_AMX: [(&str, &str); 2] = [("MKL_ENABLE_INSTRUCTIONS", "AVX512_E3"), ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")];

/// Whether `settings` equals [`WITHOUT_AMX`].
fn are_without_amx(settings: &BTreeMap<String, String>) -> bool {
    settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(WITHOUT_AMX)
}

/// The first of [`settings`] that makes the bits differ from those of [`family`], with its value.
pub fn foreign_setting() -> Option<(String, String)> {
    let settings = settings();
    if are_without_amx(&settings) { None } else { settings.into_iter().next() }
}

/// The family of this machine's processor, e.g. `intel-amx`. It decides the kernels of ATen, oneDNN and MKL, and so the bits.
pub fn family() -> String {
    let family = family_of(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default(), std::env::consts::ARCH);
    if family == "intel-amx" && are_without_amx(&settings()) { "intel-avx512-bf16".into() } else { family }
}

/// The family by the content of `/proc/cpuinfo`. Only vendor and features decide: MKL takes other code paths on other vendors'
/// processors, and oneDNN uses the widest vector unit available.
fn family_of(cpuinfo: &str, architecture: &str) -> String {
    let field = |name: &str| {
        cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim())
        })
    };
    let flags: Vec<&str> = field("flags").or(field("Features")).unwrap_or_default().split_whitespace().collect();
    let has = |flag: &str| flags.contains(&flag);
    if architecture != "x86_64" {
        let units = [("sve", "-sve"), ("bf16", "-bf16")].into_iter().filter(|(flag, _)| has(flag)).map(|(_, name)| name);
        return std::iter::once(architecture).chain(units).collect();
    }
    let vendor = match field("vendor_id").unwrap_or("unknown") {
        "GenuineIntel" => "intel".to_string(),
        "AuthenticAMD" => "amd".to_string(),
        other => other.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase(),
    };
    let unit = match () {
        () if has("amx_bf16") => "amx",
        () if has("avx512_bf16") => "avx512-bf16",
        () if ["avx512f", "avx512bw", "avx512dq", "avx512vl"].into_iter().all(has) => "avx512",
        () if has("avx2") => "avx2",
        () => "sse",
    };
    format!("{vendor}-{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_has_a_history_entry() {
        let versions: Vec<u32> = HISTORY.iter().map(|change| change.version).collect();
        assert_eq!(versions, (1..=NUMERICS).collect::<Vec<_>>());
        assert_eq!(changes_since(1).count() as u32, NUMERICS - 1);
        assert_eq!(changes_since(NUMERICS).count(), 0);
    }

    #[test]
    fn amx_counts_as_off_only_with_both_settings() {
        let set = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        assert!(are_without_amx(&set(&WITHOUT_AMX)));
        assert!(!are_without_amx(&set(&WITHOUT_AMX[..1])));
        assert!(!are_without_amx(&set(&[WITHOUT_AMX[0], ("ONEDNN_MAX_CPU_ISA", "AVX2")])));
        assert!(!are_without_amx(&set(&[WITHOUT_AMX[0], WITHOUT_AMX[1], ("MKL_CBWR", "AVX2")])));
    }

    #[test]
    fn a_processor_family_is_a_vendor_and_its_widest_instruction_set() {
        let of = |vendor: &str, flags: &str| family_of(&format!("vendor_id\t: {vendor}\nflags\t\t: {flags}\n"), "x86_64");
        let avx512 = "avx2 avx512f avx512bw avx512dq avx512vl";
        assert_eq!(of("GenuineIntel", &format!("{avx512} avx512_bf16 amx_bf16")), "intel-amx");
        assert_eq!(of("GenuineIntel", &format!("{avx512} avx512_bf16")), "intel-avx512-bf16");
        assert_eq!(of("AuthenticAMD", &format!("{avx512} avx512_bf16")), "amd-avx512-bf16");
        assert_eq!(of("GenuineIntel", avx512), "intel-avx512");
        assert_eq!(of("AuthenticAMD", "avx2 avx512f"), "amd-avx2", "ATen requires all four AVX-512 extensions");
        assert_eq!(of("Weird Vendor/..", "sse2"), "weirdvendor-sse", "a family must be usable as a file name");
        assert_eq!(family_of("", "x86_64"), "unknown-sse");
        assert_eq!(family_of("Features\t: fp asimd sve bf16\n", "aarch64"), "aarch64-sve-bf16");
    }
}
