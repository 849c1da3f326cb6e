//! Import cycles: no file of `src/` may depend on itself through other files.
//!
//! A name counts as a dependency on the file that defines it. Re-exports are followed to that file, and a
//! re-export by itself is no dependency, so that a `mod.rs` may export names of its children.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::lexer::{Token, lex, without_tests};
use super::paths::{CratePath, find_paths, paths_of_this_crate};
use super::{SourceFile, is_test_file, module_of, read_files};

#[test]
fn files_do_not_import_each_other_in_cycles() {
    let mut files = read_files(&["src"]);
    files.retain(|file| !is_test_file(&file.path) && file.path != "src/main.rs");
    let cycles = import_cycles(&files);
    assert!(cycles.is_empty(), "\n{}\n", cycles.join("\n"));
}

/// Describes each group of files that depend on each other, with the paths that tie it.
fn import_cycles(files: &[SourceFile]) -> Vec<String> {
    let graph = Graph::new(files);
    let mut seen = BTreeSet::new();
    let mut cycles = Vec::new();
    for &file in graph.dependencies.keys() {
        let reachable = graph.reachable_from(file);
        if !reachable.contains(file) || seen.contains(file) {
            continue;
        }
        let members: BTreeSet<&str> =
            reachable.into_iter().filter(|other| graph.reachable_from(other).contains(file)).collect();
        cycles.push(graph.describe(&members));
        seen.extend(members);
    }
    cycles
}

/// The dependencies between files.
struct Graph<'a> {
    dependencies: BTreeMap<&'a str, Vec<Dependency<'a>>>,
}

struct Dependency<'a> {
    line: usize,
    path: String,
    /// The file that defines what `path` names.
    target: &'a str,
}

impl<'a> Graph<'a> {
    fn new(files: &'a [SourceFile]) -> Self {
        let modules =
            Modules(files.iter().map(Module::parse).map(|module| (module.name.clone(), module)).collect());
        let dependencies =
            modules.0.values().map(|module| (module.file, modules.dependencies(module))).collect();
        Self { dependencies }
    }

    fn reachable_from(&self, file: &str) -> BTreeSet<&'a str> {
        let mut reachable = BTreeSet::new();
        let mut pending = vec![file];
        while let Some(file) = pending.pop() {
            for dependency in &self.dependencies[file] {
                if reachable.insert(dependency.target) {
                    pending.push(dependency.target);
                }
            }
        }
        reachable
    }

    fn describe(&self, members: &BTreeSet<&str>) -> String {
        let mut text = format!("{} files import each other in a cycle:", members.len());
        for file in members {
            for Dependency { line, path, target } in &self.dependencies[file] {
                if members.contains(target) {
                    text += &format!("\n    {file}:{line}: `crate::{path}` is in {target}");
                }
            }
        }
        text
    }
}

/// The names of one file of the library.
struct Module<'a> {
    file: &'a str,
    /// The module's path, empty for the crate's root.
    name: String,
    definitions: HashSet<&'a str>,
    /// The paths of the names that `use` brings into scope.
    imports: HashMap<String, String>,
    globs: Vec<String>,
    /// Every path of this crate that the file names, re-exports left out.
    uses: Vec<CratePath>,
}

impl<'a> Module<'a> {
    fn parse(file: &'a SourceFile) -> Self {
        let name = module_of(&file.path);
        let name = if name == "lib" { String::new() } else { name };
        let tokens = without_tests(&lex(&file.text));
        let children = child_modules(&tokens);
        let mut paths = paths_of_this_crate(&name, &tokens);
        paths.extend(find_paths(&name, &tokens, |first, here| {
            children
                .contains(first)
                .then(|| here.iter().map(String::as_str).chain([first]).map(str::to_owned).collect())
        }));

        let mut imports = HashMap::new();
        let mut globs = Vec::new();
        for path in &paths {
            match &path.import {
                Some(import) if import.name == "*" => {
                    globs.push(path.path.trim_end_matches('*').trim_end_matches("::").to_owned());
                }
                Some(import) => drop(imports.insert(import.name.clone(), path.path.clone())),
                None => {}
            }
        }
        // Paths such as `module::Item` after `use crate::module;`.
        paths.extend(find_paths(&name, &tokens, |first, _| {
            let is_module = first.starts_with(|c: char| c.is_lowercase() || c == '_');
            let path = imports.get(first).filter(|_| is_module)?;
            Some(path.split("::").map(str::to_owned).collect())
        }));
        paths.retain(|path| path.import.as_ref().is_none_or(|import| !import.is_reexport));
        Self { file: &file.path, name, definitions: definitions(&tokens), imports, globs, uses: paths }
    }
}

fn child_modules<'a>(tokens: &[Token<'a>]) -> HashSet<&'a str> {
    let declared = tokens.windows(3).filter(|window| window[0].text == "mod" && window[2].text == ";");
    declared.map(|window| window[1].text).collect()
}

/// Returns the names of the items at the top of a file.
fn definitions<'a>(tokens: &[Token<'a>]) -> HashSet<&'a str> {
    const ITEMS: [&str; 8] = ["const", "enum", "fn", "static", "struct", "trait", "type", "union"];
    let mut names = HashSet::new();
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            item if depth == 0 && ITEMS.contains(&item) => {
                names.extend(tokens.get(at + 1).map(|name| name.text))
            }
            "macro_rules" if depth == 0 => names.extend(tokens.get(at + 2).map(|name| name.text)),
            _ => {}
        }
    }
    names
}

