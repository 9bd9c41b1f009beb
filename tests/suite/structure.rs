//! The structure of the crates: no circle of files, no `mod.rs`, and a `lib.rs` that only declares
//! modules and exports their items.
//!
//! The test reads `use` declarations and paths that begin with `crate::` or `super::`, and follows
//! exports to the file of the item. It sees no method call, macro or glob import, and no test. A
//! module may use what the modules around it declare.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The path of a module or an item within its crate; the root's is empty.
type Name = Vec<String>;

const DECLARATIONS: [&str; 7] = [
    "struct ", "enum ", "trait ", "impl ", "impl<", "fn ", "const ",
];

/// The code of each module.
type Code = BTreeMap<Name, String>;

#[test]
fn no_crate_has_a_circle_of_files() -> anyhow::Result<()> {
    for folder in ["../shared", "../services"] {
        for each in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))? {
            let root = each?.path().join("src");
            let mut code = Code::new();
            read(&root, &[], &mut code)?;
            let circle = circle(&code);
            assert!(circle.is_none(), "{}: {circle:?}", root.display());
            if code.len() > 1 {
                let face = fs::read_to_string(root.join("lib.rs")).unwrap_or_default();
                let declares = |line: &str| DECLARATIONS.iter().any(|word| line.starts_with(word));
                let found = face
                    .lines()
                    .find(|line| declares(line.trim_start_matches("pub ")));
                assert!(found.is_none(), "{}: {found:?}", root.display());
            }
        }
    }
    Ok(())
}

/// The debug form of an error is a dump of its types, without its sources' sentences.
#[test]
fn no_log_line_has_the_debug_form_of_an_error() -> anyhow::Result<()> {
    for folder in ["../shared", "../services"] {
        for each in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))? {
            let mut code = Code::new();
            read(&each?.path().join("src"), &[], &mut code)?;
            for (name, text) in code {
                let is_dump = |line: &&str| {
                    ["?error", "?source", "?refusal"]
                        .iter()
                        .any(|dump| line.contains(dump))
                };
                let found = text.lines().find(is_dump);
                assert!(found.is_none(), "{}: {found:?}", name.join("::"));
            }
        }
    }
    Ok(())
}

fn read(folder: &Path, module: &[String], code: &mut Code) -> anyhow::Result<()> {
    for each in fs::read_dir(folder)? {
        let path = each?.path();
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_test = name == "tests" || name.ends_with("_tests");
        if is_test {
            continue;
        }
        anyhow::ensure!(
            name != "mod",
            "{}: name it after its module",
            path.display()
        );
        let is_root = name == "lib" || name == "main";
        let inner = [
            module,
            if is_root {
                &[]
            } else {
                std::slice::from_ref(&name)
            },
        ]
        .concat();
        if path.is_dir() {
            read(&path, &inner, code)?;
        } else {
            let text = fs::read_to_string(&path)?;
            let text = text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default();
            let lines = text
                .lines()
                .map(|line| line.split("//").next().unwrap_or_default());
            code.insert(inner, lines.collect::<Vec<_>>().join("\n"));
        }
    }
    Ok(())
}

/// Files that depend on each other, the last on the first.
fn circle(code: &Code) -> Option<Vec<String>> {
    let (mut exports, mut used) = (BTreeMap::new(), Vec::new());
    for (module, text) in code {
        for (is_export, path) in paths(text) {
            let Some(path) = absolute(code, module, &path) else {
                continue;
            };
            match path.last() {
                Some(name) if is_export => {
                    exports.insert([&**module, std::slice::from_ref(name)].concat(), path);
                }
                _ => used.push((module, path)),
            }
        }
    }
    let mut edges: BTreeMap<&Name, BTreeSet<Name>> = BTreeMap::new();
    for (module, path) in used {
        let file = file(code, &exports, path);
        if file != *module && (file.is_empty() || !module.starts_with(&file)) {
            edges.entry(module).or_default().insert(file);
        }
    }
    // A file that depends on none of the others is in no circle.
    let mut before = usize::MAX;
    while edges.len() < before {
        before = edges.len();
        let left: BTreeSet<Name> = edges.keys().map(|module| (*module).clone()).collect();
        for files in edges.values_mut() {
            files.retain(|file| left.contains(file));
        }
        edges.retain(|_, files| !files.is_empty());
    }
    let (mut at, mut way) = (*edges.keys().next()?, Vec::new());
    while !way.contains(&at) {
        way.push(at);
        at = edges[at].first()?;
    }
    let circle = way.into_iter().skip_while(|file| *file != at);
    Some(circle.map(|file| file.join("::")).collect())
}

/// The paths of this code, and whether each is an export.
fn paths(code: &str) -> Vec<(bool, String)> {
    let mut paths = Vec::new();
    for statement in code.split(';') {
        let uses = ["use ", "pub use ", "pub(crate) use ", "pub(super) use "];
        let begins = |line: &&str| {
            uses.iter()
                .any(|begin| line.trim_start().starts_with(begin))
        };
        if let Some(line) = statement.lines().find(begins)
            && let Some((_, tree)) =
                statement[statement.find(line).unwrap_or_default()..].split_once("use ")
        {
            let is_export = line.trim_start().starts_with("pub");
            paths.extend(leaves(tree).into_iter().map(|path| (is_export, path)));
            continue;
        }
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let words = statement.split(|c| !is_part(c));
        let words = words.filter(|word| word.starts_with("crate::") || word.starts_with("super::"));
        paths.extend(words.map(|word| (false, word.to_owned())));
    }
    paths
}

/// The single paths of a tree such as `a::{b, c::{d, e as f}}`.
fn leaves(tree: &str) -> Vec<String> {
    let Some((begin, inner)) = tree.split_once('{') else {
        return tree
            .split(" as ")
            .next()
            .map(|path| path.trim().to_owned())
            .into_iter()
            .collect();
    };
    let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
    let mut depth = 0;
    let parts = inner.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let parts = parts.filter(|part| !part.trim().is_empty());
    parts
        .flat_map(|part| leaves(&format!("{}{}", begin.trim(), part.trim())))
        .collect()
}

/// The path from the root; `None` if it is another crate's.
fn absolute(code: &Code, module: &Name, path: &str) -> Option<Name> {
    let (mut absolute, mut is_relative) = (module.clone(), true);
    for name in path.split("::").filter(|name| !name.is_empty()) {
        match name {
            "crate" => absolute.clear(),
            "super" => drop(absolute.pop()),
            "self" => {}
            name => {
                absolute.push(name.to_owned());
                if is_relative && !code.contains_key(&absolute) {
                    return None;
                }
            }
        }
        is_relative = false;
    }
    Some(absolute)
}

/// The file that declares the item at this path.
fn file(code: &Code, exports: &BTreeMap<Name, Name>, mut path: Name) -> Name {
    loop {
        let mut ends = (0..=path.len()).rev();
        let end = ends
            .find(|end| code.contains_key(&path[..*end]))
            .unwrap_or_default();
        match path.get(..=end).and_then(|name| exports.get(name)) {
            Some(item) if *item != path[..=end] => path = [item, &path[end + 1..]].concat(),
            _ => return path[..end].to_vec(),
        }
    }
}
