//! Hostile values of the parameter `next` (B-10), kept in `hostile_next.txt`, one JSON string a line.

use std::collections::BTreeSet;

use sekisho::next::Next;
use url::Url;

/// The public origin against which browsers resolve a redirect.
const ORIGIN: &str = "https://app.example";

/// The values in the file, which tests in a browser use too.
pub(crate) fn values() -> Vec<String> {
    file().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn file() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/hostile_next.txt")).unwrap()
}

#[test]
fn hostile_values_stay_on_the_origin() {
    let origin = Url::parse(ORIGIN).unwrap();
    for value in values() {
        let next = Next::parse_outside(&value, "/auth").unwrap_or(Next::ROOT);
        let target = origin.join(next.as_str()).unwrap();
        assert_eq!(target.as_str(), "https://app.example/", "{value:?}");
    }
}

/// The list is worth its lines only if many of its values lead elsewhere without the check. Others do so once a proxy has
/// decoded them, or lead to a loop.
#[test]
fn hostile_values_leave_the_origin_without_the_check() {
    let origin = Url::parse(ORIGIN).unwrap();
    let leaves = |value: &String| origin.join(value).is_ok_and(|target| target.origin() != origin.origin());
    let leaving = values().iter().filter(|value| leaves(value)).count();
    assert!(leaving >= 100, "{leaving}");
}

/// To write the file anew, print the result of [`recipe`] to it.
#[test]
fn hostile_values_follow_the_recipe() {
    let expected = recipe();
    assert!(expected.len() >= 500, "{}", expected.len());
    let text: String = expected.iter().map(|value| serde_json::to_string(value).unwrap() + "\n").collect();
    assert!(text == file(), "hostile_next.txt should be:\n{text}");
}

/// Returns every hostile beginning with every other host, and values that are hostile by themselves.
fn recipe() -> BTreeSet<String> {
    let mut values: BTreeSet<String> = STANDALONE.iter().map(|value| (*value).to_owned()).collect();
    for beginning in beginnings() {
        values.extend(HOSTS.iter().map(|host| format!("{beginning}{host}")));
    }
    values.extend(LOOPS.iter().flat_map(|page| [format!("/auth/{page}"), format!("/auth/{page}?next=/a")]));
    values.insert(format!("/{}", "a".repeat(2_048)));
    values.insert(format!("/?{}", "a".repeat(2_047)));
    values
}

/// Returns all pairs of slashes and what browsers, proxies and applications may read as one, with a character in
/// between that they may remove, and the schemes.
fn beginnings() -> Vec<String> {
    let pairs = SLASHES.iter().flat_map(|first| SLASHES.iter().map(move |second| (first, second)));
    let mut beginnings: Vec<_> = pairs.map(|(first, second)| format!("{first}{second}")).collect();
    for removed in REMOVED {
        beginnings.extend([format!("/{removed}/"), format!("{removed}//"), format!("/{removed}\\")]);
    }
    beginnings.extend(SCHEMES.iter().map(|scheme| (*scheme).to_owned()));
    beginnings.extend(DOTS.iter().map(|dots| format!("/{dots}//")));
    beginnings
}

const HOSTS: [&str; 4] = ["evil.example", "app.example@evil.example/", "0x7f000001", "evil.example%2f..?a=b"];

const SLASHES: [&str; 8] = ["/", "\\", "%2f", "%5C", "%252F", "%255c", "%25252f", "%2%66"];

const REMOVED: [&str; 12] =
    ["\t", "\n", "\r", "\u{b}", "\0", " ", "%09", "%0a", "%0D", "%00", "%2509", "\u{200b}"];

const SCHEMES: [&str; 18] = [
    "https://",
    "https:",
    "http:/",
    "http:\\\\",
    "HTTPS:///",
    "ht\ntps://",
    " https://",
    "\u{1}https://",
    "javascript:alert(1)//",
    "java\tscript:alert(1)//",
    "data:text/html,",
    "vbscript:",
    "file:///",
    "blob:https://",
    "ws://",
    "view-source:https://",
    "https://app.example.",
    "https://app.example@",
];

const DOTS: [&str; 12] =
    [".", "..", "%2e", "%2E.", ".;a", "..;", "a/..", "a/%2e%2e", "a/%252e%252e", "a/..%2f", "./.", "a/../.."];

const LOOPS: [&str; 8] =
    ["sign-in", "sign-out", "continue", "logout", "%73ign-in", "%2573ign-out", "continue;a=b", "sign-in/"];

const STANDALONE: [&str; 30] = [
    "",
    " ",
    "*",
    ".",
    "..",
    "@evil.example",
    "evil.example",
    "evil.example/",
    ":443/evil.example",
    ":@evil.example",
    "?next=/a",
    "#/a",
    "/a#b",
    "/#//evil.example",
    "/a\r\nLocation: https://evil.example",
    "/a%0d%0aLocation:%20https://evil.example",
    "/a%00b",
    "/a b",
    "/\u{ff0f}evil.example",
    "\u{ff0f}/evil.example",
    "/\u{2044}/evil.example",
    "/caf\u{e9}",
    "/\u{202e}elpmaxe.live//",
    "/<script>alert(1)</script>",
    "/\"onmouseover=alert(1)",
    "/a//b",
    "/a/../b",
    "/a\\b",
    "/a/%2e%2e%2f%2fevil.example",
    "/\u{7f}/evil.example",
];
