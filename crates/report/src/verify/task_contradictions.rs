//! Contradictions in what models wrote for tasks, and in its scores.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use hydrometer_base::text::{quoted, shown};
use hydrometer_record::frames::{FINISHES, Frames, GENERATIONS, GenerationRow, RunRow, SCORES, ScoreRow};
use hydrometer_score::{Sample, Score};

use super::contradictions::differ;

/// The kinds of contradictions of a frame: one sentence on the first row of each kind, and the number of further ones.
#[derive(Default)]
struct Kinds(Vec<(&'static str, String, usize)>);

impl Kinds {
    fn add(&mut self, kind: &'static str, sentence: impl FnOnce() -> String) {
        match self.0.iter_mut().find(|(known, ..)| *known == kind) {
            Some((.., more)) => *more += 1,
            None => self.0.push((kind, sentence(), 0)),
        }
    }

    fn sentences(self) -> impl Iterator<Item = String> {
        let more = |count: usize| if count > 0 { format!(", and {count} more rows are like it") } else { String::new() };
        self.0.into_iter().map(move |(_, sentence, count)| format!("{sentence}{}", more(count)))
    }
}

/// A prompt of a task that a run completed.
type Place = (String, String, String);

/// One sentence for each kind, with the name of the frame.
pub fn task_contradictions(frames: &Frames) -> Result<Vec<(&'static str, String)>> {
    let runs: BTreeSet<String> = RunRow::rows(&frames.runs)?.into_iter().map(|row| row.run).collect();
    let texts = frames.generations.as_ref().map(GenerationRow::rows).transpose()?.unwrap_or_default();
    let scores = frames.scores.as_ref().map(ScoreRow::rows).transpose()?.unwrap_or_default();
    let mut written: BTreeMap<Place, Vec<&GenerationRow>> = BTreeMap::new();
    for row in &texts {
        written.entry((row.run.clone(), row.task.clone(), row.prompt.clone())).or_default().push(row);
    }
    let of_texts = of_texts(&texts, &written, &runs);
    let of_scores = of_scores(&scores, &written, &runs);
    let named = |frame: &'static str, kinds: Kinds| kinds.sentences().map(move |sentence| (frame, sentence));
    Ok(named(GENERATIONS, of_texts).chain(named(SCORES, of_scores)).collect())
}

fn of_texts(texts: &[GenerationRow], written: &BTreeMap<Place, Vec<&GenerationRow>>, runs: &BTreeSet<String>) -> Kinds {
    let mut kinds = Kinds::default();
    for row in texts {
        let GenerationRow { run, task, prompt, sample, tokens, finish, .. } = row;
        let at = || place(run, task, prompt);
        if !runs.contains(run) {
            kinds.add("run", || format!("{} is not in the runs frame", shown(run)));
        }
        if !FINISHES.contains(&finish.as_str()) {
            kinds.add("finish", || {
                format!("a text of {} ended by {}, which is none of {}", at(), quoted(finish), FINISHES.join(", "))
            });
        }
        if *sample < 0 || *tokens < 0 {
            kinds.add("count", || format!("a text of {} has sample {sample} and {tokens} tokens", at()));
        }
    }
    for ((run, task, prompt), rows) in written {
        let mut samples = BTreeSet::new();
        if let Some(twice) = rows.iter().find(|row| !samples.insert(row.sample)) {
            kinds.add("twice", || format!("sample {} of {} has several rows", twice.sample, place(run, task, prompt)));
        }
    }
    kinds
}

fn of_scores(scores: &[ScoreRow], written: &BTreeMap<Place, Vec<&GenerationRow>>, runs: &BTreeSet<String>) -> Kinds {
    let (mut kinds, mut seen) = (Kinds::default(), BTreeSet::new());
    for row in scores {
        let ScoreRow { run, task, prompt, score: name, value, .. } = row;
        let at = || format!("{} of {}", shown(name), place(run, task, prompt));
        if !runs.contains(run) {
            kinds.add("run", || format!("{} is not in the runs frame", shown(run)));
        }
        if !seen.insert((run, task, prompt, name)) {
            kinds.add("twice", || format!("{} has several rows", at()));
        }
        let Ok(score) = Score::parse(name) else {
            kinds.add("name", || format!("{} is the name of no score", quoted(name)));
            continue;
        };
        if !score.can_be(*value) {
            kinds.add("range", || format!("{} is {value}, which is out of its range", at()));
        }
        let Some(texts) = written.get(&(run.clone(), task.clone(), prompt.clone())) else {
            kinds.add("text", || format!("{} has a value, but no text", at()));
            continue;
        };
        // Scores that neither references nor a model enter follow from the texts.
        let truncated = |row: &GenerationRow| matches!(row.finish.as_str(), "length" | "context");
        let samples: Vec<Sample> = texts.iter().map(|row| Sample { text: &row.text, truncated: truncated(row) }).collect();
        let follows = (!score.needs_references()).then(|| score.value(&samples, &[]).ok()).flatten();
        if let Some(wanted) = follows.filter(|wanted| differ(*wanted, *value)) {
            kinds.add("value", || format!("{} is {value}, but its texts give {wanted}", at()));
        }
    }
    kinds
}

fn place(run: &str, task: &str, prompt: &str) -> String {
    format!("{} at prompt {} of task {}", shown(run), shown(prompt), shown(task))
}
