//! `[[claim]]`: statements that the results are tested against, and the runs that decide them.

use std::collections::BTreeSet;

use anyhow::Result;
use hydrometer_base::suggest::unknown;
use hydrometer_base::text::shown;
use hydrometer_base::user_error;
use hydrometer_report::claim::Claim;
use hydrometer_report::claim::expectation::{Expectation, Side};
use hydrometer_report::claim::measure::Measure;
use hydrometer_score::Score;
use toml_edit::{Item, TableLike};

use super::keys::{self, LEVELS, Place, Settings};
use super::name;
use super::selector::Selector;
use super::source::{Setting, Source, SourceSpan};

/// A claim as written.
#[derive(Clone, Debug)]
pub struct ClaimSpec {
    id: String,
    says: String,
    expect: String,
    expectation: Expectation,
    level: f64,
    a: Option<Selector>,
    b: Option<Selector>,
    at: SourceSpan,
    /// The place of `expect`.
    expect_at: SourceSpan,
}

/// What a claim can select: the runs at one point of the sweep.
pub struct Candidates<'a> {
    pub method: &'a str,
    /// The point's name in messages.
    pub point: String,
    /// The settings of each point of the file that this one stands for: several if `[smoke]` merged points.
    pub settings: &'a [Settings],
    pub runs: Vec<&'a str>,
}

/// The claims of a file.
pub fn read(source: &Source, item: Option<&Item>, methods: &[&str]) -> Result<Vec<ClaimSpec>> {
    let mut ids = BTreeSet::new();
    let mut claims = Vec::new();
    for (table, at) in source.list(item, "claim")? {
        let claim = read_one(source, table, at)?;
        if !ids.insert(claim.id.clone()) {
            return Err(user_error!("{}: another claim is called {:?}; rename one", claim.at.0, claim.id));
        }
        for selector in claim.a.iter().chain(&claim.b) {
            selector.check_methods(methods)?;
        }
        claims.push(claim);
    }
    Ok(claims)
}

fn read_one(source: &Source, table: &dyn TableLike, at: SourceSpan) -> Result<ClaimSpec> {
    if let Some((key, item)) = table.iter().find(|(key, _)| keys::find(Place::Claim, key).is_none()) {
        let at = source.place(table.key(key).and_then(|key| key.span()).or_else(|| item.span()));
        return Err(user_error!("{}: {}", at.0, keys::unknown_in(Place::Claim, key, "[[claim]]")));
    }
    let text = |key: &str| -> Result<Option<String>> {
        let Some(item) = table.get(key) else { return Ok(None) };
        let text = item.as_str().filter(|text| !text.trim().is_empty()).map(str::to_string);
        text.ok_or_else(|| user_error!("{}: {key} must be a string", source.place(item.span()).0)).map(Some)
    };
    let lacks = |key: &str, example: &str| user_error!("{}: this [[claim]] lacks {key}; add e.g. {key} = {example}", at.0);
    let id = text("id")?.ok_or_else(|| lacks("id", "\"soft-ce-wins\""))?;
    name::check(&id, "claim", "id = \"soft-ce-wins\"", &source.place(table.get("id").and_then(|item| item.span())).0)?;
    let expect = text("expect")?.ok_or_else(|| lacks("expect", "\"perplexity(a) < perplexity(b)\""))?;
    let expectation = Expectation::parse(&expect).map_err(|misread| {
        let place = expression_place(source, table, &expect, misread.at);
        user_error!("{}: {}", place.0, misread.what)
    })?;
    let common = selector(source, table, "at")?;
    let arm = |key: &str| -> Result<Option<Selector>> {
        let own = selector(source, table, key)?;
        Ok(own.map(|own| common.as_ref().map_or_else(|| own.clone(), |common| own.and(common))))
    };
    let (a, b) = (arm("a")?, arm("b")?);
    for (key, side, found) in [("a", Side::A, &a), ("b", Side::B, &b)] {
        if expectation.asks(side) != found.is_some() {
            return Err(match found {
                None => lacks(key, "{ method = \"finetune\" }"),
                Some(found) => user_error!("{}: expect does not use {key}; remove it", found.at.0),
            });
        }
    }
    let level = match table.get("level").map(|item| (item.as_float(), source.place(item.span()))) {
        None => Settings::default().number(&keys::CLAIM_LEVEL)?,
        Some((Some(level), _)) if LEVELS.contains(level) => level,
        Some((_, at)) => return Err(user_error!("{}: level must be {}", at.0, LEVELS.words)),
    };
    let says = text("says")?.unwrap_or_else(|| expect.clone());
    let expect_at = source.place(table.key("expect").and_then(|key| key.span()));
    Ok(ClaimSpec { id, says, expect, expectation, level, a, b, at, expect_at })
}

