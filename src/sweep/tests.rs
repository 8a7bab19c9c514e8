//! Promises of the key `packing`: who follows it, and what it does not touch.

use std::path::Path;

use hydrometer_base::identity::identity;
use hydrometer_data::recipe::Packing;

use super::job::{baselines, cache_place, data_folder, fidelity_teacher, recording_place};
use crate::experiment::Experiment;
use crate::experiment::tests::{BASE, Bench, SAMPLE};

fn fixture(name: &str) -> String {
    format!("{:?}", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name))
}

/// `toml` at either packing, students of the first before those of the second.
fn swept(toml: &str) -> Experiment {
    Bench::new().good(&format!("{toml}[sweep]\ngrid = {{ packing = [\"none\", \"documents\"] }}\n"))
}

#[test]
fn a_sequence_a_row_is_the_default_and_is_in_no_recipe() {
    let bench = Bench::new();
    let arm = "[method.a]\nobjective = \"hard-ce\"\n";
    let recipe = |setting: &str| bench.good(&format!("{BASE}{setting}{arm}")).students[0].recipe.clone();
    let (unsaid, said, packed) = (recipe(""), recipe("packing = \"none\"\n"), recipe("packing = \"documents\"\n"));
    assert_eq!(identity(&unsaid), identity(&said));
    assert_ne!(identity(&unsaid), identity(&packed));
    let json = serde_json::to_value(&unsaid).unwrap();
    assert!(json["data"].get("packing").is_none());
    assert_eq!(serde_json::from_value::<crate::train::recipe::TrainRecipe>(json).unwrap(), unsaid);
    assert_eq!(serde_json::to_value(&packed).unwrap()["data"]["packing"], "documents");
}

#[test]
fn a_teacher_that_is_trained_here_packs_as_its_student() {
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
    assert!(folders.iter().all(|folder| *folder == folders[0]), "the tokens are the same");
    assert_eq!(baselines(&experiment).len(), 1);
}

#[test]
fn answers_of_a_checkpoint_and_of_a_recording_are_to_sequences_however_they_lie() {
    let runs = Path::new("runs");
    let data = format!("data = {{ train = {0}, valid = {0} }}", fixture("data/text.jsonl"));
    let base = BASE.replace("data = \"tiny\"", &data);
    let hf = format!("{{ hf = {} }}", fixture("checkpoints/llama"));
    let base = base.replace("\"small\"", &hf).replace("batch", "context = 32\nbatch");
    let arms = "[method.hard]\nobjective = \"hard-ce\"\n[method.soft]\nobjective = \"soft-ce\"\n";
    let experiment = swept(&format!("{base}[teacher.whole]\nhf = {}\n{arms}", fixture("checkpoints/llama")));
    let [teacher] = &experiment.teachers[..] else { panic!("one answers all") };
    let Experiment { students, .. } = &experiment;
    assert!(students.iter().all(|student| fidelity_teacher(&experiment, student) == Some(0)), "and judges all");
    assert!(students.iter().any(|student| student.recipe.data.packing == Packing::Documents));
    let alone = Bench::new().good(&format!("{base}[teacher.whole]\nhf = {}\n{arms}", fixture("checkpoints/llama")));
    assert_eq!(cache_place(runs, teacher), cache_place(runs, &alone.teachers[0]));

    let file = fixture("data/metaseq-training.jsonl");
    let data = format!("data = {{ train = {file}, valid = {file}, tokenizer = {} }}", fixture("data/tokenizer.json"));
    let base = BASE.replace("data = \"tiny\"", &data);
    let recorded = format!("{base}[teacher.them]\nrecorded = {file}\n{arms}");
    let experiment = swept(&recorded);
    let [recording] = &experiment.recordings[..] else { panic!("one answers all") };
    assert_eq!(recording_place(runs, recording), recording_place(runs, &Bench::new().good(&recorded).recordings[0]));
}
