mod claims;
mod formats;
mod metrics;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use hydrometer_record::frames::{CurveRow, DocumentRow, EvalRow, RunRow, runs_frame};
use hydrometer_record::metric::{Metric, Scores};
use hydrometer_record::provenance::MethodNote;
use tempfile::tempdir;

use super::*;

#[derive(Default)]
struct Made {
    runs: Vec<RunRow>,
    top_k: Vec<Option<String>>,
    curves: Vec<CurveRow>,
    evals: Vec<EvalRow>,
}

impl Made {
    /// A run of 40 steps that ends at `perplexity`; `top_k` is its value of the swept axis.
    fn run(&mut self, role: &str, method: &str, seed: i64, top_k: Option<&str>, perplexity: f64, status: &str) -> &mut Self {
        let run = format!("{method}-{}-{seed}", top_k.unwrap_or("x"));
        let tokens = if status == "ok" { 400_000 } else { 120_000 };
        self.top_k.push(top_k.map(String::from));
        self.runs.push(RunRow {
            run: run.clone(),
            experiment: "made".into(),
            role: role.into(),
            method: method.into(),
            seed,
            status: status.into(),
            planned: true,
            params: Some(500_000),
            tokens,
            updates: 200,
            wall_s: Some(75.0 + seed as f64),
            tokens_per_s: Some(5321.0),
            train_flops: 1.2e12,
            teacher_flops: if method == "finetune" { 0.0 } else { 2e13 },
            precision: "f32".into(),
            tp: Some(1),
            dp: Some(1),
            threads: Some(2),
            pass_tokens: Some(8192),
            device: Some("cpu".into()),
            gradient_check: Some(1.0),
            last_gradient_check: None,
            error: (status == "failed").then(|| "out of <memory> & | time".into()),
        });
        let floor = perplexity.ln();
        for step in (1..=200).filter(|step| role != "baseline" && step * 2000 <= tokens) {
            let decay = floor + (7.6 - floor) * (-(step as f64) / 30.0).exp();
            let loss = decay + 0.05 * ((step * 7 + seed * 13) as f64).sin();
            let soft = method != "finetune";
            self.curves.push(CurveRow {
                run: run.clone(),
                step,
                tokens: step * 2000,
                loss: if status == "diverged" { f64::NAN } else { loss * if soft { 0.5 } else { 1.0 } },
                hard_loss: if status == "diverged" && step > 30 { f64::NAN } else { loss },
                lr: 1e-3,
                grad_norm: 0.7,
                tokens_per_s: 5000.0,
                retained_mass: soft.then_some(0.9),
                teacher_entropy: soft.then_some(2.1),
                mean_lse: 9.5,
            });
        }
        for at in (0..=4).filter(|at| at * 100_000 <= tokens) {
            let value = if role == "baseline" || at == 4 { perplexity } else { perplexity * (1.0 + 3.0 * (-(at as f64)).exp()) };
            self.evals.push(EvalRow {
                run: run.clone(),
                step: at * 50,
                tokens: at * 100_000,
                split: "valid".into(),
                scores: Scores::of([
                    (Metric::Nll, value.ln()),
                    (Metric::Perplexity, value),
                    (Metric::BitsPerByte, 2.0),
                    (Metric::TokenAccuracy, 0.3),
                ]),
            });
        }
        self
    }

    fn frames(&self) -> Frames {
        Frames {
            runs: runs_frame(&self.runs, &[("top_k".into(), self.top_k.clone())]).unwrap(),
            curves: CurveRow::frame(&self.curves).unwrap(),
            evals: EvalRow::frame(&self.evals).unwrap(),
            documents: DocumentRow::frame(&[]).unwrap(),
            imports: None,
            generations: None,
            scores: None,
        }
    }
}

/// Three arms on three seeds, one of them at two values of `top_k`, a teacher and the unigram baseline.
fn made() -> Made {
    let mut made = Made::default();
    for (seed, shift) in [(1, 0.0), (2, 1.0), (3, -1.0)] {
        made.run("student", "finetune", seed, None, 88.0 + shift, "ok");
        made.run("student", "soft-ce", seed, Some("100"), 84.0 + 1.1 * shift, "ok");
        made.run("student", "soft-ce", seed, Some("20"), 85.0 + 0.9 * shift, "ok");
        made.run("student", "logit-mse", seed, None, 88.5 - shift, "ok");
    }
    made.run("teacher", "big", 1, None, 61.0, "ok").run("baseline", "unigram", 1, None, 640.0, "ok");
    made
}

