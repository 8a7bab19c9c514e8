//! `hydrometer loss` on a file, as a user of another framework would call it. Oracle: `objective::reference`.

use std::process::Output;

use hydrometer::objective::reference::{Token, log_sum_exp, loss_and_gradient};
use hydrometer::objective::{Estimator, Loss, Objective, Tail};
use tch::{Kind, Tensor};

use super::lab::Lab;

const Z: [[f32; 6]; 3] = [[0.3, -1.2, 2.0, 0.7, -0.4, 1.1], [4.0, 0.0, -2.0, 1.0, 0.5, 0.1], [-1.0, 0.2, 0.3, 0.1, 3.0, -0.5]];
const IDS: [[i64; 2]; 3] = [[2, 5], [0, 3], [4, 1]];
const LABELS: [i64; 3] = [1, 3, 4];
const MASK: [u8; 3] = [1, 0, 1];

fn logprobs() -> Vec<f32> {
    vec![-0.5, -1.5, -0.2, -2.5, -0.9, -1.0]
}

fn case(lab: &Lab, change: impl Fn(&mut Vec<(&str, Tensor)>)) {
    let mut tensors = vec![
        ("logits", Tensor::from_slice(&Z.concat()).view([3, 6])),
        ("target_ids", Tensor::from_slice(&IDS.concat()).view([3, 2])),
        ("target_logprobs", Tensor::from_slice(&logprobs()).view([3, 2])),
        ("labels", Tensor::from_slice(&LABELS)),
        ("mask", Tensor::from_slice(&MASK)),
    ];
    change(&mut tensors);
    Tensor::write_safetensors(&tensors, lab.path().join("in.safetensors")).unwrap();
}

fn loss(lab: &Lab, arguments: &str) -> Output {
    let mut all = vec!["--output", "json", "loss", "--case", "in.safetensors", "--out", "out.safetensors"];
    all.extend(arguments.split_whitespace());
    lab.run(&all)
}

