//! The random numbers of a sample.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// The random numbers of sample `sample` of a prompt, one for each of its tokens.
pub struct Numbers(ChaCha8Rng);

impl Numbers {
    pub fn new(seed: u64, prompt: &[u32], sample: usize) -> Self {
        let mut key = Sha256::new();
        key.update(b"generate");
        key.update(seed.to_le_bytes());
        key.update((sample as u64).to_le_bytes());
        prompt.iter().for_each(|id| key.update(id.to_le_bytes()));
        Self(ChaCha8Rng::from_seed(key.finalize().into()))
    }

    /// The number for token `step`, uniform over all u64.
    pub fn at(&mut self, step: usize) -> u64 {
        self.0.set_word_pos(2 * step as u128);
        self.0.next_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_depends_on_seed_prompt_sample_and_step_alone() {
        let at = |seed, prompt: &[u32], sample, step| Numbers::new(seed, prompt, sample).at(step);
        let mut numbers = Numbers::new(1, &[5, 6], 0);
        let (later, first) = (numbers.at(3), numbers.at(0));
        assert_eq!((first, later), (at(1, &[5, 6], 0, 0), at(1, &[5, 6], 0, 3)));
        for other in [at(2, &[5, 6], 0, 0), at(1, &[5], 0, 0), at(1, &[5, 6], 1, 0), later] {
            assert_ne!(first, other);
        }
    }
}
