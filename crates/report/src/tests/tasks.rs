use hydrometer_record::frames::{GenerationRow, ScoreRow};
use serde_json::Value;

use super::*;

/// The value of a score at prompt `prompt` for the run `run`, and for its seed.
type Valued<'a> = dyn Fn(&str, i64, usize) -> Option<f64> + 'a;

/// Rows of `score` of the task `sums` for the finished students and teachers of `made`, at `prompts` prompts.
pub fn scored(made: &Made, score: &str, prompts: usize, of: &Valued) -> Vec<ScoreRow> {
    let runs = made.runs.iter().filter(|run| run.status == "ok" && run.role != "baseline");
    let row = |(run, prompt): (&RunRow, usize)| {
        let (name, task, score) = (run.run.clone(), "sums".to_string(), score.to_string());
        of(&run.run, run.seed, prompt).map(|value| ScoreRow {
            run: name,
            step: 200,
            task,
            prompt: prompt.to_string(),
            score,
            value,
        })
    };
    runs.flat_map(|run| (0..prompts).map(move |prompt| (run, prompt))).filter_map(row).collect()
}

/// Frames of [`made`] with 30 documents and these scores.
pub fn with_scores(made: &Made, rows: &[ScoreRow]) -> Frames {
    Frames { scores: Some(ScoreRow::frame(rows).unwrap()), generations: Some(texts(made)), ..documented(made) }
}

/// Two texts for each of six prompts of every finished run.
fn texts(made: &Made) -> polars::prelude::DataFrame {
    let mut rows = Vec::new();
    for run in made.runs.iter().filter(|run| run.status == "ok" && run.role != "baseline") {
        for (prompt, sample) in (0..6).flat_map(|prompt| [(prompt, 0), (prompt, 1)]) {
            let (name, seed) = (&run.run, run.seed);
            rows.push(GenerationRow {
                run: name.clone(),
                step: 200,
                task: "sums".into(),
                prompt: format!("p{prompt}"),
                sample,
                input: format!("{}{prompt} + <i>1 =", "shots ".repeat(100)),
                text: format!("{name} writes sample {sample} of seed {seed} at {prompt}\n<b>|*x*\u{1b}[2J"),
                tokens: 9,
                finish: "end-token".into(),
            });
        }
    }
    GenerationRow::frame(&rows).unwrap()
}

/// Rises with the prompt; soft-ce at top_k 20 is 0.1, 0.11 and 0.09 above the others.
fn rouge(run: &str, seed: i64, prompt: usize) -> Option<f64> {
    let gain = if run.starts_with("soft-ce-20") { 0.1 + [0.0, 0.01, -0.01][seed as usize - 1] } else { 0.0 };
    Some(0.02 * prompt as f64 + gain)
}

