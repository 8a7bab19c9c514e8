//! A file imports only from rooms (top-level modules or crates) before its own, and the files of a room do not import each other in a
//! circle. CONTRIBUTING.md lists the rooms. Checked for every path in the code.
//!
//! The compiler forbids circles between crates; the test states which crate may depend on which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Crates in order, each with its rooms in order. A crate without a list is a single room.
const ORDER: [(&str, &[&str]); 7] = [
    ("base", &[]),
    ("data", &[]),
    ("score", &[]),
    ("record", &[]),
    ("report", &[]),
    ("torch", &["dist", "kernels", "model", "objective", "generate"]),
    ("hydrometer", &["teacher", "eval", "train", "experiment", "sweep", "cli"]),
];

/// The files of a crate, by module path.
struct Crate {
    files: BTreeMap<Vec<String>, PathBuf>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => rust_files(&path, all),
            false if path.extension().is_some_and(|extension| extension == "rs") => all.push(path),
            false => {}
        }
    }
}

impl Crate {
    fn read(name: &'static str) -> Self {
        let src = if name == "hydrometer" { root().join("src") } else { root().join("crates").join(name).join("src") };
        let mut paths = Vec::new();
        rust_files(&src, &mut paths);
        let module = |path: &Path| -> Vec<String> {
            let inner = path.strip_prefix(&src).unwrap().with_extension("");
            let mut parts: Vec<String> = inner.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
                parts.pop();
            }
            parts
        };
        let files = paths.into_iter().filter(|path| path.file_name().is_some_and(|file| file != "main.rs"));
        let files: BTreeMap<_, _> = files.map(|path| (module(&path), path)).collect();
        Self { files }
    }

    /// The modules that the code of `module` refers to by `crate::` and `super::`. Comments and unit tests do not count.
    fn imports(&self, module: &[String]) -> BTreeSet<Vec<String>> {
        let text = fs::read_to_string(&self.files[module]).unwrap();
        let code: String = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap()
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n");
        let mut found = BTreeSet::new();
        for (start, word) in [("crate", 5), ("super", 5)]
            .into_iter()
            .flat_map(|(word, size)| code.match_indices(word).map(move |(at, _)| (at, size)).collect::<Vec<_>>())
        {
            let before = code[..start].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || "_$:".contains(c)) || !code[start + word..].starts_with("::") {
                continue;
            }
            for path in paths(&code[start..]) {
                found.extend(self.module_of(module, &path).filter(|to| to != module && !module.starts_with(to)));
            }
        }
        found
    }

    /// The module of this crate that `path`, written in `module`, refers to: the longest prefix that is a file.
    fn module_of(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let base: Vec<String> = match supers {
            0 => Vec::new(),
            _ => module[..module.len().checked_sub(supers)?].to_vec(),
        };
        let whole = [base, path[supers.max(1)..].to_vec()].concat();
        (0..=whole.len()).rev().map(|length| whole[..length].to_vec()).find(|part| self.files.contains_key(part))
    }

    fn is_test(module: &[String]) -> bool {
        module.iter().any(|part| part == "tests" || part == "coverage")
    }
}

/// The paths at the start of `code`: one, or those of a group in braces.
fn paths(code: &str) -> Vec<Vec<String>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut path, mut rest) = (Vec::new(), code);
    loop {
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        path.push(rest[..end].to_string());
        rest = match rest[end..].strip_prefix("::") {
            Some(next) => next,
            None => return vec![path],
        };
        if let Some(group) = rest.strip_prefix('{') {
            let group = &group[..group.find('}').unwrap_or(group.len())];
            let inner = group.split(',').map(|item| item.trim().split("::").map(str::to_string).collect::<Vec<_>>());
            return inner.map(|item| [path.clone(), item].concat()).collect();
        }
        if !rest.starts_with(is_word) {
            return vec![path];
        }
    }
}

