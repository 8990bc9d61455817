//! Holds the shape of `src/`: which module may import which, how long a file may grow, and that no
//! setting claims an effect that it lacks. And holds the documents to what is so.
//!
//! `ARCHITECTURE.md` says why. A change of the table below is a change of the architecture.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use ottla::{
    config::{BrokerConfig, TopicConfig},
    protocol::api::APIS,
};

/// Every module of `src/`, and what it may import besides itself. A module stands below those that
/// it imports, so the table cannot hold a cycle.
const IMPORTS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("protocol", &["base"]),
    ("cert", &["base"]),
    ("config", &["base", "protocol"]),
    ("transport", &["base", "cert", "config"]),
    ("metadata", &["base", "protocol", "config"]),
    ("quorum", &["base", "config", "metadata"]),
    ("controller", &["base", "protocol", "config", "metadata", "quorum"]),
    ("cluster", &["base", "config", "metadata", "quorum", "controller", "transport"]),
    ("log", &["base", "protocol", "config"]),
    ("coordinator", &["base", "protocol", "metadata"]),
    ("group", &["base", "protocol", "metadata", "coordinator"]),
    ("replication", &["base", "protocol", "config", "transport", "metadata", "log", "coordinator"]),
    ("net", &["base", "protocol", "config"]),
    (
        "api",
        &[
            "base",
            "protocol",
            "config",
            "metadata",
            "quorum",
            "controller",
            "cluster",
            "log",
            "coordinator",
            "group",
            "replication",
            "net",
        ],
    ),
    ("client", &["base", "protocol"]),
    ("observability", &["base", "config", "net"]),
    (
        "node",
        &[
            "base",
            "protocol",
            "config",
            "metadata",
            "quorum",
            "controller",
            "log",
            "coordinator",
            "group",
            "replication",
            "net",
            "api",
            "observability",
            "cert",
            "transport",
            "cluster",
        ],
    ),
    (
        "cli",
        &[
            "base",
            "cert",
            "protocol",
            "config",
            "metadata",
            "controller",
            "cluster",
            "log",
            "group",
            "client",
            "observability",
            "node",
        ],
    ),
];

/// Imports that only some files of a module may use: the module, what it imports, and how the names
/// of those files start.
const ONLY_IN: &[(&str, &str, &[&str])] = &[
    // Decisions are pure; one driver takes them to the quorum.
    ("controller", "quorum", &["driver"]),
];

/// The most lines of a file, its tests apart.
const MAX_LINES: usize = 700;

/// One file of `src/`.
struct Source {
    /// Relative to `src/`.
    path: PathBuf,
    text: String,
}

impl Source {
    /// The module that it belongs to. `None` for the roots of the crates.
    fn module(&self) -> Option<&str> {
        let mut parts = self.path.iter();
        let first = parts.next()?.to_str()?;
        parts.next().map(|_| first)
    }

    fn is_test(&self) -> bool {
        self.path.iter().any(|part| part == "tests" || part == "tests.rs")
    }

    /// Lines up to the tests at the end.
    fn product_lines(&self) -> usize {
        if self.is_test() {
            return 0;
        }
        let lines: Vec<&str> = self.text.lines().collect();
        let tests = lines.windows(2).position(|pair| {
            pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
        });
        tests.unwrap_or(lines.len())
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut directories) = (Vec::new(), vec![root.clone()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory that was listed") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a readable file");
                let path = path.strip_prefix(&root).expect("found below the root").into();
                found.push(Source { path, text });
            }
        }
    }
    assert!(found.len() > 50, "src/ was not found");
    found
}

/// The modules that a file names by paths from the crate's root.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let is_part_of_name = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let mut found = BTreeSet::new();
    for (at, root) in code.match_indices("crate::") {
        if code[..at].ends_with(is_part_of_name) {
            continue;
        }
        let tail = &code[at + root.len()..];
        if tail.starts_with('{') {
            found.extend(first_names(tail));
        } else {
            found.extend(leading_name(tail));
        }
    }
    found
}

