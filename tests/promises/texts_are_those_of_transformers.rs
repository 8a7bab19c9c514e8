//! Oracle: transformers in f32 on the same checkpoints, recorded by tests/fixtures/make_generations.py.

use std::path::Path;

use hydrometer::dist::Mesh;
use hydrometer::generate::{Beams, Generator, Sampling};
use hydrometer::model::hf;
use serde_json::Value;
use tch::{Device, Kind};

use super::fixtures::{CHECKPOINTS, folder, on_ranks};

struct Case {
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    beams: Vec<u32>,
}

fn cases(checkpoint: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/generations.json");
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let ids = |case: &Value, key: &str| serde_json::from_value(case[key].clone()).unwrap();
    let case = |case: &Value| Case { prompt: ids(case, "prompt"), greedy: ids(case, "greedy"), beams: ids(case, "beams") };
    all[checkpoint].as_array().unwrap().iter().map(case).collect()
}

/// The ids after each prompt, written 8 at a time.
fn written(checkpoint: &str, prompts: &[Vec<u32>], beams: Option<Beams>, mesh: &Mesh) -> Vec<Vec<u32>> {
    let opened = hf::open(&folder(checkpoint)).unwrap();
    let context = opened.longest_context();
    let decoder = opened.decoder(context, Kind::Float, mesh).unwrap();
    let generator = Generator {
        decoder: &decoder,
        tp: &mesh.tp,
        tokenizer: None,
        sampling: Sampling::GREEDY,
        beams,
        ends: if beams.is_some() { &[5, 9] } else { &[] },
        stops: &[],
        max_new_tokens: if beams.is_some() { 16 } else { 64 },
        context,
        seed: 0,
        batch: 8,
    };
    let mut all = vec![Vec::new(); prompts.len()];
    let todo = (0..prompts.len()).map(|prompt| (prompt, 0));
    let keep = |text: hydrometer::generate::Written| {
        all[text.prompt] = text.ids;
        Ok(())
    };
    generator.write(prompts, todo, keep).unwrap();
    all
}

#[test]
fn greedy_texts_of_a_ragged_batch_are_the_same_on_one_and_two_tensor_parallel_ranks() {
    for checkpoint in CHECKPOINTS {
        let cases = cases(checkpoint);
        let prompts: Vec<Vec<u32>> = cases.iter().map(|case| case.prompt.clone()).collect();
        let expected: Vec<Vec<u32>> = cases.iter().map(|case| case.greedy.clone()).collect();
        assert!(expected.iter().all(|ids| ids.len() >= 43), "{checkpoint}");
        assert_eq!(written(checkpoint, &prompts, None, &Mesh::single(Device::Cpu)), expected, "{checkpoint}");
        for rank in on_ranks(2, |mesh| written(checkpoint, &prompts, None, mesh)) {
            assert_eq!(rank, expected, "{checkpoint} on two ranks");
        }
    }
}

#[test]
fn beam_search_finds_the_same_texts() {
    for checkpoint in CHECKPOINTS {
        let cases = cases(checkpoint);
        let prompts: Vec<Vec<u32>> = cases.iter().map(|case| case.prompt.clone()).collect();
        let expected: Vec<Vec<u32>> = cases.iter().map(|case| case.beams.clone()).collect();
        let beams = Some(Beams { count: 4, length_penalty: 1.0 });
        assert_eq!(written(checkpoint, &prompts, beams, &Mesh::single(Device::Cpu)), expected, "{checkpoint}");
    }
}
