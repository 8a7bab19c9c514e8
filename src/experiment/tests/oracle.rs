//! The expansion against its definition: all assignments of values to keys that the rules allow, in order.

use proptest::prelude::*;

use super::{BASE, Bench, OPTIONS};

/// Value number `index` of the swept `key`.
fn value(key: &str, index: usize) -> String {
    match key {
        "top_k" | "tokens" => format!("{}", 1000 / (index + 2)),
        _ => format!("0.{}", index + 1),
    }
}

/// A list of `n` values of `key`.
fn list(key: &str, n: usize) -> String {
    format!("{key} = [{}]", (0..n).map(|index| value(key, index)).collect::<Vec<_>>().join(", "))
}

/// The keys that a test sweeps, in the order of their axes: two of the grid, two of the zip, two of a `when`.
const KEYS: [&str; 6] = ["lr", "top_k", "warmup", "final_lr", "clip", "temperature"];
const ARMS: [&str; 3] = ["hard", "soft", "mse"];

#[derive(Clone, Debug)]
struct Case {
    /// Values of lr, top_k; of the zip; of clip and of temperature in the `when`. Zero leaves an axis out.
    sizes: [usize; 5],
    /// The arm and the value of lr that `when` selects by, if any.
    when: (Option<usize>, Option<usize>),
    /// The arm and the value of warmup that `skip` removes.
    skip: Option<(Option<usize>, Option<usize>)>,
}

impl Case {
    fn toml(&self) -> String {
        let [lr, top_k, zip, clip, temperature] = self.sizes;
        let some = |keys: &[(&str, usize)]| {
            keys.iter().filter(|(_, n)| *n > 0).map(|(key, n)| list(key, *n)).collect::<Vec<_>>().join(", ")
        };
        let select = |(arm, at): (Option<usize>, Option<usize>), key: &str| {
            let arm = arm.map_or(String::new(), |arm| format!("method = \"{}\"\n", ARMS[arm]));
            format!("{arm}{}", at.map_or(String::new(), |at| format!("{key} = {}\n", value(key, at))))
        };
        let mut text = format!("{BASE}seeds = 1\n[teacher.big]\nmodel = \"large\"\n");
        for (arm, objective) in ARMS.iter().zip(["hard-ce", "soft-ce", "logit-mse"]) {
            text += &format!("[method.{arm}]\nobjective = \"{objective}\"\n");
        }
        text += &format!("[sweep]\ngrid = {{ {} }}\n", some(&[("lr", lr), ("top_k", top_k)]));
        text += &format!("zip = {{ {} }}\n", some(&[("warmup", zip), ("final_lr", zip)]));
        if clip + temperature > 0 {
            let axes = some(&[("clip", clip), ("temperature", temperature)]);
            text += &format!("[[sweep.when]]\n{}grid = {{ {axes} }}\n", select(self.when, "lr"));
        }
        if let Some(skip) = self.skip {
            text += &format!("[[sweep.skip]]\n{}because = \"so\"\n", select(skip, "warmup"));
        }
        text
    }

    /// The names of the runs, without skipped ones; `None` if the file must be refused.
    fn expected(&self) -> Option<Vec<String>> {
        let [lr, top_k, zip, clip, temperature] = self.sizes;
        let counts = [lr, top_k, zip, zip, clip, temperature];
        let (mut runs, mut met_when, mut met_skip) = (Vec::new(), false, false);
        let mut used = [false; 6];
        for (arm, name) in ARMS.into_iter().enumerate() {
            let applies = |key: usize| match KEYS[key] {
                "top_k" => name != "hard",
                "temperature" => name == "soft",
                _ => true,
            };
            // Every assignment in lexicographic order; 0 means absent.
            let mut assignment = [0usize; 6];
            loop {
                let when = self.when.0.is_none_or(|only| only == arm) && self.when.1.is_none_or(|at| assignment[0] == at + 1);
                let wanted = |key: usize| counts[key] > 0 && applies(key) && (key < 4 || when);
                let allowed = (0..6).all(|key| (assignment[key] > 0) == wanted(key)) && assignment[2] == assignment[3];
                if allowed {
                    met_when |= when;
                    (0..6).for_each(|key| used[key] |= assignment[key] > 0);
                    let skip = self.skip.is_some_and(|(only, at)| {
                        only.is_none_or(|only| only == arm) && at.is_none_or(|at| assignment[2] == at + 1)
                    });
                    met_skip |= skip;
                    if !skip {
                        let axes = (0..6).filter(|&key| assignment[key] > 0);
                        let axes = axes.map(|key| format!("-{}{}", KEYS[key], value(KEYS[key], assignment[key] - 1)));
                        runs.push(format!("{name}{}-s0", axes.collect::<String>()));
                    }
                }
                let Some(key) = (0..6).rev().find(|&key| assignment[key] < counts[key]) else { break };
                assignment[key] += 1;
                assignment[key + 1..].fill(0);
            }
        }
        let unused = (0..6).any(|key| counts[key] > 0 && !used[key]);
        let refused = (clip + temperature > 0 && !met_when) || (self.skip.is_some() && !met_skip) || runs.is_empty() || unused;
        (!refused).then_some(runs)
    }
}

fn case() -> impl Strategy<Value = Case> {
    let pick = |n: usize| prop::option::of(0..n);
    let sizes = prop::array::uniform5(0usize..4);
    (sizes, pick(3), pick(3), prop::option::of((pick(3), pick(3)))).prop_map(|(sizes, arm, lr, skip)| {
        let lr = lr.filter(|_| sizes[0] > 0);
        let skip = skip.map(|(arm, warmup)| (arm, warmup.filter(|_| sizes[2] > 0)));
        Case { sizes, when: (arm, lr), skip }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_sweep_expands_to_its_definition(case in case()) {
        let bench = Bench::new();
        let toml = case.toml();
        let found = bench.load(&toml, &OPTIONS);
        match case.expected() {
            Some(runs) => {
                let experiment = found.unwrap_or_else(|error| panic!("{error}\n{toml}"));
                prop_assert_eq!(super::expansion::runs(&experiment), runs, "{}", toml);
            }
            None => prop_assert!(found.is_err(), "{}", toml),
        }
    }
}