fn written(lab: &Lab, name: &str) -> Vec<f64> {
    let tensors = Tensor::read_safetensors(lab.path().join("out.safetensors")).unwrap();
    let tensor = &tensors.iter().find(|(found, _)| found == name).unwrap_or_else(|| panic!("no {name}")).1;
    Vec::<f64>::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

#[test]
fn value_mask_and_gradient_agree_at_any_tp() {
    let lab = Lab::new();
    case(&lab, |_| {});
    let bucket = Objective::SoftCe { tail: Tail::Bucket, temperature: 2.0 };
    let wanted = Loss { objective: bucket, lambda: 0.25, temperature_squared: true };
    for tp in [1, 2, 4] {
        let said = loss(
            &lab,
            &format!("--objective soft-ce --tail bucket --temperature 2 --temperature-squared --lambda 0.25 --tp {tp}"),
        );
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let (values, gradient) = (written(&lab, "loss"), written(&lab, "grad_logits"));
        let mut total = 0.0;
        for row in 0..3 {
            let z = Z[row].map(f64::from);
            let ids = IDS[row].map(|id| id as usize);
            let logprobs: Vec<f64> = logprobs()[2 * row..2 * row + 2].iter().map(|&x| f64::from(x)).collect();
            let token = Token { label: LABELS[row] as usize, ids: &ids, logprobs: &logprobs, logits: &[] };
            let (value, expected) = loss_and_gradient(&wanted, &z, &token);
            let counts = f64::from(MASK[row]);
            total += value * counts / 2.0;
            assert!((values[row] - value * counts).abs() < 1e-6, "row {row}: {} and {value}", values[row]);
            for (found, expected) in gradient[6 * row..6 * row + 6].iter().zip(&expected) {
                assert!((found - expected * counts / 2.0).abs() < 1e-6, "row {row}: {found} and {expected}");
            }
        }
        assert!((written(&lab, "total")[0] - total).abs() < 1e-6);
    }
}

#[test]
fn padding_ids_get_no_probability() {
    let lab = Lab::new();
    case(&lab, |_| {});
    assert!(loss(&lab, "--objective hard-ce --vocab-size 5").status.success());
    let z = Z[0].map(f64::from);
    assert!((written(&lab, "loss")[0] - (log_sum_exp(&z[..5]) - z[1])).abs() < 1e-6);
    assert_eq!(written(&lab, "grad_logits")[5], 0.0);
}

#[test]
fn inapplicable_flags_and_nan_losses_are_refused() {
    let lab = Lab::new();
    case(&lab, |_| {});
    let cases = [
        ("--objective hard-ce --tail raw", "--tail does not apply to hard-ce"),
        ("--objective hard-ce --lambda 0.5", "--lambda does not apply to hard-ce"),
        ("--objective logit-mse --beta 0.5", "--beta does not apply to logit-mse"),
        ("--objective logit-mse --temperature 2", "--temperature does not apply to logit-mse"),
        ("--objective soft-ce --centered", "--centered does not apply to soft-ce"),
        ("--objective jsd --mse-mean", "--mse-mean does not apply to jsd"),
        ("--objective hard-ce --temperature-squared", "--temperature-squared does not apply to hard-ce"),
        ("--objective soft-ce --label-smoothing 0.1", "--label-smoothing does not apply to soft-ce"),
        ("--objective hard-ce --label-smoothing 1", "--label-smoothing must be a number from 0 to below 1, not 1"),
        ("--objective jsd --skew 0.1", "--skew does not apply to jsd"),
        ("--objective kl-reverse --skew -0.1", "--skew must be a number from 0 to below 1, not -0.1"),
        ("--objective kl-reverse --tail renormalize", "--tail renormalize gives unlisted ids no mass"),
        ("--objective kl-reverse --tail sampled", "--tail sampled gives draws of the teacher"),
        ("--objective kl-forward --tail sampled --skew 0.1", "--tail sampled gives draws, whose weights"),
        ("--objective kl-reverse --tail metaseq --skew 0.1", "--tail metaseq is metaseq's soft-ce"),
        ("--objective kl-reverse --estimator k3", "--estimator k3, differentiated as a loss, descends KL(teacher"),
        ("--objective kl-reverse --estimator k1 --tail bucket", "--tail does not apply to estimator k1"),
        ("--objective kl-reverse --estimator k2 --skew 0.1", "--skew does not apply to estimator k2"),
        ("--objective kl-reverse --estimator k1", "estimator k1 needs target_ids [N, 1], the ids that the student drew"),
        ("--objective jsd --estimator k1", "--estimator does not apply to jsd"),
        ("--objective kl-reverse --temperature 1e-40", "--temperature must be a number from 1e-6 to 1e6, not 1e-40"),
        ("--objective soft-ce --temperature 1e300", "--temperature must be a number from 1e-6 to 1e6, not 1e300"),
        ("--objective soft-ce --temperature 0", "--temperature must be a number from 1e-6 to 1e6, not 0"),
        ("--objective soft-ce --temperature -1", "--temperature must be a number from 1e-6 to 1e6, not -1"),
        ("--objective soft-ce --temperature nan", "--temperature must be a number from 1e-6 to 1e6, not NaN"),
    ];
    for (arguments, message) in cases {
        let said = loss(&lab, arguments);
        let stderr = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.code() == Some(2) && stderr.contains(message), "{arguments}: {stderr}\nexpected {message}");
    }
    assert!(loss(&lab, "--objective hard-ce --temperature 1 --lambda 0").status.success());
    let huge = Tensor::from_slice(&[3e38f32; 6]).view([3, 2]);
    let products =
        [("hidden", huge), ("weight", Tensor::from_slice(&[3e38f32; 12]).view([6, 2])), ("labels", Tensor::from_slice(&LABELS))];
    Tensor::write_safetensors(&products, lab.path().join("in.safetensors")).unwrap();
    std::fs::remove_file(lab.path().join("out.safetensors")).unwrap();
    let said = loss(&lab, "--objective hard-ce");
    let stderr = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.code() == Some(2) && stderr.contains("in.safetensors: loss of row 0 would be NaN"), "{stderr}");
    assert!(!lab.path().join("out.safetensors").exists());
}

