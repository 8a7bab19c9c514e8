//! docs/objectives.md matches the code. Oracles: the names in the code, and `objective::reference` for the worked example.

use hydrometer::objective::reference::{Token, loss_and_gradient};
use hydrometer::objective::{Loss, MIN_TAIL_MASS, Objective, Tail};

const PAGE: &str = include_str!("../../docs/objectives.md");

/// The headings of `level` that are a name in backticks.
fn headings(level: &str) -> Vec<&str> {
    PAGE.lines().filter_map(|line| line.strip_prefix(level)?.strip_prefix(" `")?.strip_suffix('`')).collect()
}

/// The cells of all table rows with `columns` cells, the first of which is `name`.
fn rows<'a>(name: &str, columns: usize) -> Vec<Vec<&'a str>> {
    let cells = |line: &'a str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    PAGE.lines().map(cells).filter(|row| row.len() == columns && row[0] == name).collect()
}

#[test]
fn every_objective_and_tail_has_a_section_and_every_section_exists_in_code() {
    assert_eq!(headings("###"), Objective::NAMES);
    assert_eq!(headings("####"), Tail::ALL.map(Tail::name));
    for tail in Tail::ALL {
        assert_eq!(rows(&format!("`soft-ce`, `{}`", tail.name()), 4).len(), 1, "{tail:?} in the overview");
    }
    for name in Objective::NAMES.into_iter().filter(|name| *name != "soft-ce") {
        assert_eq!(rows(&format!("`{name}`"), 4).len(), 1, "{name} in the overview");
    }
    // `bucket` is the default of kl-reverse, and its row has no tail.
    for tail in Tail::ALL.into_iter().filter(|tail| *tail != Tail::Bucket) {
        let defined = Objective::KlReverse { tail, temperature: 1.0, skew: 0.0 }.undefined().is_none();
        assert_eq!(rows(&format!("`kl-reverse`, `{}`", tail.name()), 4).len(), usize::from(defined), "{tail:?} in the overview");
    }
    assert_eq!(MIN_TAIL_MASS, 1e-6);
    assert!(PAGE.contains("`MIN_TAIL_MASS` = 10⁻⁶"));
}

/// At the distribution that the page gives for each tail, the gradient is the same for every id (so only the logits' common offset can
/// drift), and value and KL are those of the page.
#[test]
fn the_worked_example_has_converged() {
    let q: [f64; 8] = [0.5, 0.2, 0.1, 0.08, 0.06, 0.03, 0.02, 0.01];
    let logprobs = [q[0], q[1], q[2]].map(f64::ln);
    let token = Token { label: 0, ids: &[0, 1, 2], logprobs: &logprobs, logits: &[] };
    // Draws leave no mass outside the list, so the example, whose list has mass 0.8, does not apply to them.
    for tail in Tail::ALL.into_iter().filter(|tail| *tail != Tail::Sampled) {
        let all = rows(&format!("`{}`", tail.name()), 7);
        let [row] = &all[..] else { panic!("{} rows of {tail:?}", all.len()) };
        let number = |cell: &str| if cell == "∞" { f64::INFINITY } else { cell.parse::<f64>().unwrap() };
        let numbers: Vec<f64> = row[1..].iter().copied().map(number).collect();
        let p: Vec<f64> = (0..8).map(|i| numbers[i.min(3)]).collect();
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 5e-4, "{tail:?}: {p:?}");
        let z: Vec<f64> = p.iter().map(|p| p.ln()).collect();
        let loss = Loss::from(Objective::SoftCe { tail, temperature: 1.0 });
        let (value, gradient) = loss_and_gradient(&loss, &z, &token);
        let drift = if tail == Tail::Metaseq { 0.2 / 8.0 } else { 0.0 };
        assert!(gradient.iter().all(|g| (g - drift).abs() < 5e-4), "{tail:?}: {gradient:?}");
        assert!((value - numbers[4]).abs() < 5e-4, "{tail:?}: {value}, not {}", numbers[4]);
        let kl: f64 = q.iter().zip(&p).map(|(q, p)| q * (q / p).ln()).sum();
        assert!(kl == numbers[5] || (kl - numbers[5]).abs() < 5e-4, "{tail:?}: KL {kl}, not {}", numbers[5]);
    }
}