#[test]
fn crates_depend_only_on_crates_before_them() {
    for (at, (name, _)) in ORDER.iter().enumerate() {
        let manifest = match *name {
            "hydrometer" => root().join("Cargo.toml"),
            name => root().join("crates").join(name).join("Cargo.toml"),
        };
        let text = fs::read_to_string(&manifest).unwrap();
        let (_, package) = text.split_once("[package]").unwrap();
        for (_, (other, _)) in ORDER.iter().enumerate().filter(|(other, _)| *other >= at) {
            assert!(!package.contains(&format!("hydrometer-{other}.workspace")), "{name} comes before {other} and depends on it");
        }
        if ["base", "data", "score", "record", "report"].contains(name) {
            assert!(
                !["tch", "torch-sys", "hydrometer-torch"].iter().any(|torch| package.contains(&format!("\n{torch}."))),
                "{name} links libtorch"
            );
        }
    }
    let known: BTreeSet<&str> = ORDER.iter().map(|(name, _)| *name).filter(|name| *name != "hydrometer").collect();
    let there = fs::read_dir(root().join("crates")).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    assert_eq!(there.collect::<BTreeSet<_>>(), known.into_iter().map(String::from).collect(), "every crate is in ORDER");
}

#[test]
fn rooms_import_only_rooms_before_them() {
    for (name, rooms) in ORDER {
        let all = Crate::read(name);
        let top: BTreeSet<&String> = all.files.keys().filter(|module| module.len() > 1).map(|module| &module[0]).collect();
        if !rooms.is_empty() {
            assert_eq!(
                top,
                rooms.iter().map(|room| room.to_string()).collect::<BTreeSet<_>>().iter().collect(),
                "rooms of {name}"
            );
        }
        let place = |module: &[String]| rooms.iter().position(|room| module.first().is_some_and(|first| first == room));
        for module in all.files.keys().filter(|module| !Crate::is_test(module)) {
            for to in all.imports(module) {
                let against = place(module).zip(place(&to)).is_some_and(|(from, to)| to > from);
                assert!(!against, "{} imports {}, a room after its own", module.join("/"), to.join("/"));
            }
        }
    }
}

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let mut circles = Vec::new();
    for (name, _) in ORDER {
        let all = Crate::read(name);
        let modules = all.files.keys().filter(|module| !Crate::is_test(module));
        let mut edges: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> =
            modules.map(|module| (module.clone(), all.imports(module))).collect();
        // Files that import none of the remaining files are in no circle.
        loop {
            let free: Vec<Vec<String>> = edges
                .iter()
                .filter(|(_, to)| to.iter().all(|to| !edges.contains_key(to)))
                .map(|(module, _)| module.clone())
                .collect();
            if free.is_empty() {
                break;
            }
            free.iter().for_each(|module| {
                edges.remove(module);
            });
        }
        // The remaining files are in a circle or import one that is.
        let in_circle = |module: &Vec<String>| {
            let (mut reached, mut todo) = (BTreeSet::new(), vec![module]);
            while let Some(next) = todo.pop() {
                for to in edges.get(next).into_iter().flatten().filter(|to| edges.contains_key(*to)) {
                    if reached.insert(to) {
                        todo.push(to);
                    }
                }
            }
            reached.contains(module)
        };
        circles.extend(edges.keys().filter(|module| in_circle(module)).map(|module| format!("{name}: {}", module.join("/"))));
    }
    assert!(circles.is_empty(), "in circles: {circles:#?}");
}

#[test]
fn paths_are_extracted_from_code() {
    let parts = |code: &str| paths(code).into_iter().map(|path| path.join("/")).collect::<Vec<_>>();
    assert_eq!(parts("crate::a::b::C;"), ["crate/a/b/C"]);
    assert_eq!(parts("super::{a, b::C}; other"), ["super/a", "super/b/C"]);
    assert_eq!(parts("super::super::a(1)"), ["super/super/a"]);
}
