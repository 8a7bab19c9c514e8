//! Oracle: the same sequences, each in its own row. Hidden states and every parameter's gradient agree to a relative 1e-5 in f32; in whole
//! experiments, every logged loss agrees to 1e-4.

use std::collections::BTreeSet;
use std::process::Command;

use hydrometer::data::batch::Row;
use hydrometer::data::encode::Encoded;
use hydrometer::data::sequences::sequences;
use hydrometer::data::tokens::TokenizedSplit;
use hydrometer::model::batch::Batch;
use hydrometer::model::{Decoder, ForwardPass, Tokens, hf};
use tch::{Kind, Tensor};

use super::fixtures::{CHECKPOINTS, folder, on_ranks_of};
use super::lab::{EXPERIMENT, Lab, until};

/// A split with documents of these numbers of inputs.
pub fn split(lengths: &[usize]) -> TokenizedSplit {
    let mut split = TokenizedSplit::empty(None);
    for (document, &length) in lengths.iter().enumerate() {
        let ids = (0..=length).map(|at| ((at * 31 + document * 17 + at * at) % 97) as u32).collect();
        split.push(&document.to_string(), &Encoded { ids, ..Encoded::default() });
    }
    split
}

/// The settings of a pass.
#[derive(Clone, Copy, Debug)]
struct Way {
    tp: usize,
    sequence_parallel: bool,
    kind: Kind,
    recompute: bool,
}

const PLAIN: Way = Way { tp: 1, sequence_parallel: false, kind: Kind::Float, recompute: false };

/// On each rank: the hidden states at the targets, `[N, d]`, and the full gradient of `Σ hidden · upstream` per parameter.
fn learned(checkpoint: &str, lengths: &[usize], context: usize, packed: bool, way: Way) -> Vec<(Tensor, Vec<(String, Tensor)>)> {
    let Way { tp, sequence_parallel, kind, recompute } = way;
    on_ranks_of(tp, sequence_parallel, |mesh| {
        let checkpoint = hf::open(&folder(checkpoint)).unwrap();
        let weights = checkpoint.weights(kind, mesh).unwrap();
        let decoder = Decoder::new(&checkpoint.config, context, &weights.leaves, mesh);
        let split = split(lengths);
        let mut rows: Vec<Row> = sequences(&split, context).into_iter().map(Row::whole).collect();
        // Like a batch that begins and ends within sequences.
        rows[0].from = 2;
        rows[1].to -= 1;
        let batch = match packed {
            false => Batch::new(&rows, &split, mesh.device),
            true => Batch::packed(&rows, &split, context, mesh.device),
        };
        let (height, width) = batch.inputs_bt.size2().unwrap();
        let (sequences, inputs) = (rows.len() as i64, rows.iter().map(Row::inputs).sum::<usize>() as i64);
        assert!(if packed { height < sequences && inputs < height * width } else { height == sequences });
        let tokens = Tokens { ids_bt: &batch.inputs_bt, starts_bt: batch.starts_bt.as_ref() };
        let pass = ForwardPass::forward(&decoder, tokens, &mesh.tp, recompute).unwrap();
        let read_nd = pass.hidden.flatten(0, 1).index_select(0, &batch.positions_n);
        let upstream = (Tensor::arange(read_nd.numel() as i64, (Kind::Float, mesh.device)) * 0.7).sin().view_as(&read_nd);
        let found = read_nd.detach().copy();
        pass.backward(&read_nd, &upstream.to_kind(kind)).unwrap();
        weights.collect_gradients();
        weights.reduce_gradients(mesh).unwrap();
        let full = |index: usize| weights.full(&weights.gradient, index, mesh).unwrap().copy();
        (found, weights.parameters.iter().enumerate().map(|(index, p)| (p.name.clone(), full(index))).collect())
    })
}

fn norm(x: &Tensor) -> f64 {
    x.norm().double_value(&[])
}

fn agree(checkpoint: &str, lengths: &[usize], context: usize, ways: &[Way]) {
    let (expected, gradients) = learned(checkpoint, lengths, context, false, PLAIN).remove(0);
    let whole = gradients.iter().map(|(_, gradient)| norm(gradient).powi(2)).sum::<f64>().sqrt();
    assert!(norm(&expected) > 0.0 && whole > 0.0);
    let packed = |&way: &Way| learned(checkpoint, lengths, context, true, way).into_iter().map(move |found| (way, found));
    for (way, (found, found_gradients)) in ways.iter().flat_map(packed) {
        let off = norm(&(&found - &expected));
        assert!(off <= 1e-5 * norm(&expected), "{checkpoint}, {way:?}: hidden states off by {off} of {}", norm(&expected));
        for ((name, a), (_, b)) in gradients.iter().zip(&found_gradients) {
            let (off, scale) = (norm(&(a - b)), norm(a));
            // A key's bias shifts all scores of a query equally, so its gradient is zero up to rounding.
            let nothing = if name.ends_with("k_proj.bias") { 1e-5 * whole } else { 0.0 };
            assert!(off <= 1e-5 * scale + nothing, "{checkpoint}, {way:?}: {name} off by {off} of {scale}");
        }
    }
}