fn provenance() -> Provenance {
    let methods = ["finetune", "soft-ce", "logit-mse"];
    Provenance {
        experiment: "made".into(),
        question: "Does a <teacher> help & \"why\"?".into(),
        hypothesis: "It does.".into(),
        reference: "finetune".into(),
        split: "valid".into(),
        methods: methods.map(|name| MethodNote { name: name.into(), objective: format!("{name} on labels") }).to_vec(),
        cpu: "a processor".into(),
        experiment_toml: "# </pre><script>alert(1)</script>\n".into(),
        finished_at: 1_764_000_000,
        ..Provenance::default()
    }
}

fn written(mut frames: Frames, provenance: &Provenance, folder: &Path) -> Vec<PathBuf> {
    frames.write(folder).unwrap();
    std::fs::write(folder.join("provenance.json"), serde_json::to_vec(provenance).unwrap()).unwrap();
    write(folder, &[]).unwrap()
}

#[test]
fn the_same_frames_give_the_same_bytes() {
    let folders = [tempdir().unwrap(), tempdir().unwrap()];
    let [first, second] = folders.each_ref().map(|folder| written(made().frames(), &provenance(), folder.path()));
    let names = |paths: &[PathBuf]| paths.iter().map(|p| p.file_name().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&first), names(&second));
    assert_eq!(first.len(), 12);
    for (a, b) in first.iter().zip(&second) {
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap(), "{}", a.display());
    }
}

/// Oracle: by hand. soft-ce at top_k 20 differs from finetune by −3, −3.1, −2.9: mean −3, s = 0.1, t = 4.30265.
#[test]
fn a_comparison_agrees_with_a_hand_computation() {
    let found = comparison(&made().frames(), &provenance()).unwrap();
    let labels: Vec<&str> = found.cells.iter().map(|cell| cell.label.as_str()).collect();
    assert_eq!(labels, ["finetune", "soft-ce top_k=20", "soft-ce top_k=100", "logit-mse"]);
    let cell = &found.cells[1];
    let own = cell.perplexity.unwrap();
    assert!((own.mean - 85.0).abs() < 1e-9 && own.n == 3 && cell.ok == 3);
    let difference = cell.difference.as_ref().unwrap();
    assert_eq!(difference.to, "finetune");
    assert!((difference.perplexity.mean + 3.0).abs() < 1e-9);
    let half = 4.302_652_73 * 0.1 / 3f64.sqrt();
    assert!((difference.perplexity.high.unwrap() + 3.0 - half).abs() < 1e-6);
    assert!((difference.percent.mean + 300.0 / 88.0).abs() < 1e-9);
    assert!(found.cells[0].difference.is_none());
    let names: Vec<&str> = found.references.iter().map(|reference| reference.name.as_str()).collect();
    assert_eq!(names, ["big", "unigram"]);
    assert_eq!(
        verdict::sentences(&found)[0],
        "soft-ce top_k=20 reaches 3.4% lower perplexity than finetune, 85.00 against 88.00, in 3 of 3 seeds (paired difference \
         −3.00, 95% CI −3.25 to −2.75, 3 seeds)."
    );
    assert!(
        verdict::sentences(&found)[2]
            .starts_with("logit-mse and finetune do not differ clearly in perplexity: 88.50 against 88.00 (")
    );
}

/// Oracle: by hand. ln 85/88 = −0.0347 nats; the documents agree with the perplexities.
#[test]
fn with_documents_nats_over_seeds_and_documents_decide() {
    let found = comparison(&documented(&made()), &provenance()).unwrap();
    let nll = found.cells[1].difference.as_ref().unwrap().nll.unwrap();
    assert!((nll.mean - (85f64 / 88.0).ln()).abs() < 1e-4 && nll.high < 0.0, "{nll:?}");
    let sentences = verdict::sentences(&found);
    let start = "soft-ce top_k=20 reaches 3.4% lower perplexity than finetune, 85.00 against 88.00, in 3 of 3 seeds (−0.035 nats per token, 95% CI −0.0";
    assert!(sentences[0].starts_with(start) && sentences[0].ends_with("over 3 seeds and 30 documents)."), "{}", sentences[0]);
    let start = "logit-mse and finetune do not differ clearly in perplexity: 88.50 against 88.00 (+0.00";
    assert!(sentences[2].starts_with(start), "{}", sentences[2]);
}

