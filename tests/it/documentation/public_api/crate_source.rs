//! The modules of the library as a user of its stores gets them: without the program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use syn::punctuated::Punctuated;
use syn::{Attribute, Item, ItemImpl, Meta, Token, Type, UseTree, Visibility};

use crate::documentation::root;

/// The features that the list shows. The modules of the program are no interface of the library.
const FEATURES: [&str; 2] = ["sqlite", "postgres"];

/// All modules of the crate.
pub(super) struct CrateSource {
    modules: BTreeMap<Vec<String>, Module>,
}

/// A module.
pub(super) struct Module {
    pub(super) path: Vec<String>,
    is_public: bool,
    items: Vec<Item>,
}

/// An item that users can name.
pub(super) enum PublicItem<'a> {
    /// An item of this crate, with the module and the name of its definition.
    Local { item: &'a Item, module: &'a [String], name: String },
    /// A name that leads to an item in another public module or crate.
    Reexport(String),
}

impl CrateSource {
    pub(super) fn read(file: &str) -> Self {
        let file = root().join(file);
        let mut source = Self { modules: BTreeMap::new() };
        source.add(Vec::new(), true, items_of(&file), file.parent().unwrap());
        source
    }

    pub(super) fn root(&self) -> &Module {
        &self.modules[&Vec::new()]
    }

    /// Adds a module and those below it, whose files are in `dir`.
    fn add(&mut self, path: Vec<String>, is_public: bool, items: Vec<Item>, dir: &Path) {
        let (modules, items): (Vec<_>, Vec<_>) = items.into_iter().partition(|i| matches!(i, Item::Mod(_)));
        for module in modules {
            let Item::Mod(module) = module else { continue };
            let name = module.ident.to_string();
            let child = [path.as_slice(), std::slice::from_ref(&name)].concat();
            let items = match module.content {
                Some((_, items)) => items.into_iter().filter(is_enabled).collect(),
                None => items_of(&module_file(dir, &name)),
            };
            self.add(child, is_public && is_pub(&module.vis), items, &dir.join(name));
        }
        self.modules.insert(path.clone(), Module { path, is_public, items });
    }

    pub(super) fn public_modules(&self, parent: &Module) -> impl Iterator<Item = &Module> {
        let is_child = |module: &Module| {
            module.is_public && module.path.split_last().is_some_and(|(_, path)| path == parent.path)
        };
        self.modules.values().filter(move |module| is_child(module))
    }

    pub(super) fn public_items<'a>(&'a self, module: &'a Module) -> Vec<PublicItem<'a>> {
        let mut found = Vec::new();
        for item in &module.items {
            match item {
                Item::Use(item) if is_pub(&item.vis) => {
                    for (path, name) in leaves(&item.tree, Vec::new()) {
                        found.push(self.reexport(module, &path, &name));
                    }
                }
                Item::Use(_) => {}
                item if visibility(item).is_some_and(is_pub) => {
                    found.push(PublicItem::Local { item, module: &module.path, name: name_of(item) })
                }
                _ => {}
            }
        }
        found
    }

    /// Returns the item of a re-export: in full if users have no other name for it.
    fn reexport<'a>(&'a self, module: &Module, path: &[String], name: &str) -> PublicItem<'a> {
        let local = self.private_definition(&module.path, path).and_then(|(found, original)| {
            let definition = &self.modules[&found];
            let item = definition.items.iter().find(|item| name_of(item) == original)?;
            Some(PublicItem::Local { item, module: &definition.path, name: original })
        });
        local.unwrap_or_else(|| PublicItem::Reexport(format!("pub use {};\n", shown(path, name))))
    }

    /// Returns the module and the name of an item's definition, unless the path leads through a public module.
    fn private_definition(&self, from: &[String], path: &[String]) -> Option<(Vec<String>, String)> {
        let names = path[..path.len() - 1].iter().filter(|name| !["crate", "self"].contains(&name.as_str()));
        let below = if path[0] == "crate" { &[] } else { from };
        let module: Vec<String> = below.iter().chain(names).cloned().collect();
        if self.modules.get(&module).is_some_and(|module| module.is_public) {
            return None;
        }
        self.resolve(from, path)
    }

    /// Returns the module and the name of an item's definition.
    fn resolve(&self, from: &[String], path: &[String]) -> Option<(Vec<String>, String)> {
        let (name, modules) = path.split_last()?;
        let mut at = from.to_vec();
        for (index, segment) in modules.iter().enumerate() {
            match segment.as_str() {
                "crate" => at.clear(),
                "self" => {}
                "super" => drop(at.pop()),
                child => {
                    at.push(child.to_owned());
                    if index == 0 && !self.modules.contains_key(&at) {
                        return self.resolve_import(from, child, &path[1..]);
                    }
                }
            }
        }
        let module = self.modules.get(&at)?;
        if module.items.iter().any(|item| name_of(item) == *name) {
            return Some((at, name.clone()));
        }
        // Imported or re-exported there.
        self.resolve_import(&at, name, &[])
    }

    /// Resolves a name that a `use` of the module brings in.
    fn resolve_import(
        &self,
        module: &[String],
        name: &str,
        rest: &[String],
    ) -> Option<(Vec<String>, String)> {
        let uses = self.modules.get(module)?.items.iter().filter_map(|item| match item {
            Item::Use(item) => Some(&item.tree),
            _ => None,
        });
        let imported = uses.flat_map(|tree| leaves(tree, Vec::new())).find(|(_, found)| found == name)?;
        let path = [imported.0.as_slice(), rest].concat();
        if path.first().is_some_and(|first| first == name) { None } else { self.resolve(module, &path) }
    }

    /// Returns the `impl` blocks of an item's type, in the order of the modules.
    pub(super) fn impls_of(&self, item: &PublicItem<'_>) -> Vec<&ItemImpl> {
        let PublicItem::Local { module, name, .. } = item else { return Vec::new() };
        let mut found = Vec::new();
        for at in self.modules.values() {
            let impls = at.items.iter().filter_map(|item| match item {
                Item::Impl(block) => Some(block),
                _ => None,
            });
            found.extend(impls.filter(|block| {
                let Some(path) = self_path(block) else { return false };
                path.last() == Some(name)
                    && self.resolve(&at.path, &path).is_some_and(|(found, _)| found == *module)
            }));
        }
        found
    }
}

