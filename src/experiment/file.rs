//! The experiment file as written: its tables, read and checked one by one, not yet expanded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::suggest::unknown;
use hydrometer_base::user_error;
use toml_edit::Item;

use super::claim::{self, ClaimSpec};
use super::fair::{self, Rule};
use super::keys::{self, Place, Settings, objective_name};
use super::name;
use super::source::{Setting, Source, SourceSpan};
use super::sweep::Sweep;

pub type Table = Vec<(String, Setting)>;

pub struct File {
    pub name: String,
    /// Where relative paths start.
    pub folder: PathBuf,
    pub text: String,
    /// The file as a whole, for messages without a line.
    pub whole: SourceSpan,
    pub question: String,
    pub hypothesis: String,
    pub revision: String,
    pub base: Table,
    pub teachers: BTreeMap<String, (Table, SourceSpan)>,
    pub methods: Vec<Method>,
    pub tasks: Vec<TaskSpec>,
    pub sweep: Sweep,
    pub fair: Option<Rule>,
    pub smoke: BTreeMap<String, Setting>,
    pub smoke_teacher_tokens: Option<Setting>,
    pub claims: Vec<ClaimSpec>,
}

/// `[task.NAME]`.
pub struct TaskSpec {
    pub name: String,
    pub own: Table,
    pub at: SourceSpan,
}

/// `[method.NAME]`.
pub struct Method {
    pub name: String,
    pub own: Table,
    /// Its objective's name; empty if it has none.
    pub objective: String,
    pub at: SourceSpan,
}

impl File {
    /// Reads `path`. Every mistake of the user is a [`hydrometer_base::UserError`] that points at its line.
    pub fn read(path: &Path) -> Result<Self> {
        let source = Source::read(path, "experiment file")?;
        let document = source.parse()?;
        let top = document.as_table();
        if let Some((key, item)) = top.iter().find(|(key, _)| keys::find(Place::Top, key).is_none()) {
            let at = source.place(top.key(key).and_then(|key| key.span()).or_else(|| item.span())).0;
            return Err(user_error!("{at}: {}", unknown("key", key, &keys::names(Place::Top))));
        }
        let text = |key: &str, default: &str| -> Result<String> {
            let Some(item) = top.get(key) else { return Ok(default.to_string()) };
            let text = item.as_str().map(str::to_string);
            text.ok_or_else(|| user_error!("{}: {key} must be a string", source.place(item.span()).0))
        };
        let name = name::experiment(path)?;
        let base = table(&source, top.get("base"), "[base]", Place::Base)?;
        let mut smoke: BTreeMap<String, Setting> =
            table(&source, top.get("smoke"), "[smoke]", Place::Smoke)?.into_iter().collect();
        let smoke_teacher_tokens = smoke.remove(keys::TEACHER_TOKENS.name).or_else(|| smoke.get(keys::TOKENS.name).cloned());
        let mut teachers = BTreeMap::new();
        for (teacher, table, at) in source.tables(top.get("teacher"), "teacher")? {
            name::check(&teacher, "teacher", "[teacher.big]", &at.0)?;
            let settings = checked(source.settings(table)?, &format!("[teacher.{teacher}]"), Place::Teacher)?;
            teachers.insert(teacher, (settings, at));
        }
        let sweep = Sweep::read(&source, top.get("sweep"))?;
        let mut methods = Vec::new();
        for (name, table, at) in source.tables(top.get("method"), "method")? {
            name::check(&name, "method", "[method.finetune]", &at.0)?;
            methods.push(Method::read(name, source.settings(table)?, at, &base)?);
        }
        let mut tasks = Vec::new();
        for (name, table, at) in source.tables(top.get("task"), "task")? {
            name::check(&name, "task", "[task.sums]", &at.0)?;
            let own = checked(source.settings(table)?, &format!("[task.{name}]"), Place::Task)?;
            tasks.push(TaskSpec { name, own, at });
        }
        let whole = SourceSpan(path.display().to_string());
        let names: Vec<&str> = methods.iter().map(|method| method.name.as_str()).collect();
        Ok(Self {
            question: text("question", &name)?,
            hypothesis: text("hypothesis", "")?,
            revision: text("revision", "1")?,
            name,
            folder: path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf(),
            whole,
            base,
            teachers,
            sweep,
            fair: fair::read(&source, top.get("fair"))?,
            smoke,
            smoke_teacher_tokens,
            claims: claim::read(&source, top.get("claim"), &names)?,
            methods,
            tasks,
            text: source.text.clone(),
        })
    }
}

impl Method {
    fn read(name: String, own: Table, at: SourceSpan, base: &Table) -> Result<Self> {
        let own = checked(own, &format!("[method.{name}]"), Place::Method)?;
        let named = own.iter().chain(base).find(|(key, _)| key == keys::OBJECTIVE.name);
        let objective = named.map(|(_, setting)| objective_name(setting)).transpose()?.unwrap_or("").to_string();
        if !objective.is_empty() {
            own.iter().cloned().collect::<Settings>().check_objective(&objective)?;
        }
        Ok(Self { name, own, objective, at })
    }
}

fn table(source: &Source, item: Option<&Item>, what: &str, place: Place) -> Result<Table> {
    let Some(item) = item else { return Ok(Vec::new()) };
    let table = item.as_table_like().ok_or_else(|| user_error!("{}: {what} must be a table", source.place(item.span()).0))?;
    checked(source.settings(table)?, what, place)
}

fn checked(settings: Table, what: &str, place: Place) -> Result<Table> {
    keys::check(place, what, settings.iter().map(|(key, setting)| (key, setting)))?;
    Ok(settings)
}
