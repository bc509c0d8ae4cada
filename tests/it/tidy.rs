//! The rules of the house that a machine can check: dependencies point one way,
//! files keep their size, state SQL and system calls stay with their owners.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Which modules of ours each module may use; whoever is not listed may be used
/// by nobody (`api`, `cli`) or is checked by another line.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("decide", &["domain"]),
    ("aws", &["domain"]),
    ("clock", &[]),
    ("durable", &[]),
    ("fault", &[]),
    ("process", &[]),
    ("telemetry", &[]),
    ("aws", &["domain"]),
    ("config", &["domain", "process", "decide"]),
    ("secrets", &["domain", "decide", "process", "aws", "config"]),
    ("dns", &["domain", "clock", "durable", "process", "decide"]),
    ("engine", &["domain", "aws", "clock", "durable", "process", "fault", "decide"]),
    ("notify", &["domain", "clock"]),
    ("vault", &["domain", "aws", "clock", "durable", "process", "fault", "decide"]),
    ("db", &["domain", "clock", "durable"]),
    ("flow", &["domain", "decide", "clock", "db", "fault", "process", "telemetry"]),
    ("evidence", &["domain", "clock", "db", "durable", "fault", "vault"]),
    ("report", &["domain", "evidence", "decide", "clock", "flow"]),
    (
        "flows",
        &[
            "domain", "aws", "decide", "clock", "durable", "fault", "process", "config", "dns", "engine", "vault",
            "db", "evidence", "flow", "secrets",
        ],
    ),
    (
        "app",
        &[
            "domain",
            "aws",
            "decide",
            "aws",
            "clock",
            "durable",
            "process",
            "telemetry",
            "config",
            "dns",
            "engine",
            "notify",
            "vault",
            "db",
            "evidence",
            "flow",
            "flows",
            "report",
            "secrets",
        ],
    ),
    (
        "tasks",
        &[
            "domain",
            "decide",
            "clock",
            "process",
            "telemetry",
            "config",
            "engine",
            "fault",
            "notify",
            "vault",
            "db",
            "evidence",
            "flow",
            "flows",
            "app",
        ],
    ),
    ("api", &["domain", "clock", "process", "telemetry", "flow", "report", "evidence", "app"]),
];

