//! Oracle: a run of the program itself. Its golden matches bit for bit on this machine and within a tolerance on others, every difference
//! is named by run and step, and results of older numerics are stale.

use std::fs;
use std::path::PathBuf;

use hydrometer::numerics::{NUMERICS, family};
use hydrometer::verify::golden::{Golden, nearest};
use serde_json::Value;

use super::lab::Lab;

const TINY: &str = r#"
question = "Do the numbers come again?"
[base]
data = { train = "train.txt", valid = "valid.txt", format = "text", tokenizer = { bpe = 280 } }
student = { hidden_size = 8, intermediate_size = 16, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1 }
context = 32
tokens = 1024
batch = 128
seeds = 1
[method.finetune]
objective = "hard-ce"
[smoke]
tokens = 512
"#;

fn tell(lab: &Lab, arguments: &[&str]) -> (Option<i32>, String) {
    let output = lab.run(arguments);
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn tiny() -> (Lab, PathBuf) {
    let lab = Lab::new();
    lab.write("tiny.toml", TINY);
    let goldens = lab.path().join("results/goldens/tiny");
    (lab, goldens)
}

const SMOKE: [&str; 3] = ["verify", "tiny.toml", "--smoke"];

/// Changes the golden in `folder` and updates its checksums.
fn rewrite(folder: &std::path::Path, change: impl FnOnce(&mut Golden)) {
    let read = nearest(folder).unwrap().unwrap();
    fs::remove_file(read.path).unwrap();
    let mut golden = read.golden;
    change(&mut golden);
    golden.write(folder).unwrap();
}

#[test]
fn differences_from_a_golden_are_named_by_run_and_step() {
    let (lab, goldens) = tiny();
    let (code, said) = tell(&lab, &SMOKE);
    assert!(code == Some(5) && said.contains("--write-golden"), "{said}");
    lab.ok(&["verify", "tiny.toml", "--smoke", "--write-golden"]);
    let path = goldens.join(format!("{}.json", family()));
    let (code, said) = tell(&lab, &SMOKE);
    assert!(code == Some(0) && said.contains("compared bit by bit"), "{said}");
    assert!(!lab.path().join("runs/rerun-tiny").exists());

    // Both number formats, each a run of its own; the unigram baseline has no number format.
    let golden = nearest(&goldens).unwrap().unwrap().golden;
    let formats =
        |name: &str| golden.runs.iter().filter(|(run, kept)| run.starts_with("finetune") && kept.precision == name).count();
    assert_eq!((formats("f32"), formats("bf16"), golden.runs.len()), (1, 1, 3));

    // Change one digit of a number of the third step.
    let text = fs::read_to_string(&path).unwrap();
    let (run, kept) = golden.runs.iter().find(|(run, _)| run.starts_with("finetune")).unwrap();
    let loss = kept.loss[2].unwrap().to_string();
    let digit = if &loss[6..7] == "7" { "3" } else { "7" };
    let written = format!("{}{digit}{}", &loss[..6], &loss[7..]);
    let changed: f64 = written.parse().unwrap();
    assert!(text.contains(&loss));
    fs::write(&path, text.replacen(&loss, &written, 1)).unwrap();
    let (code, said) = tell(&lab, &SMOKE);
    assert_eq!(code, Some(4), "{said}");
    let line = said.lines().find(|line| line.starts_with(run.as_str())).unwrap();
    assert!(line.contains(&format!("loss differs from step 3 on ({changed} is now {loss})")), "{said}");
    assert!(said.contains("checksum differs"), "{said}");
    assert_eq!(said.matches("the same to the bit").count(), 2, "the other runs still match: {said}");
    // A golden that was written with a wrong number.
    fs::write(&path, &text).unwrap();
    rewrite(&goldens, |golden| golden.runs.get_mut(run).unwrap().nll_sum.get_mut("valid").unwrap()[0] = Some(1.0));
    let (code, said) = tell(&lab, &SMOKE);
    assert!(code == Some(4) && said.contains("nll_sum of document 1 of valid differs from step 4 on (1 is now"), "{said}");

    for (damaged, told) in [
        (text.replace("\"threads\": ", "\"threads\": 1"), "checksum differs"),
        (text.replace(&format!("\"numerics\": {NUMERICS}"), "\"numerics\": 1"), "is stale"),
        (text[..text.len() / 2].to_string(), "is damaged"),
    ] {
        fs::write(&path, damaged).unwrap();
        let (code, said) = tell(&lab, &SMOKE);
        assert!(code == Some(4) && said.contains(told), "{told}: {said}");
    }
}

#[test]
fn goldens_of_other_processor_families_are_compared_within_a_tolerance() {
    let (lab, goldens) = tiny();
    lab.ok(&["verify", "tiny.toml", "--smoke", "--write-golden"]);
    let scale = |golden: &mut Golden, by: f64| {
        golden.cpu_family = "other-unit".into();
        for run in golden.runs.values_mut() {
            run.nll.iter_mut().for_each(|(.., nll)| *nll = nll.map(|nll| nll * by));
        }
    };
    rewrite(&goldens, |golden| scale(golden, 1.001));
    let (code, said) = tell(&lab, &SMOKE);
    assert!(code == Some(0) && said.contains("within tolerance; nll on valid differs from step 1 on"), "{said}");
    assert!(
        said.contains("made on other-unit,") && said.contains("evaluations are compared within 1%, not bit by bit"),
        "{said}"
    );
    rewrite(&goldens, |golden| scale(golden, 1.02));
    assert_eq!(tell(&lab, &SMOKE).0, Some(4));
    // With settings that emulate another processor, nothing is compared.
    let output = lab.command(&SMOKE).env("ONEDNN_MAX_CPU_ISA", "AVX2").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("ONEDNN_MAX_CPU_ISA is set"), "{said}");
}

