//! Oracle: Pearson's χ² against the softmax in f64. Logits are sums of a few powers of two, so they are exact in any order of summation.

use hydrometer::objective::head::Head;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::fixtures::on_ranks;

const VOCAB: i64 = 37;
const ROWS: i64 = 8;

/// Hidden states and weight, all small multiples of 1/8, so that a shard's products equal those of the whole bit for bit.
fn states() -> (Tensor, Tensor) {
    let eighths = |rows: i64, columns: i64, step: i64| {
        let counted = Tensor::arange(rows * columns, (Kind::Int64, Device::Cpu)).view([rows, columns]);
        (counted * step).remainder(23).to_kind(Kind::Float) / 8.0 - 1.25
    };
    (eighths(ROWS, 6, 7), eighths(VOCAB, 6, 5))
}

fn draw(tp: usize, temperature: f64, at: &[u64], k: usize) -> Vec<Tensor> {
    on_ranks(tp, |mesh| {
        let (hidden_nd, weight_vd) = states();
        let (share, more) = (VOCAB / tp as i64, VOCAB % tp as i64);
        let rank = mesh.tp.rank as i64;
        let vocab_start = rank * share + rank.min(more);
        let mine = weight_vd.narrow(0, vocab_start, share + i64::from(rank < more)).contiguous();
        let head = Head { weight_vd: &mine, vocab_start, vocab_size: VOCAB, tp: &mesh.tp };
        head.draw(&hidden_nd, temperature, at, k).unwrap()
    })
}

fn random(count: usize) -> Vec<u64> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    (0..count).map(|_| rng.next_u64()).collect()
}

/// With 36 degrees of freedom, χ² exceeds 76 in less than one of ten thousand rows.
#[test]
fn many_draws_follow_the_teachers_distribution() {
    let k = 200_000;
    for temperature in [1.0, 2.0] {
        let ids = draw(1, temperature, &random(ROWS as usize * k), k).remove(0);
        let (hidden_nd, weight_vd) = states();
        let p = (hidden_nd.to_kind(Kind::Double).matmul(&weight_vd.to_kind(Kind::Double).tr()) / temperature)
            .softmax(-1, Kind::Double);
        for row in 0..ROWS {
            let expected = p.get(row) * k as f64;
            let found = ids.get(row).bincount(None::<Tensor>, VOCAB).to_kind(Kind::Double);
            let expected_vec = Vec::<f64>::try_from(&expected).unwrap();
            let found_vec = Vec::<f64>::try_from(&found).unwrap();
            // Outcomes expected fewer than 5 times are pooled.
            let (mut square, mut few) = (0.0, (0.0, 0.0));
            for (expected, found) in expected_vec.into_iter().zip(found_vec) {
                if expected < 5.0 {
                    few = (few.0 + expected, few.1 + found);
                } else {
                    square += (found - expected).powi(2) / expected;
                }
            }
            square += if few.0 > 0.0 { (few.1 - few.0).powi(2) / few.0 } else { 0.0 };
            assert!(square < 76.0, "temperature {temperature}, row {row}: χ² {square}");
        }
    }
}

#[test]
fn any_number_of_shards_draws_the_same_ids() {
    let k = 20_000;
    let at = random(ROWS as usize * k);
    let whole = draw(1, 1.0, &at, k).remove(0);
    assert!(whole.max().int64_value(&[]) > VOCAB / 2 && whole.min().int64_value(&[]) < VOCAB / 4);
    for tp in [2, 4] {
        for shard in draw(tp, 1.0, &at, k) {
            assert!(shard == whole, "tp {tp}");
        }
    }
}

/// 0 draws the first id and `u64::MAX` the last id.
#[test]
fn the_smallest_and_largest_random_numbers_draw_valid_ids() {
    let at: Vec<u64> = (0..ROWS as usize).flat_map(|_| [0, u64::MAX]).collect();
    for tp in [1, 2, 4] {
        let ids = draw(tp, 1.0, &at, 2).remove(0);
        assert!(ids == Tensor::from_slice(&[0i64, VOCAB - 1]).expand([ROWS, 2], false), "tp {tp}: {ids:?}");
    }
}
