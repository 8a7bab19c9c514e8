//! Frames outlive the runs they were built from: an extended experiment adds rows even on a machine that has none of the old runs.

use std::fs;

use hydrometer::record::frames::{CurveRow, DocumentRow, EvalRow, Frames, RunRow};
use hydrometer::record::provenance::Provenance;

use super::lab::{EXPERIMENT, Lab};

#[test]
fn an_extended_experiment_keeps_its_existing_rows() {
    let lab = Lab::new();
    let small = EXPERIMENT.replace("12.8k", "2.56k").replace("10k", "2.56k");
    lab.write("lab.toml", &small);
    lab.ok(&["run", "lab.toml"]);
    let results = lab.path().join("results/lab");
    let first = Frames::read(&results).unwrap();
    fs::remove_dir_all(lab.path().join("runs")).unwrap();

    // One more arm, on a machine without the runs of the others.
    lab.write("lab.toml", &format!("{small}\n[method.raw]\nobjective = \"soft-ce\"\ntail = \"raw\"\ntop_k = 5\n"));
    lab.ok(&["run", "lab.toml", "--only", "raw"]);
    let grown = Frames::read(&results).unwrap();
    let before = RunRow::rows(&first.runs).unwrap();
    let after = RunRow::rows(&grown.runs).unwrap();
    let kept: Vec<&RunRow> = before.iter().filter(|row| row.role != "teacher").collect();
    for row in &kept {
        assert!(after.contains(row), "{} lost its row: {after:#?}", row.run);
    }
    let raw = after.iter().find(|row| row.method == "raw").unwrap();
    assert!(raw.status == "ok" && raw.planned && after.len() == before.len() + 1);
    let is_kept = |run: &str| kept.iter().any(|row| row.run == run);
    let curves = |frames: &Frames| -> Vec<CurveRow> {
        CurveRow::rows(&frames.curves).unwrap().into_iter().filter(|row| is_kept(&row.run)).collect()
    };
    assert!(!curves(&first).is_empty() && curves(&first) == curves(&grown));
    let evals = |frames: &Frames| -> Vec<EvalRow> {
        EvalRow::rows(&frames.evals).unwrap().into_iter().filter(|row| is_kept(&row.run)).collect()
    };
    assert!(!evals(&first).is_empty() && evals(&first) == evals(&grown));
    let documents = |frames: &Frames| DocumentRow::rows(&frames.documents).unwrap().len();
    assert!(documents(&grown) > documents(&first));
    let provenance = Provenance::read(&results).unwrap();
    let told: Vec<&String> = provenance.kept.iter().flat_map(|kept| &kept.runs).collect();
    assert_eq!(told.len(), kept.len(), "{:?}", provenance.kept);
    assert!(told.iter().all(|run| is_kept(run)));

    // Runs that the file no longer plans stay in the frames but are not in the tables.
    let without = small.split("[method.logit-mse]").next().unwrap();
    lab.write("lab.toml", &format!("{without}\n[method.raw]\nobjective = \"soft-ce\"\ntail = \"raw\"\ntop_k = 5\n"));
    lab.ok(&["run", "lab.toml", "--only", "raw"]);
    let rows = RunRow::rows(&Frames::read(&results).unwrap().runs).unwrap();
    let old = rows.iter().find(|row| row.method == "logit-mse").unwrap();
    assert!(old.status == "ok" && !old.planned && rows.len() == after.len());
    let report = fs::read_to_string(results.join("report.md")).unwrap();
    assert!(!report.contains("| logit-mse") && report.contains("| finetune"), "{report}");
    assert!(report.contains("The frames also hold 1 runs that the experiment file planned once"), "{report}");
    lab.ok(&["verify", "lab.toml"]);
}