pub(crate) fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `src/vault/layout.rs` and `src/vault.rs` are both `vault`.
fn module_of(file: &Path) -> String {
    let inside = file.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules of ours that the code names: after `crate::`.
fn used_modules(source: &str) -> Vec<String> {
    named_after("crate::", source)
}

/// What the code names after a path, also inside the braces of `use path::{…}`.
fn named_after(path: &str, source: &str) -> Vec<String> {
    let code: String =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut used = Vec::new();
    for (at, _) in code.match_indices(path) {
        let rest = &code[at + path.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut word = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 1 && (c.is_alphanumeric() || c == '_') {
                    word.push(c);
                } else if depth == 0 || (depth == 1 && (c == ':' || c == ',')) {
                    if !word.is_empty() {
                        used.push(std::mem::take(&mut word));
                    }
                    if c == ':' {
                        // The path goes on; what follows up to the comma is inside that module.
                        word.clear();
                    }
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            used.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    used
}

#[test]
fn dependencies_point_one_way() {
    let rules: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let modules: Vec<String> = rust_files(&root().join("src"))
        .iter()
        .map(|file| module_of(file))
        .filter(|module| !["main", "lib"].contains(&module.as_str()))
        .collect();
    let mut wrong = Vec::new();
    for file in rust_files(&root().join("src")) {
        let module = module_of(&file);
        if ["main", "lib", "cli"].contains(&module.as_str()) {
            continue;
        }
        let allowed = rules.get(module.as_str()).unwrap_or_else(|| panic!("module `{module}` has no line in MAY_USE"));
        for used in used_modules(&fs::read_to_string(&file).unwrap()) {
            if modules.contains(&used) && used != module && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{} uses `{used}`, which `{module}` may not", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_module_finder_sees_every_form_of_use() {
    let source =
        "use crate::{domain::{Lsn, Timeline}, vault::Store, clock};\nfn f() { crate::api::x() }\n// crate::cli\n";
    let used = used_modules(source);
    for module in ["domain", "vault", "clock", "api"] {
        assert!(used.contains(&module.to_owned()), "{module} in {used:?}");
    }
    assert!(!used.contains(&"cli".to_owned()));
}

/// Which other workflow each workflow uses: `src/flows/copy.rs` and all below
/// `src/flows/copy/` are `copy`. What they share stands in `src/flows.rs`.
fn workflows() -> BTreeMap<String, BTreeSet<String>> {
    let folder = root().join("src/flows");
    let mut workflows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in rust_files(&folder) {
        let inside = file.strip_prefix(&folder).unwrap();
        let name = inside.components().next().unwrap().as_os_str().to_string_lossy();
        let up = "super::".repeat(inside.components().count());
        let source = fs::read_to_string(&file).unwrap();
        let used = workflows.entry(name.trim_end_matches(".rs").to_owned()).or_default();
        used.extend(["flows::", &up].into_iter().flat_map(|path| named_after(path, &source)));
    }
    let names: BTreeSet<String> = workflows.keys().cloned().collect();
    for (name, used) in &mut workflows {
        used.retain(|other| other != name && names.contains(other));
    }
    workflows
}

#[test]
fn no_workflow_uses_itself_through_another() {
    let mut workflows = workflows();
    assert!(workflows["restore_test"].contains("restore") && workflows["copy"].contains("locks"), "{workflows:?}");
    // Those that use none that is left can be left out; in a circle each uses one.
    while let Some(last) = workflows.iter().find(|(_, used)| used.is_empty()).map(|(name, _)| name.clone()) {
        workflows.remove(&last);
        for used in workflows.values_mut() {
            used.remove(&last);
        }
    }
    assert!(workflows.is_empty(), "in a circle, or using one: {workflows:?}");
}

#[test]
fn files_keep_their_size() {
    let mut long = Vec::new();
    for folder in ["src", "tests"] {
        for file in rust_files(&root().join(folder)) {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            if lines > 700 {
                long.push(format!("{}: {lines} lines, 700 are allowed", file.display()));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap().lines().count();
    assert!(architecture <= 200, "ARCHITECTURE.md has {architecture} lines, 200 are allowed");
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<String> = rust_files(&root().join("src"))
        .into_iter()
        .filter(|file| !file.ends_with("tests.rs") && !fs::read_to_string(file).unwrap().starts_with("//!"))
        .map(|file| file.display().to_string())
        .collect();
    assert!(silent.is_empty(), "no module text in {silent:?}");
}

#[test]
fn state_sql_stands_in_db_alone() {
    // The engine speaks SQL to protected servers, and the demo's clients to theirs.
    let strayed: Vec<String> = rust_files(&root().join("src"))
        .into_iter()
        .filter(|file| !["db", "engine"].contains(&module_of(file).as_str()) && !file.ends_with("demo/workload.rs"))
        .filter(|file| fs::read_to_string(file).unwrap().contains("sqlx::query"))
        .map(|file| file.display().to_string())
        .collect();
    assert!(strayed.is_empty(), "SQL in {strayed:?}");
}

#[test]
fn nothing_unfinished_and_no_skipped_test_is_kept() {
    let marks = [
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("#[ig", "nore"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
    ];
    let mut found = Vec::new();
    for folder in ["src", "tests"] {
        for file in rust_files(&root().join(folder)) {
            let source = fs::read_to_string(&file).unwrap();
            found.extend(
                marks.iter().filter(|mark| source.contains(**mark)).map(|mark| format!("{mark} in {}", file.display())),
            );
        }
    }
    assert!(found.is_empty(), "{found:?}");
}
