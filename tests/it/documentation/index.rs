//! The index of the documentation.

use std::collections::BTreeSet;

use super::{Page, assert_none, pages};

#[test]
fn readme_lists_every_page_of_docs() {
    let pages = pages();
    let readme = pages.iter().find(|page| page.path == "README.md").unwrap();
    let linked = linked_paths(readme);
    let in_docs = pages.iter().filter(|page| page.path.starts_with("docs/"));
    let missing = in_docs.filter(|page| !linked.contains(&*page.path));
    assert_none(missing.map(|page| format!("README.md does not link {}", page.path)));
}

#[test]
fn japanese_readme_links_the_same_pages() {
    let pages = pages();
    let linked = |path| linked_paths(pages.iter().find(|page| page.path == path).unwrap());
    let english = linked("README.md").into_iter().filter(|path| *path != "README.ja.md");
    let japanese = linked("README.ja.md").into_iter().filter(|path| *path != "README.md");
    assert_eq!(english.collect::<Vec<_>>(), japanese.collect::<Vec<_>>());
}

fn linked_paths(page: &Page) -> BTreeSet<&str> {
    page.links.iter().map(|link| link.text.split('#').next().unwrap_or_default()).collect()
}
