//! Oracle: the same experiment on one rank. Every logged loss agrees to a relative 1e-4 in f32.

use super::lab::Lab;

fn agrees_with_one_rank(arguments: &[&str]) {
    let lab = Lab::trained();
    let sharded = [&["run", "lab.toml", "--runs", "many", "--results", "many-results"], arguments].concat();
    lab.ok(&sharded);
    let (one, many) = (lab.numbers("runs"), lab.numbers("many"));
    assert_eq!(one.len(), many.len());
    for ((run, step, what, a), (other, _, _, b)) in one.iter().zip(&many) {
        assert_eq!(run, other, "identity does not depend on parallelism");
        assert!((a - b).abs() <= 1e-4 * a.abs(), "{run} step {step}: {what} {a} on one rank, {b} on {arguments:?}");
    }
}

#[test]
fn two_tensor_parallel_ranks_agree_with_one() {
    agrees_with_one_rank(&["--tp", "2"]);
}

#[test]
fn two_sequence_parallel_ranks_agree_with_one() {
    agrees_with_one_rank(&["--tp", "2", "--sequence-parallel"]);
}

#[test]
fn two_data_parallel_ranks_agree_with_one() {
    agrees_with_one_rank(&["--dp", "2"]);
}
