//! How many cores this process may use.

use std::thread::available_parallelism;

/// The cores that this process may run on, or fewer where `OMP_NUM_THREADS` asks for fewer threads, as libtorch itself reads it.
pub fn cores() -> usize {
    let all = available_parallelism().map_or(1, |n| n.get());
    std::env::var("OMP_NUM_THREADS").ok().and_then(|value| limit(&value)).map_or(all, |most| all.min(most))
}

/// The threads of the outermost level: OpenMP allows a list, one number a level.
fn limit(value: &str) -> Option<usize> {
    value.split(',').next()?.trim().parse().ok().filter(|&threads| threads > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_level_of_omp_num_threads_counts_and_invalid_values_set_no_limit() {
        assert_eq!(["1", " 4 ", "3,2"].map(limit), [Some(1), Some(4), Some(3)]);
        assert_eq!(["", "0", "-1", "many"].map(limit), [None; 4]);
    }
}
