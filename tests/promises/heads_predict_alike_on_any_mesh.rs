//! Oracle: by hand in f64, of logits that are sums of a few powers of two, exact in any order, so that many of them are equal.

use hydrometer::dist::{Mesh, part};
use hydrometer::objective::head::Head;
use tch::{Device, Kind, Tensor};

use super::fixtures::on_ranks;

const VOCAB: i64 = 37;
const ROWS: i64 = 8;
const TEMPERATURES: [f64; 2] = [1.0, 2.0];

/// Small eighths.
fn states() -> (Tensor, Tensor) {
    let eighths = |rows: i64, columns: i64, step: i64| {
        let counted = Tensor::arange(rows * columns, (Kind::Int64, Device::Cpu)).view([rows, columns]);
        (counted * step).remainder(23).to_kind(Kind::Float) / 8.0 - 1.25
    };
    (eighths(ROWS, 6, 7), eighths(VOCAB, 6, 5))
}

fn logits() -> Vec<Vec<f64>> {
    let (hidden_nd, weight_vd) = states();
    Vec::try_from(hidden_nd.to_kind(Kind::Double).matmul(&weight_vd.to_kind(Kind::Double).tr())).unwrap()
}

fn on_shards<T: Send>(tp: usize, work: impl Fn(&Head, &Tensor) -> T + Sync) -> Vec<T> {
    on_ranks(tp, |mesh: &Mesh| {
        let (hidden_nd, weight_vd) = states();
        let (vocab_start, width) = part(VOCAB, mesh.tp.rank, mesh.tp.size);
        let weight_vd = weight_vd.narrow(0, vocab_start, width);
        work(&Head { weight_vd: &weight_vd, vocab_start, vocab_size: VOCAB, tp: &mesh.tp }, &hidden_nd)
    })
}

/// All ids, best first, and the lower first where logits are equal.
fn ranked(z: &[f64]) -> Vec<i64> {
    let mut ids: Vec<i64> = (0..VOCAB).collect();
    ids.sort_by(|&a, &b| z[b as usize].total_cmp(&z[a as usize]).then(a.cmp(&b)));
    ids
}

fn log_sum_exp(z: &[f64], temperature: f64) -> f64 {
    z.iter().map(|z| (z / temperature).exp()).sum::<f64>().ln()
}

fn labels() -> Vec<i64> {
    (0..ROWS).map(|row| (row * 11) % VOCAB).collect()
}

#[test]
fn evaluation_is_that_of_all_logits() {
    let rows = logits();
    for tp in [1, 2, 4] {
        for found in on_shards(tp, |head, hidden_nd| {
            let found = head.predict(hidden_nd, &Tensor::from_slice(&labels())).unwrap();
            let numbers = |t: &Tensor| Vec::<f64>::try_from(t).unwrap();
            (numbers(&found.nll_n), numbers(&found.confidence_n), Vec::<i64>::try_from(&found.top_n).unwrap())
        }) {
            let (nll, confidence, top) = found;
            for (row, z) in rows.iter().enumerate() {
                let (lse, best) = (log_sum_exp(z, 1.0), ranked(z)[0]);
                assert_eq!(top[row], best, "tp {tp}");
                assert!((nll[row] - (lse - z[labels()[row] as usize])).abs() < 2e-7 * lse.max(1.0), "tp {tp}");
                assert!((confidence[row] / (z[best as usize] - lse).exp() - 1.0).abs() < 1e-6, "tp {tp}");
            }
        }
    }
}

/// For k smaller and larger than a shard, and the whole vocabulary.
#[test]
fn teachers_list_the_best_of_all_shards() {
    let rows = logits();
    let ties =
        rows.iter().flat_map(|z| ranked(z).windows(2).map(|ids| z[ids[0] as usize] == z[ids[1] as usize]).collect::<Vec<_>>());
    assert!(ties.filter(|&tie| tie).count() > 20, "equal logits are what this test is about");
    for tp in [1, 2, 4] {
        for k in [1, 5, 12, 20, VOCAB] {
            for (ids, logits, lse) in on_shards(tp, |head, hidden_nd| head.top_k(hidden_nd, k, &TEMPERATURES).unwrap()) {
                let (ids, logits) = (Vec::<Vec<i64>>::try_from(ids).unwrap(), Vec::<Vec<f64>>::try_from(logits).unwrap());
                let lse = Vec::<Vec<f64>>::try_from(lse).unwrap();
                for (row, z) in rows.iter().enumerate() {
                    assert_eq!(ids[row], ranked(z)[..k as usize], "tp {tp}, k {k}");
                    assert!(ids[row].iter().zip(&logits[row]).all(|(&id, &logit)| z[id as usize] == logit), "tp {tp}, k {k}");
                    for (found, temperature) in lse[row].iter().zip(TEMPERATURES) {
                        let exact = log_sum_exp(z, temperature);
                        assert!((found - exact).abs() < 2e-7 * exact.max(1.0), "tp {tp}: {found} for {exact}");
                    }
                }
            }
        }
    }
}

/// A row whose logits overflow stays visible, and spoils no other.
#[test]
fn what_is_not_finite_is_not_hidden() {
    for tp in [1, 2] {
        for (nll, confidence, lse, refused) in on_shards(tp, |head, hidden_nd| {
            let _ = hidden_nd.get(3).fill_(f64::NAN);
            let found = head.predict(hidden_nd, &Tensor::from_slice(&labels())).unwrap();
            let (_, _, lse) = head.top_k(hidden_nd, 5, &TEMPERATURES).unwrap();
            let refused = head.draw(hidden_nd, 1.0, &[7; ROWS as usize], 1).is_err();
            let finite = |t: &Tensor| Vec::<bool>::try_from(t.isfinite()).unwrap();
            (finite(&found.nll_n), finite(&found.confidence_n), finite(&lse.select(1, 1)), refused)
        }) {
            let expected: Vec<bool> = (0..ROWS).map(|row| row != 3).collect();
            assert!([nll, confidence, lse].iter().all(|finite| *finite == expected), "tp {tp}");
            assert!(refused, "tp {tp}");
        }
    }
}
