//! The random numbers for sampled teacher targets.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// `count` numbers, uniform over all u64, for each of `targets` targets of the sequence `key`. They are a function of teacher,
/// sequence, position and index alone, so draws depend neither on order, batch and parallelism nor on how many are made.
pub fn numbers(teacher: &str, key: &[u8; 16], targets: usize, count: usize) -> Vec<u64> {
    let mut rng = ChaCha8Rng::from_seed(Sha256::new().chain_update(teacher).chain_update(key).finalize().into());
    let mut all = Vec::with_capacity(targets * count);
    for position in 0..targets {
        rng.set_stream(position as u64);
        rng.set_word_pos(0);
        all.extend((0..count).map(|_| rng.next_u64()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_draws_or_targets_start_with_the_same_numbers() {
        let few = numbers("teacher", &[7; 16], 2, 3);
        let many = numbers("teacher", &[7; 16], 5, 40);
        for position in 0..2 {
            assert_eq!(few[position * 3..position * 3 + 3], many[position * 40..position * 40 + 3]);
        }
        assert_ne!(few, numbers("another", &[7; 16], 2, 3));
        assert_ne!(few, numbers("teacher", &[8; 16], 2, 3));
        let mut distinct = many.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), many.len());
    }
}