#[test]
fn outside_text_is_escaped() {
    let folder = tempdir().unwrap();
    let mut made = made();
    made.run("student", "<b>|`x`", 1, Some("\"><script>"), 90.0, "failed");
    written(made.frames(), &provenance(), folder.path());
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert_eq!(page.matches("<script").count(), 1, "the one that sorts");
    assert!(
        !page.contains("<script>alert") && !page.contains("<b>") && !page.contains("<memory>") && !page.contains("<teacher>")
    );
    assert!(page.contains("Does a &lt;teacher&gt; help &amp; &quot;why&quot;?"));
    let text = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(!text.contains("<memory>") && text.contains("&lt;b&gt;\\|\\`x\\`"));
}

#[test]
fn unfinished_runs_are_counted_and_left_out_of_means() {
    let mut made = made();
    made.run("student", "finetune", 4, None, 1.0, "failed").run("student", "finetune", 5, None, 1.0, "diverged");
    made.run("student", "finetune", 6, None, 1.0, "new");
    let found = comparison(&made.frames(), &provenance()).unwrap();
    let cell = &found.cells[0];
    assert_eq!((cell.ok, cell.failed, cell.diverged, cell.unfinished), (3, 1, 1, 1));
    assert!((cell.perplexity.unwrap().mean - 88.0).abs() < 1e-9);
    let folder = tempdir().unwrap();
    written(made.frames(), &provenance(), folder.path());
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(page.contains("3 of 17 runs did not finish"));
}

#[test]
fn each_value_of_a_swept_budget_makes_its_own_cells() {
    let (mut made, mut budgets) = (Made::default(), Vec::new());
    for seed in 1..=2 {
        for (budget, perplexity) in [(1.0, 90.0), (2.0, 80.0)] {
            for method in ["finetune", "soft-ce"] {
                made.run("student", method, seed, None, perplexity, "ok");
                let row = made.runs.last_mut().unwrap();
                row.run = format!("{}-{budget}", row.run);
                (row.tokens, row.train_flops) = ((budget * 1e6) as i64, budget * 1e12);
                budgets.push(Some(format!("{budget}M")));
                let run = row.run.clone();
                made.evals.iter_mut().rev().take(5).for_each(|eval| eval.run = run.clone());
            }
        }
    }
    let last = made.runs.last_mut().unwrap();
    (last.status, last.tokens) = ("failed".into(), 7);
    let frames = Frames { runs: runs_frame(&made.runs, &[("tokens".into(), budgets)]).unwrap(), ..made.frames() };
    let found = comparison(&frames, &provenance()).unwrap();
    let labels: Vec<&str> = found.cells.iter().map(|cell| cell.label.as_str()).collect();
    assert_eq!(labels, ["finetune tokens=1M", "finetune tokens=2M", "soft-ce tokens=1M", "soft-ce tokens=2M"]);
    assert_eq!((found.cells[3].ok, found.cells[3].failed), (1, 1));
    assert_eq!(found.cells[3].difference.as_ref().unwrap().to, "finetune tokens=2M");
    // Cells with the same budget are side by side.
    let facets: Vec<(String, Vec<&str>)> =
        found.facets().into_iter().map(|(name, cells)| (name, cells.iter().map(|cell| cell.arm.as_str()).collect())).collect();
    let arms = vec!["finetune", "soft-ce"];
    assert_eq!(facets, [("tokens=1M".to_string(), arms.clone()), ("tokens=2M".to_string(), arms)]);
}

/// Thirteen arms at two budgets, one of them far off.
fn crowd() -> Frames {
    let (mut made, mut budgets) = (Made::default(), Vec::new());
    for seed in 1..=3 {
        for budget in [1, 2] {
            for arm in 0..13 {
                let method = if arm == 0 { "finetune".to_string() } else { format!("arm-{arm}") };
                let perplexity = 150.0 / f64::from(budget) + f64::from(arm) + 0.4 * f64::from(seed * arm % 3);
                let far = if arm == 12 { 3.0 } else { 1.0 };
                made.run("student", &method, i64::from(seed), None, far * perplexity, "ok");
                let run = format!("{method}-{budget}-{seed}");
                let old = std::mem::replace(&mut made.runs.last_mut().unwrap().run, run.clone());
                made.curves.iter_mut().filter(|row| row.run == old).for_each(|row| row.run = run.clone());
                made.evals.iter_mut().filter(|row| row.run == old).for_each(|row| row.run = run.clone());
                made.runs.last_mut().unwrap().tokens = i64::from(budget) * 200_000;
                budgets.push(Some(format!("{budget}M")));
            }
        }
    }
    let runs = runs_frame(&made.runs, &[("tokens".into(), budgets)]).unwrap();
    Frames { runs, ..documented(&made) }
}