/// The files of the library by the paths of their modules.
struct Modules<'a>(BTreeMap<String, Module<'a>>);

impl<'a> Modules<'a> {
    fn dependencies(&self, module: &Module<'_>) -> Vec<Dependency<'a>> {
        let mut found = Vec::new();
        for CratePath { line, path, .. } in &module.uses {
            let target = self.defining_file(path, 0);
            if let Some(target) = target.filter(|target| *target != module.file) {
                found.push(Dependency { line: *line, path: path.clone(), target });
            }
        }
        found
    }

    /// Returns the file that defines the item at `path`, after `followed` imports.
    fn defining_file(&self, path: &str, followed: usize) -> Option<&'a str> {
        const MAX_FOLLOWED: usize = 8;
        let (module, rest) = self.deepest_module(path)?;
        let mut segments = rest.splitn(2, "::");
        let name = segments.next().unwrap_or_default();
        if name.is_empty() || module.definitions.contains(name) || followed == MAX_FOLLOWED {
            return Some(module.file);
        }
        if let Some(import) = module.imports.get(name) {
            let path = segments.next().map_or(import.clone(), |rest| format!("{import}::{rest}"));
            return self.defining_file(&path, followed + 1);
        }
        let from_glob = module.globs.iter().find_map(|glob| {
            let target = self.defining_file(&format!("{glob}::{rest}"), followed + 1)?;
            let (source, _) = self.deepest_module(glob)?;
            (source.file != target || source.definitions.contains(name)).then_some(target)
        });
        Some(from_glob.unwrap_or(module.file))
    }

    /// Splits `path` into the longest prefix that is a file's module, and the rest.
    fn deepest_module<'p>(&self, path: &'p str) -> Option<(&Module<'a>, &'p str)> {
        let mut prefix = path;
        loop {
            if let Some(module) = self.0.get(prefix) {
                return Some((module, path[prefix.len()..].trim_start_matches("::")));
            }
            if prefix.is_empty() {
                return None;
            }
            prefix = prefix.rfind("::").map_or("", |end| &prefix[..end]);
        }
    }
}

fn cycles_of(sources: &[(&str, &str)]) -> Vec<String> {
    let file =
        |(path, text): &(&str, &str)| SourceFile { path: (*path).to_owned(), text: (*text).to_owned() };
    import_cycles(&sources.iter().map(file).collect::<Vec<_>>())
}

#[test]
fn cycle_is_reported_with_its_paths() {
    let cycles = cycles_of(&[
        ("src/lib.rs", "mod a; mod b; mod c; mod free;"),
        ("src/a.rs", "use crate::b::B;\n\npub struct A;"),
        ("src/b.rs", "use std::fmt;\nuse super::c;\npub struct B(c::C);"),
        ("src/c.rs", "pub struct C;\nfn c() { let a = crate::a::A; }"),
        ("src/free.rs", "use crate::a::A;"),
    ]);
    let expected = "3 files import each other in a cycle:
    src/a.rs:1: `crate::b::B` is in src/b.rs
    src/b.rs:2: `crate::c` is in src/c.rs
    src/b.rs:3: `crate::c::C` is in src/c.rs
    src/c.rs:2: `crate::a::A` is in src/a.rs";
    assert_eq!(cycles, [expected]);
}

#[test]
fn reexport_is_followed_and_is_no_dependency() {
    let parent = "mod a; mod b; pub use a::A; pub(crate) use self::b::{B as Renamed, other};";
    let a = ("src/p/a.rs", "pub struct A;");
    let b = ("src/p/b.rs", "use super::A; pub struct B; pub fn other() {}");
    assert_eq!(cycles_of(&[("src/lib.rs", "mod p;"), ("src/p/mod.rs", parent), a, b]), [""; 0]);

    let a = ("src/p/a.rs", "use super::Renamed; pub struct A;");
    let cycles = cycles_of(&[("src/lib.rs", "mod p;"), ("src/p/mod.rs", parent), a, b]);
    assert_eq!(cycles.len(), 1);
    assert!(cycles[0].contains("src/p/a.rs:1: `crate::p::Renamed` is in src/p/b.rs"), "{}", cycles[0]);
}

#[test]
fn parent_and_child_may_form_a_cycle() {
    let child = ("src/p/a.rs", "use super::helper; pub fn a() {}");
    let importing = ("src/p.rs", "mod a; use a::a; fn helper() { a() }");
    let calling = ("src/p.rs", "mod a; fn helper() { a::a() }");
    let reexporting = ("src/p.rs", "mod a; pub use a::*; fn helper() {}");
    assert_eq!(cycles_of(&[importing, child]).len(), 1);
    assert_eq!(cycles_of(&[calling, child]).len(), 1);
    assert_eq!(cycles_of(&[reexporting, child]).len(), 0);
}

#[test]
fn test_code_forms_no_cycle() {
    let a = ("src/a.rs", "pub struct A; #[cfg(test)] mod tests { use crate::b::B; }");
    let gated = ("src/a.rs", "pub struct A; #[cfg(all(test, feature = \"server\"))] use crate::b::B;");
    let b = ("src/b.rs", "use crate::a::A; pub struct B;");
    assert_eq!(cycles_of(&[("src/lib.rs", ""), a, b]).len(), 0);
    assert_eq!(cycles_of(&[("src/lib.rs", ""), gated, b]).len(), 0);
}
