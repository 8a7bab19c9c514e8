//! The table of a task's score for every arm, against the reference's.

use hydrometer_base::units::{fixed, shorten};

use super::comparison::probability;
use super::{Row, Table, missing, title_of, with_half};
use crate::cell::Cell;
use crate::comparison::Comparison;
use crate::scores;
use crate::task::{ScoreDifference, TaskComparison};

/// The heading of each table, and the table.
pub fn tasks(found: &Comparison) -> Vec<(String, Table<'_>)> {
    found.tasks.iter().map(|one| (heading(one), table(found, one))).collect()
}

/// `Task sums: exact-match`.
fn heading(one: &TaskComparison) -> String {
    format!("Task {}: {}", one.task, one.score.name())
}

fn table<'a>(found: &'a Comparison, one: &TaskComparison) -> Table<'a> {
    let head = [one.score.name(), format!("Δ vs {}", shorten(&found.reference, 13))];
    let head = head.into_iter().chain(["p", "p (Holm)", "verdict"].map(String::from)).collect();
    let of_cell = |cell: &Cell| {
        let Some(arm) = one.arm(&cell.label) else {
            return vec![missing(), missing(), String::new(), String::new(), String::new()];
        };
        let [shift, p, p_holm, verdict] = match &arm.difference {
            Some(difference) => of_difference(one, difference),
            None if cell.method == found.reference => ["reference", "", "", ""].map(String::from),
            None => [missing(), String::new(), String::new(), String::new()],
        };
        let unit = scores::unit(one.score);
        let own = arm.value.scaled(unit.factor()).map_or_else(missing, |value| {
            let digits = scores::digits(one.score);
            format!("{}{}", with_half(&value, digits, |value| fixed(value, digits)), unit.sign())
        });
        vec![own, shift, p, p_holm, verdict]
    };
    let mut table = Table::new(found, head, of_cell, |_| Vec::new(), note(found, one));
    // The references of the comparison that did not write are left out.
    table.rows.retain(|row| !matches!(row, Row::Reference(_)));
    for model in &one.references {
        let mut texts = vec![title_of(&model.name, &model.role), scores::value(one.score, model.mean)];
        texts.resize(6, String::new());
        table.rows.push(Row::Reference(texts));
    }
    table
}

fn of_difference(one: &TaskComparison, found: &ScoreDifference) -> [String; 4] {
    let show = |value: f64| scores::difference(one.score, value);
    let interval = found.low.zip(found.high).map_or(String::new(), |(low, high)| format!(" [{}, {}]", show(low), show(high)));
    let p = |p: Option<f64>| p.map_or_else(String::new, probability);
    [format!("{}{interval}", show(found.mean)), p(found.p), p(found.p_holm), found.verdict.to_string()]
}

fn note(found: &Comparison, one: &TaskComparison) -> String {
    let level = fixed(found.level * 100.0, 0);
    let range = |counts: Vec<usize>| match (counts.iter().min(), counts.iter().max()) {
        (Some(least), Some(most)) if least != most => format!("{least} to {most}"),
        (_, most) => most.map_or("0".into(), usize::to_string),
    };
    let prompts = range(one.arms.iter().map(|arm| arm.prompts).chain(one.references.iter().map(|model| model.prompts)).collect());
    let smoke = if found.smoke { "Smoke tier: not a result. " } else { "" };
    let mut note = format!(
        "{smoke}A {} value is better. Means over the finished seeds and {prompts} prompts; ± is the half-width of the {level}% interval \
         over seeds and prompts.",
        one.better
    );
    if one.arms.iter().any(|arm| arm.difference.is_some()) {
        note += &format!(
            " Δ: less {}'s, {}, paired by seed and prompt, with its {level}% interval; the verdict says where the interval lies. p \
             against no difference, alone and with all comparisons of task scores counted (Holm).",
            found.reference,
            scores::unit_of_difference(one.score)
        );
    }
    let common = |arm: &crate::task::TaskArm| arm.difference.as_ref().is_some_and(|difference| difference.prompts < arm.prompts);
    if one.arms.iter().any(common) {
        note += " At some prompts only one of two compared arms has a value; Δ leaves these out.";
    }
    note
}