/// Returns the path of the type that a block implements, if it is one of its own.
fn self_path(block: &ItemImpl) -> Option<Vec<String>> {
    let Type::Path(path) = &*block.self_ty else { return None };
    Some(path.path.segments.iter().map(|segment| segment.ident.to_string()).collect())
}

fn items_of(file: &Path) -> Vec<Item> {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    syn::parse_file(&text).unwrap().items.into_iter().filter(is_enabled).collect()
}

fn module_file(dir: &Path, name: &str) -> PathBuf {
    let file = dir.join(format!("{name}.rs"));
    if file.exists() { file } else { dir.join(name).join("mod.rs") }
}

fn is_enabled(item: &Item) -> bool {
    is_shown(attributes(item))
}

/// Returns `true` if the conditions of `#[cfg]` hold, and the documentation shows the item.
pub(super) fn is_shown(attributes: &[Attribute]) -> bool {
    attributes.iter().all(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => holds(&list.parse_args().unwrap()),
        Meta::List(list) if list.path.is_ident("doc") => list.tokens.to_string() != "hidden",
        _ => true,
    })
}

fn holds(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => path.is_ident("unix"),
        Meta::NameValue(pair) if pair.path.is_ident("feature") => {
            let value = quoted(&pair.value);
            FEATURES.iter().any(|feature| value == format!("{feature:?}"))
        }
        Meta::NameValue(_) => false,
        Meta::List(list) => {
            let parse = Punctuated::<Meta, Token![,]>::parse_terminated;
            let mut parts = list.parse_args_with(parse).unwrap().into_iter();
            match list.path.get_ident().unwrap().to_string().as_str() {
                "all" => parts.all(|part| holds(&part)),
                "any" => parts.any(|part| holds(&part)),
                _ => !parts.any(|part| holds(&part)),
            }
        }
    }
}

fn quoted(value: &syn::Expr) -> String {
    match value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => format!("{:?}", text.value()),
        _ => String::new(),
    }
}

/// Returns the path and the name of each item that a `use` names.
fn leaves(tree: &UseTree, mut path: Vec<String>) -> Vec<(Vec<String>, String)> {
    match tree {
        UseTree::Path(part) => {
            path.push(part.ident.to_string());
            leaves(&part.tree, path)
        }
        UseTree::Name(name) if name.ident == "self" => {
            let name = path.last().cloned().unwrap_or_default();
            vec![(path, name)]
        }
        UseTree::Name(name) => {
            path.push(name.ident.to_string());
            vec![(path, name.ident.to_string())]
        }
        UseTree::Rename(rename) => {
            path.push(rename.ident.to_string());
            vec![(path, rename.rename.to_string())]
        }
        UseTree::Glob(_) => {
            path.push("*".to_owned());
            vec![(path, "*".to_owned())]
        }
        UseTree::Group(group) => group.items.iter().flat_map(|tree| leaves(tree, path.clone())).collect(),
    }
}

fn shown(path: &[String], name: &str) -> String {
    let text = path.join("::");
    if path.last().is_some_and(|last| last == name) { text } else { format!("{text} as {name}") }
}

fn is_pub(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Calls a macro with each kind of item that has attributes, a visibility and a name.
macro_rules! of_item {
    ($item:expr, $field:ident) => {
        match $item {
            Item::Const(item) => Some(&item.$field),
            Item::Enum(item) => Some(&item.$field),
            Item::Static(item) => Some(&item.$field),
            Item::Struct(item) => Some(&item.$field),
            Item::Trait(item) => Some(&item.$field),
            Item::Type(item) => Some(&item.$field),
            _ => None,
        }
    };
}

fn visibility(item: &Item) -> Option<&Visibility> {
    if let Item::Fn(item) = item { Some(&item.vis) } else { of_item!(item, vis) }
}

fn name_of(item: &Item) -> String {
    let name = if let Item::Fn(item) = item { Some(&item.sig.ident) } else { of_item!(item, ident) };
    name.map(ToString::to_string).unwrap_or_default()
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        item => of_item!(item, attrs).map_or(&[], Vec::as_slice),
    }
}

#[test]
fn conditions_are_those_of_the_library() {
    let is_shown = |attribute: Attribute| is_shown(&[attribute]);
    assert!(is_shown(syn::parse_quote!(#[cfg(all(feature = "sqlite", not(test)))])));
    assert!(is_shown(syn::parse_quote!(#[cfg(any(feature = "server", feature = "postgres"))])));
    assert!(!is_shown(syn::parse_quote!(#[cfg(feature = "server")])));
    assert!(!is_shown(syn::parse_quote!(#[doc(hidden)])));
}

#[test]
fn names_of_a_use_are_found() {
    let tree: UseTree = syn::parse_quote!(self::a::{B, c::D as E, f::{self}});
    let found: Vec<String> = leaves(&tree, Vec::new()).iter().map(|(path, name)| shown(path, name)).collect();
    assert_eq!(found, ["self::a::B", "self::a::c::D as E", "self::a::f"]);
}