#[test]
fn results_of_older_numerics_are_stale() {
    let (lab, _) = tiny();
    lab.ok(&["run", "tiny.toml"]);
    let path = lab.path().join("results/tiny/provenance.json");
    let mut provenance: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!((&provenance["numerics"], &provenance["cpu_family"]), (&NUMERICS.into(), &family().into()));
    lab.ok(&["verify", "tiny.toml"]);
    let (code, said) = tell(&lab, &["verify", "tiny.toml", "--accept-stale"]);
    assert!(code == Some(4) && said.contains("not stale"), "listing a result that is not stale is an error: {said}");

    let exported = |stale: bool| {
        lab.ok(&["export", "results/tiny", "--format", "json", "--out", "out"]);
        let numbers: Value = serde_json::from_slice(&fs::read(lab.path().join("out/tiny.json")).unwrap()).unwrap();
        assert_eq!((&numbers["numerics"]["stale"], &numbers["numerics"]["code"]), (&stale.into(), &NUMERICS.into()));
    };
    exported(false);
    for older in [Some(NUMERICS - 1), None] {
        let fields = provenance.as_object_mut().unwrap();
        match older {
            Some(version) => fields.insert("numerics".into(), version.into()),
            None => fields.remove("numerics"),
        };
        fs::write(&path, serde_json::to_vec_pretty(&provenance).unwrap()).unwrap();
        // The report shows the recorded version, so rewrite it.
        lab.ok(&["report", "tiny.toml"]);
        let (code, said) = tell(&lab, &["verify", "tiny.toml"]);
        assert!(
            code == Some(4) && said.contains(&format!("results/tiny: stale: made by numerics {}", older.unwrap_or(1))),
            "{said}"
        );
        assert_eq!(tell(&lab, &["verify", "tiny.toml", "--accept-stale"]).0, Some(0));
        exported(true);
    }
    // A fresh run has the current numerics.
    lab.ok(&["run", "tiny.toml", "--rerun", "all"]);
    lab.ok(&["verify", "tiny.toml"]);
}