/// Oracle: the reference, on the labels and their log-probabilities under the file's dense teacher.
#[test]
fn estimates_are_of_the_labels() {
    let lab = Lab::new();
    let y = [[1.0f32, 0.2, -0.3, 0.8, 0.1, -1.0], [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], [2.0, 1.0, 0.0, -1.0, -2.0, -3.0]];
    case(&lab, |tensors| {
        tensors.retain(|(name, _)| !name.starts_with("target"));
        tensors.push(("teacher_logits", Tensor::from_slice(&y.concat()).view([3, 6])));
    });
    for (estimator, of_the_loss) in [(Estimator::K1, false), (Estimator::K2, true), (Estimator::K3AsLoss, true)] {
        let said = loss(&lab, &format!("--objective kl-reverse --estimator {} --tp 2", estimator.name()));
        let told = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(told.contains(&format!("\"gradient_is_of_the_loss\": {of_the_loss}")), "{told}");
        let values = written(&lab, "loss");
        for row in [0, 2] {
            let (teacher, label) = (y[row].map(f64::from), LABELS[row] as usize);
            let token = Token { label, ids: &[label], logprobs: &[teacher[label] - log_sum_exp(&teacher)], logits: &[] };
            let wanted = Objective::SampledKl { estimator, temperature: 1.0 }.into();
            let (value, _) = loss_and_gradient(&wanted, &Z[row].map(f64::from), &token);
            assert!((values[row] - value).abs() < 1e-6, "{estimator:?}: {} and {value}", values[row]);
        }
    }
}

#[test]
fn tail_metaseq_is_reported_as_metaseqs() {
    let lab = Lab::new();
    case(&lab, |_| {});
    let said = loss(&lab, "--objective soft-ce --tail metaseq");
    assert!(String::from_utf8_lossy(&said.stdout).contains("\"gradient_is_of_the_loss\": false"));
    assert!(String::from_utf8_lossy(&said.stderr).contains("as metaseq computes it"));
}

#[test]
fn bad_tensors_are_refused_by_name() {
    let replace = |tensors: &mut Vec<(&str, Tensor)>, name: &str, with: Tensor| {
        tensors.iter_mut().find(|(found, _)| *found == name).unwrap().1 = with;
    };
    let nan = Tensor::from_slice(&Z.concat()).view([3, 6]);
    let _ = nan.get(2).get(4).fill_(f64::NAN);
    let wide = Tensor::from_slice(&[0i64, 1, 2, 3, 9, 4]).view([3, 2]);
    let heavy = Tensor::from_slice(&[-0.1f32; 6]).view([3, 2]);
    let mistakes: [(&str, Option<Tensor>, &str, &str); 8] = [
        ("logits", Some(nan), "soft-ce", "logits[2, 4] is NaN, not a finite number"),
        ("target_ids", Some(wide), "soft-ce", "target_ids[2, 0] is 9, outside the vocabulary of 6"),
        (
            "target_ids",
            Some(Tensor::zeros([3, 0], (Kind::Int64, tch::Device::Cpu))),
            "soft-ce",
            "target_ids lists no ids (k = 0)",
        ),
        (
            "target_ids",
            Some(Tensor::zeros([2, 2], (Kind::Int64, tch::Device::Cpu))),
            "soft-ce",
            "target_ids is [2, 2], but [3, any] is wanted",
        ),
        ("target_logprobs", Some(heavy), "soft-ce", "the mass of target_logprobs[0] is 1.80"),
        ("mask", Some(Tensor::zeros([3], (Kind::Uint8, tch::Device::Cpu))), "soft-ce", "mask is 0 for every token"),
        ("labels", None, "hard-ce", "labels [N] are missing"),
        ("target_logprobs", None, "logit-mse", "logit-mse needs target_logits [N, k]"),
    ];
    for (name, with, objective, message) in mistakes {
        let lab = Lab::new();
        case(&lab, |tensors| match &with {
            Some(tensor) => replace(tensors, name, tensor.shallow_clone()),
            None => tensors.retain(|(found, _)| *found != name),
        });
        let said = loss(&lab, &format!("--objective {objective}"));
        let stderr = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(message) && stderr.contains("in.safetensors"), "said: {stderr}\nexpected: {message}");
        assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
    }
    let lab = Lab::new();
    case(&lab, |_| {});
    let path = lab.path().join("in.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    let said = loss(&lab, "--objective soft-ce");
    assert_eq!(said.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&said.stderr).contains("cut short"), "{}", String::from_utf8_lossy(&said.stderr));
}