#[test]
fn a_dozen_arms_at_two_budgets_keep_their_names_and_styles_in_every_plot() {
    let folder = tempdir().unwrap();
    let paths = written(crowd(), &provenance(), folder.path());
    let svgs: Vec<&PathBuf> = paths.iter().filter(|path| path.extension().is_some_and(|e| e == "svg")).collect();
    let names: Vec<&str> = svgs.iter().map(|path| path.file_stem().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["difference", "comparison", "perplexity", "data", "flops", "loss", "objective"]);
    let mut styles: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in svgs {
        let svg = std::fs::read_to_string(path).unwrap();
        for arm in 1..13 {
            assert!(svg.contains(&format!("\narm-{arm}\n")), "arm-{arm} in {}", path.display());
        }
        // In a legend an arm's stroke comes before its name.
        let legend = !["difference", "comparison"].contains(&path.file_stem().unwrap().to_str().unwrap());
        let lines: Vec<&str> = svg.lines().filter(|_| legend).collect();
        for pair in lines.windows(3).filter(|pair| pair[0].starts_with("<polyline") && pair[2].starts_with("arm-")) {
            let colour = pair[0].split("stroke=\"").nth(1).unwrap().split('"').next().unwrap().to_string();
            styles.entry(pair[2].to_string()).or_default().insert(colour);
        }
    }
    assert!(styles.len() == 12 && styles.values().all(|colours| colours.len() == 1), "one colour an arm: {styles:?}");
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert_eq!(page.matches("<tr class=\"facet\">").count(), 4, "two budgets in two tables");
    let text = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
    let summary = text.lines().find(|line| line.starts_with("- At tokens=1M, ")).unwrap();
    assert!(summary.contains("Still different with all 24 comparisons counted (Holm): "), "{summary}");
    assert!(summary.contains("arm-12 (+2"), "{summary}");
}

/// Oracle: Holm by hand: with k comparisons the smallest p is multiplied by k.
#[test]
fn p_values_are_corrected_over_all_comparisons() {
    let found = comparison(&documented(&made()), &provenance()).unwrap();
    let p: Vec<(f64, f64)> =
        found.cells.iter().filter_map(|cell| cell.difference.as_ref()?.nll).map(|nll| (nll.p, nll.p_holm)).collect();
    let smallest = p.iter().copied().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    assert!(p.len() == 3 && (smallest.1 - (3.0 * smallest.0).min(1.0)).abs() < 1e-12, "{p:?}");
    assert!(p.iter().all(|(p, holm)| holm >= p));
}

#[test]
fn runs_that_are_no_longer_planned_are_in_no_table_but_are_mentioned() {
    let mut made = made();
    made.run("student", "finetune", 9, None, 1.0, "ok");
    made.runs.last_mut().unwrap().planned = false;
    let found = comparison(&made.frames(), &provenance()).unwrap();
    assert_eq!(found.cells[0].ok, 3);
    let folder = tempdir().unwrap();
    written(made.frames(), &provenance(), folder.path());
    let text = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(text.contains("The frames also hold 1 runs that the experiment file planned once"), "{text}");
}

/// An experiment of finetune and soft-ce with these perplexities, one pair per seed. A run's hash contains `of` and the seed.
fn experiment(name: &str, pairs: &[(i64, &str, f64, f64)]) -> Comparison {
    let mut made = Made::default();
    for (seed, of, finetune, soft) in pairs {
        for (method, perplexity) in [("finetune", *finetune), ("soft-ce", *soft)] {
            made.run("student", method, *seed, None, perplexity, "ok");
            let run = format!("{method}-s{seed}-{method}{of}{seed}");
            let old = std::mem::replace(&mut made.runs.last_mut().unwrap().run, run.clone());
            made.evals.iter_mut().filter(|row| row.run == old).for_each(|row| row.run = run.clone());
        }
    }
    let provenance = Provenance { experiment: name.into(), ..provenance() };
    comparison(&made.frames(), &provenance).unwrap()
}

