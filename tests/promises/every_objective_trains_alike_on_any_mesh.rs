//! Oracle: the same experiment on one rank, and each loss's own slope. 100 updates of every objective; every logged loss
//! agrees to 1e-4, relatively, in f32.

use hydrometer::record::journal::{self, Event};

use super::lab::{EXPERIMENT, Lab};

const METHODS: [(&str, &str); 12] = [
    ("hard", "objective = \"hard-ce\""),
    ("raw", "objective = \"soft-ce\""),
    ("metaseq", "objective = \"soft-ce\"\ntail = \"metaseq\""),
    ("renormalize", "objective = \"soft-ce\"\ntail = \"renormalize\"\ntemperature = 2.0"),
    ("double", "objective = \"soft-ce\"\ntail = \"double-renormalize\"\nlambda = 0.5"),
    ("bucket", "objective = \"soft-ce\"\ntail = \"bucket\"\ntemperature = 2.0\ntemperature_squared = true\nlambda = 0.3"),
    ("uniform", "objective = \"soft-ce\"\ntail = \"uniform\""),
    ("forward", "objective = \"kl-forward\""),
    ("reverse", "objective = \"kl-reverse\""),
    ("jsd", "objective = \"jsd\"\nbeta = 0.3"),
    ("mse", "objective = \"logit-mse\"\ncentered = true\nmse_mean = true\nlambda = 0.5"),
    ("logprobs", "objective = \"logprob-mse\"\nmse_mean = true\non_purpose = true"),
];

#[test]
fn over_tensor_and_data_parallel_ranks_and_along_its_own_gradient() {
    let lab = Lab::new();
    let head = EXPERIMENT
        .split("[method.")
        .next()
        .unwrap()
        .replace("batch   = 256", "batch   = 128")
        .replace("lr      = 3e-3", "lr      = 1e-3")
        .replace("every = \"4k\"", "every = \"12k\"");
    let methods = METHODS.map(|(name, settings)| {
        let teacher = if name == "hard" { "" } else { "top_k = 10\n" };
        format!("[method.{name}]\n{settings}\n{teacher}\n")
    });
    lab.write("lab.toml", &(head + &methods.concat()));
    let meshes: [(&str, &[&str]); 4] = [("one", &[]), ("tp2", &["--tp", "2"]), ("tp4", &["--tp", "4"]), ("dp2", &["--dp", "2"])];
    for (name, arguments) in meshes {
        let results = format!("{name}-results");
        lab.ok(&[&["run", "lab.toml", "--runs", name, "--results", &results], arguments].concat());
    }
    let one = lab.numbers("one");
    assert!(one.iter().filter(|(run, _, what, _)| run.starts_with("jsd") && *what == "loss").count() == 100);
    for (name, _) in &meshes[1..] {
        let many = lab.numbers(name);
        assert_eq!(one.len(), many.len());
        for ((run, step, what, a), (other, _, _, b)) in one.iter().zip(&many) {
            assert_eq!(run, other, "identity does not depend on parallelism");
            assert!((a - b).abs() <= 1e-4 * a.abs(), "{run} step {step}: {what} {a} on one rank, {b} on {name}");
        }
    }
    for (name, _) in METHODS {
        let folders = std::fs::read_dir(lab.path().join("one")).unwrap().map(|entry| entry.unwrap().path());
        let mine = folders.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(&format!("{name}-s0")));
        let events = mine.flat_map(|path| journal::read(&path.join(journal::FILE)));
        let slopes: Vec<f64> =
            events.filter_map(|e| if let Event::GradientChecked { slope } = e { Some(slope) } else { None }).collect();
        assert_eq!(slopes.len(), 1, "{name}");
        let straight = (slopes[0] - 1.0).abs() < 1e-2;
        assert_eq!(straight, name != "metaseq", "{name}: the loss moves by {} of what its gradient says", slopes[0]);
    }
}