/// Oracle: by hand. The gain is the same at every prompt, so its interval is Student's over 0.1, 0.11, 0.09: ± 4.30265 · 0.01/√3.
#[test]
fn scores_of_tasks_are_compared_with_the_reference_by_prompt_and_seed() {
    let made = made();
    let found = comparison(&with_scores(&made, &scored(&made, "rouge-l", 10, &rouge)), &provenance()).unwrap();
    let [one] = &found.tasks[..] else { panic!("{:?}", found.tasks) };
    assert_eq!((one.task.as_str(), one.score.name().as_str(), one.better, one.arms.len()), ("sums", "rouge-l", "higher", 4));
    let arm = one.arm("soft-ce top_k=20").unwrap();
    assert!((arm.value.mean - 0.19).abs() < 1e-12 && (arm.value.n, arm.prompts) == (3, 10), "{arm:?}");
    // Its own interval also covers the variation between prompts.
    assert!(arm.value.high.unwrap() - arm.value.mean > 0.03, "{arm:?}");
    let difference = arm.difference.as_ref().unwrap();
    let half = 4.302_652_73 * 0.01 / 3f64.sqrt();
    assert!((difference.mean - 0.1).abs() < 1e-12 && (difference.high.unwrap() - 0.1 - half).abs() < 1e-7, "{difference:?}");
    assert_eq!((difference.seeds, difference.prompts, difference.verdict, difference.to.as_str()), (3, 10, "higher", "finetune"));
    let same = one.arm("logit-mse").unwrap().difference.as_ref().unwrap();
    assert_eq!((same.mean, same.p, same.verdict), (0.0, Some(1.0), "undecided"));
    assert!(difference.p_holm.unwrap() > difference.p.unwrap(), "three comparisons are counted");
    let [teacher] = &one.references[..] else { panic!("{:?}", one.references) };
    assert!(teacher.name == "big" && (teacher.mean - 0.09).abs() < 1e-12);
    let text = table::terminal(&found);
    let row = "soft-ce top_k=20   0.190 ± 0.0";
    assert!(text.contains("\nTask sums: rouge-l\n") && text.contains(row), "{text}");
    assert!(text.contains("+0.100 [+0.075, +0.125]") && text.contains("big (teacher)"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
}

/// Oracle: the difference of nats per token on documents of one token each, with the same numbers.
#[test]
fn a_prompt_counts_as_a_document_of_one_token() {
    let made = made();
    let value = |run: &str, seed: i64, prompt: usize| {
        let gain = if run.starts_with("soft-ce-20") { 0.3 } else { 0.0 };
        Some(((prompt * 7 + seed as usize * 3) % 5) as f64 / 10.0 + gain * ((prompt * seed as usize) % 3) as f64)
    };
    let rows = scored(&made, "teacher-nll", 20, &value);
    let document = |row: &ScoreRow| {
        let (run, document, nll_sum) = (row.run.clone(), row.prompt.clone(), row.value);
        DocumentRow { run, split: "valid".into(), document, nll_sum, tokens: 1 }
    };
    // The order of the documents is that of the prompts' ids.
    let mut sorted = rows.clone();
    sorted.sort_by(|a, b| (&a.run, &a.prompt).cmp(&(&b.run, &b.prompt)));
    let documents = DocumentRow::frame(&sorted.iter().map(document).collect::<Vec<_>>()).unwrap();
    let found = comparison(&Frames { documents, ..with_scores(&made, &rows) }, &provenance()).unwrap();
    let nll = found.cells[1].difference.as_ref().unwrap().nll.unwrap();
    let score = found.tasks[0].arm("soft-ce top_k=20").unwrap().difference.as_ref().unwrap();
    assert_eq!((score.mean, score.low, score.high, score.p), (nll.mean, Some(nll.low), Some(nll.high), Some(nll.p)));
    assert_eq!((score.seeds, score.prompts, found.tasks[0].better), (nll.seeds, nll.documents, "lower"));
}

/// Oracle: by hand.
#[test]
fn prompts_and_seeds_without_a_partner_are_left_out_of_a_difference() {
    let made = made();
    // finetune has no value at prompt 0 in seed 1, and soft-ce none at all in seed 3.
    let value = |run: &str, seed: i64, prompt: usize| {
        let soft = run.starts_with("soft-ce-20");
        let there = if soft { seed != 3 } else { !(run == "finetune-x-1" && prompt == 0) };
        there.then_some(if soft { 1.0 } else { f64::from(u8::from(prompt == 0)) })
    };
    let found = comparison(&with_scores(&made, &scored(&made, "exact-match", 4, &value)), &provenance()).unwrap();
    let arm = found.tasks[0].arm("soft-ce top_k=20").unwrap();
    assert_eq!((arm.value.mean, arm.value.n, arm.prompts), (1.0, 2, 4));
    let difference = arm.difference.as_ref().unwrap();
    assert_eq!((difference.mean, difference.seeds, difference.prompts), (1.0, 2, 3));
    let tables = table::tasks(&found);
    let text = tables[0].1.markdown();
    assert!(text.contains("| soft-ce top\\_k=20 | 100.0 ± 0.0% | +100.0 \\[+100.0, +100.0\\] |"), "{text}");
    assert!(text.contains("3 to 4 prompts") && text.contains("Δ leaves these out."), "{text}");
    // One seed has a mean and a difference, but no interval and no verdict.
    let one = |run: &str, seed: i64, prompt: usize| (seed == 1).then(|| rouge(run, seed, prompt)).flatten();
    let found = comparison(&with_scores(&made, &scored(&made, "rouge-1", 4, &one)), &provenance()).unwrap();
    let arm = found.tasks[0].arm("soft-ce top_k=20").unwrap();
    assert_eq!((arm.value.low, arm.difference.as_ref().unwrap().verdict), (None, "unknown"));
    assert!(!serde_json::to_string(&found).unwrap().contains("NaN"));
}

#[test]
fn every_export_names_the_scores_of_tasks_and_none_does_without_tasks() {
    let made = made();
    let frames = with_scores(&made, &scored(&made, "exact-match", 8, &|run, seed, prompt| rouge(run, seed, prompt)));
    let found = [comparison(&frames, &provenance()).unwrap()];
    let json: Value = serde_json::to_value(&found[0]).unwrap();
    assert_eq!((&json["tasks"][0]["score"], &json["tasks"][0]["task"]), (&Value::from("exact-match"), &Value::from("sums")));
    use crate::table::document::{Language, document};
    for language in [Language::Markdown, Language::Latex, Language::Typst] {
        assert!(document(&found, &[], language).contains("made: Task sums: exact-match"));
    }
    let csv = table::csv::csv(&found, &[]);
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let at = lines[0].iter().position(|name| *name == "sums exact_match").unwrap();
    assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{csv}");
    let wanted = ["", "_low", "_high", "_prompts", "_difference", "_difference_low", "_difference_high", "_p", "_p_holm"];
    assert_eq!(lines[0][at..], wanted.map(|end| format!("sums exact_match{end}")));
    let soft = lines.iter().find(|line| line.contains(&"soft-ce top_k=20")).unwrap();
    assert!((soft[at].parse::<f64>().unwrap() - 0.17).abs() < 1e-12 && soft[at + 3] == "8", "{soft:?}");
    assert!((soft[at + 4].parse::<f64>().unwrap() - 0.1).abs() < 1e-12, "{soft:?}");
    let numbers = numbers::numbers(&frames, &provenance(), None).unwrap();
    let of = |name: &str| &numbers["cells"]["soft-ce top_k=20"]["numbers"][name];
    assert_eq!(of("sums exact_match")["mean"], "17.0%");
    assert_eq!(of("sums exact_match difference")["text"], "+10.0");
    assert_eq!(of("sums exact_match verdict")["text"], "higher");
    assert_eq!(numbers["references"]["big (teacher)"]["numbers"]["sums exact_match"]["text"], "7.0%");
    let without = comparison(&documented(&made), &provenance()).unwrap();
    assert!(serde_json::to_value(&without).unwrap().get("tasks").is_none());
    assert!(!table::csv::csv(&[without], &[]).contains("sums"));
}

#[test]
fn both_pages_show_what_each_arm_wrote_side_by_side_and_escaped() {
    let (made, folder) = (made(), tempdir().unwrap());
    let frames = with_scores(&made, &scored(&made, "exact-match", 6, &rouge));
    written(frames, &provenance(), folder.path());
    let [text, page] = ["report.md", "report.html"].map(|name| std::fs::read_to_string(folder.path().join(name)).unwrap());
    for page in [&text, &page] {
        assert!(page.contains("Task sums: exact-match") && page.contains("What the arms wrote"), "{page}");
        assert_eq!(page.matches("sums, prompt p").count(), 4, "the first four of six prompts");
        assert!(!page.contains("sample 1 of") && !page.contains("of seed 2") && page.contains("of seed 1"), "one text of an arm");
        assert!(!page.contains("<b>") && !page.contains("<i>") && !page.contains('\u{1b}'), "{page}");
        assert!(!page.contains(&"shots ".repeat(60)) && page.contains("…"), "the beginning of a long prompt is cut");
    }
    let side = "| *prompt* | …";
    let (_, from) = text.split_once("### sums, prompt p2\n\n| arm | text | ended by |\n|:--|:--|:--|\n").unwrap();
    assert!(from.starts_with(side) && from.lines().next().unwrap().ends_with("2 + &lt;i&gt;1 = |  |"), "{from}");
    let wanted =
        "| soft-ce top\\_k=20 | soft-ce-20-1 writes sample 0 of seed 1 at 2<br>&lt;b&gt;\\|\\*x\\*\\\\u{1b}\\[2J | end-token |";
    let rows: Vec<&str> = from.lines().skip(1).take(5).collect();
    assert!(rows[0].starts_with("| finetune ") && rows[4].starts_with("| big (teacher) "), "{rows:?}");
    assert_eq!(rows[1], wanted);
    assert!(page.contains("at 2<br>&lt;b&gt;|*x*\\u{1b}[2J</td><td>end-token</td>"), "{page}");
}

/// Oracle: the rows that are changed here.
#[test]
fn contradictions_in_what_was_written_and_in_its_scores_are_named() {
    use crate::verify::task_contradictions::task_contradictions;
    let made = made();
    let mut rows = scored(&made, "exact-match", 6, &|_, _, _| Some(0.25));
    rows.iter_mut().for_each(|row| row.prompt = format!("p{}", row.prompt));
    let truncated: Vec<ScoreRow> =
        rows.iter().map(|row| ScoreRow { score: "truncated".into(), value: 0.0, ..row.clone() }).collect();
    rows.extend(truncated);
    let frames = with_scores(&made, &rows);
    let told = |frames: &Frames| -> Vec<String> {
        task_contradictions(frames).unwrap().into_iter().map(|(frame, why)| format!("{frame}: {why}")).collect()
    };
    assert_eq!(told(&frames), Vec::<String>::new());
    assert_eq!(told(&made.frames()), Vec::<String>::new());
    let changed = |change: fn(&mut Vec<ScoreRow>)| {
        let mut rows = rows.clone();
        change(&mut rows);
        told(&Frames { scores: Some(ScoreRow::frame(&rows).unwrap()), ..frames.clone() })
    };
    let at = "finetune-x-1 at prompt p0 of task sums";
    assert_eq!(changed(|rows| rows[0].value = 1.5), [format!("scores: exact-match of {at} is 1.5, which is out of its range")]);
    assert_eq!(changed(|rows| rows.push(rows[0].clone())), [format!("scores: exact-match of {at} has several rows")]);
    assert_eq!(
        changed(|rows| rows.iter_mut().take(2).for_each(|row| row.score = "exact".into())),
        ["scores: \"exact\" is the name of no score, and 1 more rows are like it"]
    );
    assert_eq!(
        changed(|rows| rows[0].run = "gone".into()),
        [
            "scores: gone is not in the runs frame",
            "scores: exact-match of gone at prompt p0 of task sums has a value, but no text"
        ]
    );
    let last = |rows: &mut Vec<ScoreRow>| rows.iter_mut().rfind(|row| row.run == "finetune-x-1").unwrap().value = 0.5;
    let wanted = "scores: truncated of finetune-x-1 at prompt p5 of task sums is 0.5, but its texts give 0";
    assert_eq!(changed(last), [wanted]);
    let mut texts = GenerationRow::rows(frames.generations.as_ref().unwrap()).unwrap();
    (texts[0].finish, texts[1].sample, texts[2].run, texts[4].tokens) = ("bored".into(), 0, "gone".into(), -1);
    let found = told(&Frames { generations: Some(GenerationRow::frame(&texts).unwrap()), ..frames.clone() });
    let wanted = [
        "generations: a text of finetune-x-1 at prompt p0 of task sums ended by \"bored\", which is none of end-token, stop, length, context",
        "generations: gone is not in the runs frame",
        "generations: a text of finetune-x-1 at prompt p2 of task sums has sample 0 and -1 tokens",
        "generations: sample 0 of finetune-x-1 at prompt p0 of task sums has several rows",
    ];
    assert_eq!(found, wanted);
}

/// Oracle: by hand. The gain of soft-ce at top_k 20 is 0.1 ± 4.30265 · 0.01/√3 at every prompt; finetune's mean is 0.09.
#[test]
fn claims_about_scores_of_tasks_are_decided_by_prompt_and_seed() {
    use super::claims::{HARD, SOFT, claim};
    let mut made = made();
    made.run("student", "finetune", 4, None, 88.0, "ok");
    let mut rows = scored(&made, "exact-match", 10, &|run, seed, prompt| (seed < 4).then(|| rouge(run, seed, prompt)).flatten());
    rows.extend(scored(&made, "rouge-l", 10, &|run, _, prompt| run.starts_with("soft-ce-20").then_some(prompt as f64 / 10.0)));
    rows.extend(scored(&made, "rouge-1", 1, &|_, seed, _| Some(0.1 * seed as f64)));
    let claims = [
        claim("exact_match(a, \"sums\") > exact_match(b, \"sums\") + 0.05", &SOFT, &HARD),
        claim("exact_match(a, 'sums') < exact_match(b, 'sums')", &SOFT, &HARD),
        claim("exact_match(a, 'sums') > 2 * exact_match(b, 'sums')", &SOFT, &HARD),
        claim("rouge_l(a, 'sums') > exact_match(b, 'sums')", &SOFT, &HARD),
        claim("exact_match(a, 'sums') > 0.1", &["finetune-x-3", "finetune-x-4"], &[]),
        claim("pass_at_4(a, 'sums') > 0.1", &HARD, &[]),
        claim("exact_match(a, 'products') > 0.1", &HARD, &[]),
        claim("rouge_1(a, 'sums') > 0.1", &HARD, &[]),
    ];
    let found = crate::claims::decide(&claims, &with_scores(&made, &rows)).unwrap();
    let verdicts: Vec<&str> = found.iter().map(|outcome| outcome.verdict.name()).collect();
    assert_eq!(verdicts[..4], ["supported", "refuted", "inconclusive", "supported"], "{found:#?}");
    let half = 4.302_652_73 * 0.01 / 3f64.sqrt();
    let [low, high] = [found[0].low.unwrap(), found[0].high.unwrap()];
    assert!((low - (0.05 - half)).abs() < 1e-7 && (high - (0.05 + half)).abs() < 1e-7, "{low} {high}");
    assert_eq!((found[0].scale, found[0].documents, found[0].prompts), ("difference", 0, Some(10)));
    let sentence = &found[0].sentence;
    let start = "soft-ce top_k=20 ends 10.00 percentage points above finetune in sums exact-match (95% CI +7.52 to +12.48), in 3 of 3 seeds; \
                 claim supported: ";
    assert!(sentence.starts_with(start) && sentence.contains("; 10 prompts; "), "{sentence}");
    assert!((found[2].estimate.unwrap() - 0.01).abs() < 1e-9, "0.19 less twice 0.09");
    let reasons: Vec<&str> = found[4..].iter().map(|outcome| outcome.reason.as_deref().unwrap()).collect();
    let wanted = [
        "sums exact-match is missing from 1 of the 2 runs of finetune (the first is seed 4)",
        "sums pass@4 is missing from 3 of the 3 runs of finetune (the first is seed 1)",
        "products exact-match is missing from 3 of the 3 runs of finetune (the first is seed 1)",
        "one prompt tells nothing of the variation between prompts",
    ];
    assert_eq!(reasons, wanted);
    let json: Value = serde_json::from_slice(&crate::claims::json("made", &found).unwrap()).unwrap();
    assert_eq!(
        (&json["claims"][0]["prompts"], &json["claims"][0]["probability_of_superiority"]),
        (&Value::from(10), &Value::Null)
    );
}
