//! Links between pages, and to files of the repository.

use std::path::{Component, Path, PathBuf};

use super::markdown::Page;
use super::{assert_none, pages, root};

#[test]
fn links_lead_to_files_and_headings() {
    let pages = pages();
    assert!(pages.len() > 15, "the pages were not read");
    let broken = |page: &Page| -> Vec<String> {
        let links = page.links.iter().filter(|link| !is_external(&link.text));
        links
            .filter_map(|link| check(&pages, page, &link.text).err().map(|error| (link, error)))
            .map(|(link, error)| format!("{}: {}: {error}", page.at(link.line), link.text))
            .collect()
    };
    assert_none(pages.iter().flat_map(broken));
}

fn is_external(target: &str) -> bool {
    target.contains("://") || target.starts_with("mailto:")
}

fn check(pages: &[Page], page: &Page, target: &str) -> Result<(), String> {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() { PathBuf::from(&page.path) } else { resolve(&page.path, path) };
    if !root().join(&file).exists() {
        return Err(format!("{} does not exist", file.display()));
    }
    let linked = pages.iter().find(|page| Path::new(&page.path) == file);
    match linked {
        _ if anchor.is_empty() => Ok(()),
        Some(linked) if linked.anchors.contains(anchor) => Ok(()),
        _ => Err(format!("{} has no such heading", file.display())),
    }
}

/// Resolves `path`, which starts at the directory of the file `base`.
fn resolve(base: &str, path: &str) -> PathBuf {
    let mut resolved = Path::new(base).parent().unwrap().to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::ParentDir => assert!(resolved.pop(), "{base}: {path} leaves the repository"),
            part => resolved.push(part),
        }
    }
    resolved
}

#[test]
fn broken_links_are_found() {
    let pages = [Page::parse("docs/limits.md", "# Limits\n")];
    let check = |target| check(&pages, &pages[0], target);
    assert_eq!(check("#limits"), Ok(()));
    assert_eq!(check("../README.md"), Ok(()));
    assert_eq!(check("../deploy/"), Ok(()));
    assert_eq!(check("#limit"), Err("docs/limits.md has no such heading".to_owned()));
    assert_eq!(check("README.md"), Err("docs/README.md does not exist".to_owned()));
}
