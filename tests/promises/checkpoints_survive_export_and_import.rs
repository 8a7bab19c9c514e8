//! Oracle: the folders that transformers wrote. Exports have the same names, shapes and bits, at any tensor parallelism.

use std::collections::BTreeMap;
use std::path::Path;

use hydrometer::dist::Mesh;
use hydrometer::model::{Weights, hf};
use hydrometer::train::checkpoint;
use hydrometer::train::optimizer::AdamW;
use tch::{Kind, Tensor};

use super::fixtures::{CHECKPOINTS, folder, on_ranks};

/// Every tensor in the safetensors files of a checkpoint, in f32.
fn tensors(folder: &Path) -> BTreeMap<String, Tensor> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let weights = files.filter(|file| {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("model") && name.ends_with(".safetensors")
    });
    let all = weights.flat_map(|file| Tensor::read_safetensors(file).unwrap());
    all.map(|(name, tensor)| (name, tensor.to_kind(Kind::Float))).collect()
}

fn export(from: &Path, to: &Path, tp: usize, file_bytes: u64) {
    on_ranks(tp, |mesh| {
        let checkpoint = hf::open(from).unwrap();
        let weights = checkpoint.weights(Kind::Float, mesh).unwrap();
        let tokenizer = checkpoint.tokenizer().unwrap();
        hf::export(to, &checkpoint.config, &weights, Some(&tokenizer), file_bytes, mesh).unwrap();
    });
}

#[test]
fn exported_tensors_keep_every_bit_on_one_two_and_four_ranks() {
    for checkpoint in CHECKPOINTS {
        let lab = tempfile::tempdir().unwrap();
        let original = folder(checkpoint);
        let expected = tensors(&original);
        let mut from = original.clone();
        for (tp, file_bytes) in [(4, u64::MAX), (2, 20_000), (1, u64::MAX)] {
            let to = lab.path().join(format!("tp{tp}"));
            export(&from, &to, tp, file_bytes);
            let found = tensors(&to);
            assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{checkpoint} at tp {tp}");
            for (name, tensor) in &expected {
                assert_eq!(found[name], *tensor, "{checkpoint} at tp {tp}: {name}");
            }
            assert_eq!(to.join("model.safetensors.index.json").exists(), file_bytes != u64::MAX);
            assert_eq!(hf::open(&to).unwrap().config, hf::open(&original).unwrap().config, "{checkpoint}");
            let tokenizer = |folder: &Path| std::fs::read(folder.join("tokenizer.json")).unwrap();
            assert_eq!(tokenizer(&to), tokenizer(&original));
            from = to;
        }
    }
}

/// A run's checkpoint, with weights and moments, written by four ranks and read by two and by one.
#[test]
fn a_runs_checkpoint_loads_bit_for_bit_on_another_number_of_ranks() {
    for name in CHECKPOINTS {
        let lab = tempfile::tempdir().unwrap();
        let path = lab.path().join("checkpoint.safetensors");
        let whole = |tp: usize, work: &(dyn Fn(&Weights, &mut AdamW, &Mesh) + Sync)| {
            let ranks = on_ranks(tp, |mesh| {
                let weights = hf::open(&folder(name)).unwrap().weights(Kind::Float, mesh).unwrap();
                let mut optimizer = AdamW::new(&weights);
                work(&weights, &mut optimizer, mesh);
                let flats = [&weights.master, &optimizer.exp_avg, &optimizer.exp_avg_sq];
                let indices = 0..weights.parameters.len();
                let full = |index: usize| flats.map(|flat| weights.full(flat, index, mesh).unwrap().copy());
                (indices.flat_map(full).collect::<Vec<Tensor>>(), optimizer.updates)
            });
            ranks.into_iter().next().unwrap()
        };
        let written = whole(4, &|weights, optimizer, mesh| {
            for (index, parameter) in weights.parameters.iter().enumerate() {
                let count: i64 = parameter.shape.iter().product();
                let values = Tensor::arange(count, (Kind::Float, mesh.device)).view_(&parameter.shape[..]);
                weights.load(&optimizer.exp_avg, index, &values.sin(), mesh);
                weights.load(&optimizer.exp_avg_sq, index, &values.cos(), mesh);
            }
            optimizer.updates = 7;
            checkpoint::save(&path, weights, Some(optimizer), mesh).unwrap();
        });
        for tp in [2, 1] {
            let read = whole(tp, &|weights, optimizer, mesh| {
                let _ = tch::no_grad(|| weights.master.shallow_clone().zero_());
                let bytes = checkpoint::verified(&path).unwrap();
                checkpoint::restore(&path, &bytes, weights, optimizer, mesh).unwrap();
            });
            assert!(read == written, "{name} from four ranks to {tp}");
        }
    }
}

#[test]
fn exporting_to_a_folder_that_is_not_empty_is_refused() {
    let lab = tempfile::tempdir().unwrap();
    std::fs::write(lab.path().join("notes.txt"), "mine").unwrap();
    let refused = on_ranks(1, |mesh| {
        let checkpoint = hf::open(&folder("llama")).unwrap();
        let weights = checkpoint.weights(Kind::Float, mesh).unwrap();
        hf::export(lab.path(), &checkpoint.config, &weights, None, u64::MAX, mesh).unwrap_err().to_string()
    });
    assert!(refused[0].ends_with("is not empty; export to a new folder"), "{refused:?}");
}