fn leading_name(path: &str) -> Option<String> {
    let name: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// What the paths between a brace and its counterpart start with.
fn first_names(tree: &str) -> Vec<String> {
    let (mut depth, mut names, mut starts) = (0, Vec::new(), true);
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => starts = true,
            _ if depth == 1 && starts && !c.is_whitespace() => {
                names.extend(leading_name(&tree[at..]));
                starts = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let table: BTreeMap<&str, &[&str]> = IMPORTS.iter().copied().collect();
    let mut refused = Vec::new();
    for source in sources() {
        let Some(module) = source.module() else { continue };
        let Some(allowed) = table.get(module) else {
            refused.push(format!("{module} is not in the table"));
            continue;
        };
        let path = source.path.display();
        for import in imports(&source.text) {
            // What is defined at the root itself, such as a macro, is no module.
            if import == module || !table.contains_key(import.as_str()) {
                continue;
            }
            if !allowed.contains(&import.as_str()) {
                refused.push(format!("src/{path} imports {import}, which {module} may not"));
            }
            let within = source.path.strip_prefix(module).unwrap().to_str().unwrap();
            for (of, what, files) in ONLY_IN {
                let elsewhere = !files.iter().any(|file| within.starts_with(file));
                if (*of, *what) == (module, &import) && elsewhere && !source.is_test() {
                    refused.push(format!("src/{path} imports {import}: only {files:?} may"));
                }
            }
        }
    }
    assert!(refused.is_empty(), "\n{}\n", refused.join("\n"));
}

#[test]
fn the_table_has_no_cycle() {
    let mut above = BTreeSet::new();
    for (module, imports) in IMPORTS {
        for import in *imports {
            assert!(above.contains(import), "{module} imports {import}, which stands no higher");
        }
        assert!(above.insert(module), "{module} stands twice");
    }
}

#[test]
fn files_stay_short_enough_to_read() {
    let mut long = Vec::new();
    for source in sources() {
        let lines = source.product_lines();
        if lines > MAX_LINES {
            let path = source.path.display();
            long.push(format!("src/{path} has {lines} lines without its tests"));
        }
    }
    assert!(long.is_empty(), "more than {MAX_LINES} lines:\n{}\n", long.join("\n"));
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "\
//! See [`crate::cli`].
use crate::base::Clock;
use crate::{
    log::{Dir, StdDir},
    metadata::MetadataImage, net,
};
fn now() -> crate::config::Value {
    $crate::node!(); other_crate::api::call(); pub(in crate::quorum) fn f() {}
}";
    let expected = ["base", "config", "log", "metadata", "net", "quorum"];
    assert_eq!(imports(text), expected.map(String::from).into());
}

#[test]
fn settings_that_claim_an_effect_are_read() {
    let read: String = sources()
        .into_iter()
        .filter(|source| source.module() != Some("config") && !source.is_test())
        .map(|source| source.text)
        .collect();
    let is_read = |key: &&&str| {
        let field = format!(".{}", key.replace('.', "_"));
        let mut uses = read.match_indices(&field).map(|(at, found)| at + found.len());
        // A field may add its unit to the key's name.
        let unit = |at: usize| read[at..].strip_prefix("_bytes").unwrap_or(&read[at..]);
        let ends = |at: usize| !unit(at).starts_with(|c: char| c == '_' || c.is_alphanumeric());
        uses.any(ends) || read.contains(&format!("\"{key}\""))
    };
    let keys = BrokerConfig::KEYS.iter().chain(TopicConfig::KEYS);
    let unread: Vec<_> = keys.filter(|key| !is_read(key)).collect();
    assert!(unread.is_empty(), "nothing reads {unread:?}: take them out of the struct");
}

/// The rows of the tables in a section of a document, cell by cell.
fn rows(document: &str, section: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = fs::read_to_string(path).expect("a readable document");
    let (_, section) = text.split_once(&format!("\n## {section}\n")).expect("the section");
    let section = section.split("\n## ").next().unwrap_or(section);
    let rows = section.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.map(cells).collect()
}

#[test]
fn the_architecture_says_which_module_may_import_which() {
    let rows = rows("ARCHITECTURE.md", "Modules");
    let modules: BTreeSet<&str> = IMPORTS.iter().map(|(module, _)| *module).collect();
    for (module, imports) in IMPORTS {
        let row = rows.iter().find(|row| row[0] == format!("`{module}`"));
        let said = &row.unwrap_or_else(|| panic!("{module} has no row"))[2];
        let words = said.split(|c: char| !c.is_alphanumeric());
        let named: BTreeSet<&str> = words.filter(|word| modules.contains(word)).collect();
        // What stands above everything.
        if said != "all" {
            assert_eq!(named, imports.iter().copied().collect(), "{module}: {said}");
        }
    }
}

#[test]
fn the_readme_lists_the_apis_that_are_served() {
    let listed: BTreeSet<(String, String)> = rows("README.md", "APIs")
        .iter()
        .skip(2)
        .flat_map(|row| row.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())))
        .filter(|(name, _)| !name.is_empty())
        .collect();
    let served = APIS.iter().map(|api| {
        let mut versions = api.min.to_string();
        if api.max > api.min {
            versions += &format!("–{}", api.max);
        }
        if api.advertised_min < api.min {
            versions += &format!(" (announced from {})", api.advertised_min);
        }
        (format!("{:?}", api.key), versions)
    });
    assert_eq!(listed, served.collect());
}

/// The names of metrics in a text.
fn metrics(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c == '_' || c.is_ascii_lowercase();
    let from = text.match_indices("ottla_").map(|(at, _)| &text[at..]);
    from.map(|rest| rest.split(|c| !is_part(c)).next().unwrap_or(rest)).collect()
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_exist() {
    let sources: Vec<_> = sources().into_iter().filter(|source| !source.is_test()).collect();
    let known: BTreeSet<&str> = sources.iter().flat_map(|source| metrics(&source.text)).collect();
    for file in ["config/dashboard.json", "config/alerts.yml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = fs::read_to_string(path).expect("a readable file");
        let asked = metrics(&text);
        assert!(asked.len() > 5, "{file} asks for {asked:?}");
        for name in asked {
            let exists = known.contains(name)
                || name.strip_suffix("_bucket").is_some_and(|histogram| known.contains(histogram));
            assert!(exists, "{file} asks for {name}, which no node shows");
        }
    }
}