fn selector(source: &Source, table: &dyn TableLike, key: &str) -> Result<Option<Selector>> {
    let Some(item) = table.get(key) else { return Ok(None) };
    let at = source.place(table.key(key).and_then(|key| key.span()).or_else(|| item.span()));
    let inner = item.as_table_like();
    let inner = inner.ok_or_else(|| user_error!("{}: {key} must be a table, e.g. {{ method = \"finetune\" }}", at.0))?;
    Selector::read(source, inner, at, &format!("{key} of [[claim]]"), &[]).map(Some)
}

/// The place in the file of character `offset` of the expectation.
fn expression_place(source: &Source, table: &dyn TableLike, expect: &str, offset: usize) -> SourceSpan {
    let span = table.get("expect").and_then(|item| item.span()).unwrap_or(0..0);
    // Skips the opening quotes. If the string contains escapes, which no expression needs, this points at the quotes.
    let skip = source.text.get(span.clone()).and_then(|raw| raw.find(expect));
    let before: usize = skip.map_or(0, |skip| skip + expect.chars().take(offset).map(char::len_utf8).sum::<usize>());
    source.place(Some(span.start + before..span.end))
}

impl ClaimSpec {
    /// Finds the claim's runs among all `candidates`. An error if an arm selects no point of the sweep, or more than one, or if
    /// the claim is about a score that none of `tasks` has.
    pub fn resolve(self, candidates: &[Candidates], tasks: &[(&str, &[Score])]) -> Result<Claim> {
        self.check_scores(tasks)?;
        let runs = |selector: &Option<Selector>| match selector {
            None => Ok(Vec::new()),
            Some(selector) => self.runs(selector, candidates),
        };
        let (a, b) = (runs(&self.a)?, runs(&self.b)?);
        let Self { id, says, expect, expectation, level, .. } = self;
        Ok(Claim { id, says, expect, expectation, level, a, b })
    }

    fn check_scores(&self, tasks: &[(&str, &[Score])]) -> Result<()> {
        let (at, id) = (&self.expect_at.0, &self.id);
        for (measure, _) in self.expectation.measures() {
            let Measure::Score { score, task: name } = measure else { continue };
            let Some((_, scores)) = tasks.iter().find(|(known, _)| known == name) else {
                let names: Vec<&str> = tasks.iter().map(|(name, _)| *name).collect();
                return Err(match names.is_empty() {
                    true => user_error!("{at}: claim {id:?} is about a task, but the file has none; add e.g. [task.sums]"),
                    false => user_error!("{at}: claim {id:?}: {}", unknown("task", name, &names)),
                });
            };
            if !scores.contains(score) {
                let scores: Vec<String> = scores.iter().map(|score| score.identifier()).collect();
                let (wanted, scores, named) = (score.name(), scores.join(", "), shown(name));
                return Err(user_error!(
                    "{at}: claim {id:?}: task {named} has no score {wanted}; add it to the task's score, or use {scores}"
                ));
            }
        }
        Ok(())
    }

    fn runs(&self, selector: &Selector, candidates: &[Candidates]) -> Result<Vec<String>> {
        let (id, at) = (&self.id, &selector.at.0);
        let selected = |candidate: &&Candidates| {
            let matches = |settings: &Settings| selector.matches(candidate.method, |key| get(settings, key));
            candidate.settings.iter().any(matches)
        };
        let found: Vec<&Candidates> = candidates.iter().filter(selected).collect();
        match found[..] {
            [] => Err(user_error!("{at}: claim {id:?} selects no run: none has {selector}; correct it")),
            [only] => Ok(only.runs.iter().map(|run| run.to_string()).collect()),
            [first, second, ..] => {
                let (first, second) = (&first.point, &second.point);
                let one = format!("{at}: claim {id:?} must select one point of the sweep for each arm");
                Err(user_error!("{one}, but takes {first} and {second}; add what tells them apart"))
            }
        }
    }
}

fn get<'a>(settings: &'a Settings, key: &str) -> Option<&'a Setting> {
    settings.0.get(key)
}