/// Nine sequences in rows of at most 16 inputs, some of them not full.
const LENGTHS: [usize; 9] = [9, 4, 16, 3, 8, 5, 12, 6, 2];

#[test]
fn gradients_agree_in_every_family_on_one_and_two_ranks() {
    for checkpoint in CHECKPOINTS {
        agree(checkpoint, &LENGTHS, 16, &[PLAIN, Way { tp: 2, ..PLAIN }, Way { tp: 2, sequence_parallel: true, ..PLAIN }]);
    }
}

#[test]
fn recomputing_activations_changes_no_bit_of_packed_rows() {
    for checkpoint in CHECKPOINTS {
        for (tp, sequence_parallel, kind) in
            [(1, false, Kind::Float), (2, false, Kind::Float), (2, true, Kind::Float), (1, false, Kind::BFloat16)]
        {
            let way = Way { tp, sequence_parallel, kind, recompute: false };
            let kept = learned(checkpoint, &LENGTHS, 16, true, way);
            assert!(kept.iter().all(|(found, _)| found.isfinite().all().int64_value(&[]) == 1), "{checkpoint}, {way:?}");
            let again = learned(checkpoint, &LENGTHS, 16, true, Way { recompute: true, ..way });
            assert!(kept == again, "{checkpoint}, {way:?}");
        }
    }
}

/// A fused kernel processes keys in blocks, and a token attends to no key of some of them.
#[test]
fn rows_longer_than_a_kernels_block_agree() {
    for checkpoint in ["llama", "smollm2"] {
        agree(checkpoint, &[700, 40, 520, 3, 1100, 90], 1300, &[PLAIN]);
    }
}

/// Three arms on short documents of different lengths; `padded.toml` has one sequence per row.
fn lab(lab: Lab) -> Lab {
    for name in ["train", "valid"] {
        let text = std::fs::read_to_string(lab.path().join(format!("{name}.txt"))).unwrap();
        let mut words = text.split_whitespace();
        let mut lines = String::new();
        for document in 0.. {
            let some: Vec<&str> = words.by_ref().take(3 + document * document % 23).collect();
            if some.is_empty() {
                break;
            }
            lines += &format!("{{\"text\": \"{}\"}}\n", some.join(" "));
        }
        lab.write(&format!("{name}.jsonl"), &lines);
    }
    let padded = EXPERIMENT.replace(".txt", ".jsonl").replace("\"text\"", "\"jsonl\"").replace("context = 32", "context = 48");
    let padded = padded.replace("12.8k", "6.4k").replace("10k", "6k");
    lab.write("padded.toml", &padded);
    lab.write("packed.toml", &padded.replace("[teacher", "packing = \"documents\"\n\n[teacher"));
    lab
}

#[test]
fn experiments_agree_on_one_and_two_data_parallel_ranks() {
    let lab = lab(Lab::new());
    lab.ok(&["run", "padded.toml", "--runs", "padded", "--results", "padded-results"]);
    lab.ok(&["run", "packed.toml", "--runs", "packed", "--results", "packed-results"]);
    lab.ok(&["run", "packed.toml", "--runs", "shared", "--results", "shared-results", "--dp", "2", "--only", "soft-ce"]);
    let arm = |run: &str| run.rsplit_once('-').unwrap().0.to_string();
    for (runs, arms) in [("packed", 5), ("shared", 2)] {
        let (mut padded, found) = (lab.numbers("padded"), lab.numbers(runs));
        let among: BTreeSet<String> = found.iter().map(|(run, ..)| arm(run)).collect();
        assert_eq!(among.len(), arms, "{among:?}");
        padded.retain(|(run, ..)| among.contains(&arm(run)));
        assert_eq!(padded.len(), found.len());
        let mut rounded = 0;
        for ((run, step, what, a), (other, _, _, b)) in padded.iter().zip(&found) {
            assert_eq!(arm(run), arm(other));
            assert_eq!(run == other, arm(run) == "unigram", "{run}: what is trained is another run");
            assert!((a - b).abs() <= 1e-4 * a.abs(), "{run} step {step}: {what} {a} padded, {b} {runs}");
            rounded += usize::from(a != b);
        }
        assert!(rounded > 0, "{runs}: something was packed");
    }
}

#[test]
fn packed_runs_resume_bit_for_bit() {
    let lab = lab(Lab::on_all_cores());
    lab.write("packed.toml", &std::fs::read_to_string(lab.path().join("packed.toml")).unwrap().replace("6.4k", "25.6k"));
    let run = |runs: &'static str| ["run", "packed.toml", "--only", "finetune", "--runs", runs, "--results", "results"];
    lab.ok(&run("calm"));
    let mut program = lab.start(&run("torn"));
    until(|| lab.path().join("torn").exists() && lab.numbers("torn").len() > 20);
    Command::new("kill").args(["-INT", &program.id().to_string()]).status().unwrap();
    assert_eq!(program.wait().unwrap().code(), Some(130), "{}", lab.said());
    assert!(lab.numbers("torn").len() < lab.numbers("calm").len());
    lab.ok(&run("torn"));
    assert_eq!(lab.numbers("torn"), lab.numbers("calm"));
}