/// Oracle: by hand. Copies of a set add nothing, and runs that two sets share count once.
#[test]
fn experiments_that_share_runs_are_one_set_and_contradictions_are_refused() {
    let plays = experiment("plays", &[(1, "p", 90.0, 87.0), (2, "p", 90.0, 80.0)]);
    let letters = experiment("letters", &[(1, "l", 300.0, 270.0), (2, "l", 300.0, 250.0)]);
    let once = pooled::over_experiments(&[plays.clone(), letters.clone()]).unwrap();
    let ln = |a: f64, b: f64| (a / b).ln();
    let wanted = (ln(87.0, 90.0) + ln(80.0, 90.0) + ln(270.0, 300.0) + ln(250.0, 300.0)) / 4.0;
    assert!(once.len() == 1 && (once[0].nll.mean - wanted).abs() < 1e-12, "{once:?}");
    let copy = Comparison { experiment: "copy".into(), ..plays.clone() };
    let again = pooled::over_experiments(&[plays.clone(), copy.clone(), letters.clone()]).unwrap();
    assert_eq!((again[0].nll, again[0].sets.clone()), (once[0].nll, vec!["plays".to_string(), "letters".into()]));
    assert!(pooled::over_experiments(&[plays.clone(), copy]).unwrap().is_empty(), "one set is no pool");
    // A subset of a set adds nothing to it.
    let part = experiment("part", &[(1, "p", 90.0, 87.0)]);
    let both = pooled::over_experiments(&[part, plays.clone(), letters]).unwrap();
    assert_eq!((both[0].nll.n, both[0].nll.mean), (2, once[0].nll.mean));
    let other = experiment("other", &[(1, "p", 90.0, 60.0)]);
    let error = pooled::over_experiments(&[plays, other]).unwrap_err();
    assert!(error.is::<hydrometer_base::UserError>() && format!("{error}").contains("soft-ce-s1-soft-cep1"), "{error}");
}

/// Oracle: by hand. soft-ce ends 3 below finetune's 90 on one text, and 30 below its 300 on the other.
#[test]
fn data_sets_are_pooled_into_one_number() {
    let (mut made, mut sets) = (Made::default(), Vec::new());
    for seed in 1..=2 {
        for (set, finetune, soft) in [("plays", 90.0, 87.0), ("letters", 300.0, 270.0)] {
            for (method, perplexity) in [("finetune", finetune), ("soft-ce", soft)] {
                made.run("student", method, seed, None, perplexity, "ok");
                let run = format!("{method}-{set}-{seed}");
                let old = std::mem::replace(&mut made.runs.last_mut().unwrap().run, run.clone());
                made.evals.iter_mut().filter(|row| row.run == old).for_each(|row| row.run = run.clone());
                sets.push(Some(set.to_string()));
            }
        }
    }
    let frames = Frames { runs: runs_frame(&made.runs, &[("data".into(), sets)]).unwrap(), ..made.frames() };
    let found = pooled::over_data(&comparison(&frames, &provenance()).unwrap());
    let wanted = ((87f64 / 90.0).ln() + (270f64 / 300.0).ln()) / 2.0;
    assert!(found.len() == 1 && found[0].arm == "soft-ce" && found[0].sets == ["plays", "letters"], "{found:?}");
    assert!((found[0].nll.mean - wanted).abs() < 1e-12 && found[0].nll.n == 2, "{found:?}");
}

#[test]
fn thin_frames_do_not_panic() {
    let empty = Made::default();
    let mut one = Made::default();
    one.run("student", "finetune", 1, None, 88.0, "ok");
    one.evals.truncate(1);
    one.curves.truncate(1);
    let mut bad = Made::default();
    bad.run("student", "finetune", 1, None, f64::NAN, "ok").run("student", "soft-ce", 1, None, f64::INFINITY, "ok");
    bad.run("teacher", "big", 1, None, f64::NAN, "failed");
    let mut none_finished = Made::default();
    none_finished.run("student", "finetune", 1, None, 88.0, "diverged");
    for made in [empty, one, bad, none_finished] {
        let folder = tempdir().unwrap();
        let names = written(made.frames(), &provenance(), folder.path());
        assert!(names.len() >= 10, "{names:?}");
        written(made.frames(), &Provenance::default(), folder.path());
        let found = comparison(&made.frames(), &provenance()).unwrap();
        table::terminal(&found);
        assert!(!serde_json::to_string(&found).unwrap().contains("NaN"));
    }
}

/// Frames of [`made`] with 30 documents per run that agree with its perplexity.
fn documented(made: &Made) -> Frames {
    let mut documents = Vec::new();
    for run in made.runs.iter().filter(|run| run.status == "ok") {
        let nll = made.evals.iter().rev().find(|eval| eval.run == run.run).unwrap().nll();
        documents.extend((0..30).map(|n| {
            let (tokens, wave) = (100 + 10 * (n % 7), 0.02 * f64::from((n as i32 * 5 + 3 * run.seed as i32) % 11 - 5));
            let (run, split, document) = (run.run.clone(), "valid".to_string(), format!("{n}"));
            DocumentRow { run, split, document, nll_sum: tokens as f64 * (nll + wave), tokens }
        }));
    }
    Frames { documents: DocumentRow::frame(&documents).unwrap(), ..made.frames() }
}
