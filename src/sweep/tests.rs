//! Promises of the key `packing`: which recipes it changes, and which it does not.

use std::path::Path;

use hydrometer_base::identity::identity;
use hydrometer_data::recipe::Packing;

use super::job::{baselines, cache_place, data_folder, fidelity_teacher, recording_place};
use crate::experiment::Experiment;
use crate::experiment::tests::{BASE, Bench, SAMPLE};

fn fixture(name: &str) -> String {
    format!("{:?}", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name))
}

/// `toml` with both values of `packing`: students with `none` first.
fn swept(toml: &str) -> Experiment {
    Bench::new().good(&format!("{toml}[sweep]\ngrid = {{ packing = [\"none\", \"documents\"] }}\n"))
}

#[test]
fn one_sequence_per_row_is_the_default_and_leaves_recipes_unchanged() {
    let bench = Bench::new();
    let arm = "[method.a]\nobjective = \"hard-ce\"\n";
    let recipe = |setting: &str| bench.good(&format!("{BASE}{setting}{arm}")).students[0].recipe.clone();
    let (default, explicit, packed) = (recipe(""), recipe("packing = \"none\"\n"), recipe("packing = \"documents\"\n"));
    assert_eq!(identity(&default), identity(&explicit));
    assert_ne!(identity(&default), identity(&packed));
    let json = serde_json::to_value(&default).unwrap();
    assert!(json["data"].get("packing").is_none());
    assert_eq!(serde_json::from_value::<crate::train::recipe::TrainRecipe>(json).unwrap(), default);
    assert_eq!(serde_json::to_value(&packed).unwrap()["data"]["packing"], "documents");
}

#[test]
fn a_teacher_trained_in_the_experiment_packs_as_its_student_does() {
    let (sample, _) = SAMPLE.split_once("[sweep]").unwrap();
    let experiment = swept(sample);
    assert_eq!(experiment.teachers.len(), 2);
    for student in &experiment.students {
        let teacher = &experiment.teachers[fidelity_teacher(&experiment, student).unwrap()];
        assert_eq!(teacher.recipe.data, student.recipe.data);
        assert!(student.trained_teacher().is_none_or(|index| experiment.teachers[index].run == teacher.run));
    }
    let runs = Path::new("runs");
    let folders: Vec<_> = experiment.students.iter().map(|student| data_folder(runs, &student.recipe.data)).collect();
    assert!(folders.iter().all(|folder| *folder == folders[0]), "tokenised data does not depend on packing");
    assert_eq!(baselines(&experiment).len(), 1);
}

#[test]
fn caches_of_checkpoints_and_recordings_do_not_depend_on_packing() {
    let runs = Path::new("runs");
    let data = format!("data = {{ train = {0}, valid = {0} }}", fixture("data/text.jsonl"));
    let base = BASE.replace("data = \"tiny\"", &data);
    let hf = format!("{{ hf = {} }}", fixture("checkpoints/llama"));
    let base = base.replace("\"small\"", &hf).replace("batch", "context = 32\nbatch");
    let arms = "[method.hard]\nobjective = \"hard-ce\"\n[method.soft]\nobjective = \"soft-ce\"\n";
    let experiment = swept(&format!("{base}[teacher.whole]\nhf = {}\n{arms}", fixture("checkpoints/llama")));
    let [teacher] = &experiment.teachers[..] else { panic!("all students share one teacher") };
    let Experiment { students, .. } = &experiment;
    assert!(
        students.iter().all(|student| fidelity_teacher(&experiment, student) == Some(0)),
        "fidelity to it is measured for all students"
    );
    assert!(students.iter().any(|student| student.recipe.data.packing == Packing::Documents));
    let alone = Bench::new().good(&format!("{base}[teacher.whole]\nhf = {}\n{arms}", fixture("checkpoints/llama")));
    assert_eq!(cache_place(runs, teacher), cache_place(runs, &alone.teachers[0]));

    let file = fixture("data/metaseq-training.jsonl");
    let data = format!("data = {{ train = {file}, valid = {file}, tokenizer = {} }}", fixture("data/tokenizer.json"));
    let base = BASE.replace("data = \"tiny\"", &data);
    let recorded = format!("{base}[teacher.them]\nrecorded = {file}\n{arms}");
    let experiment = swept(&recorded);
    let [recording] = &experiment.recordings[..] else { panic!("all students share one recording") };
    assert_eq!(recording_place(runs, recording), recording_place(runs, &Bench::new().good(&recorded).recordings[0]));
}
