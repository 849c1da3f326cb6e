use secrecy::ExposeSecret;

use super::csv::NO_COLUMNS;
use super::*;
use crate::models::user::Role;

const HASH: &str = "$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW";
const SHA256_HASH: &str =
    "$bcrypt-sha256$v=2,t=2b,r=12$n79VH.0Q2TMWmt3Oqt9uku$Kq4Noyk3094Y2QlB8NdRT8SvGiI4ft2";

fn csv(text: &str) -> Result<Vec<HashedUser>, Vec<ImportError>> {
    parse(text.as_bytes(), Format::Csv, |_| {})
}

fn json(text: &str) -> Result<Vec<HashedUser>, Vec<ImportError>> {
    parse(text.as_bytes(), Format::JsonLines, |_| {})
}

fn reasons(result: Result<Vec<HashedUser>, Vec<ImportError>>) -> Vec<String> {
    result.expect_err("bad lines").iter().map(ToString::to_string).collect()
}

#[test]
fn csv_with_all_columns() {
    let text = format!(
        "\u{feff}email, hashed_password, name, role, disabled\r\n\
         Ada@Example.com, {HASH},\"Lovelace, Ada\", admin, true\r\n\
         \r\n\
         bob@example.com,\"{SHA256_HASH}\",,,\r\n"
    );
    let users = csv(&text).unwrap();
    assert_eq!(
        (users[0].email.as_str(), users[0].name.as_deref()),
        ("ada@example.com", Some("Lovelace, Ada"))
    );
    assert_eq!((users[0].role, users[0].disabled), (Role::Admin, true));
    assert_eq!(users[0].hashed_password.expose_secret(), HASH);
    assert_eq!((users[1].email.as_str(), &users[1].name), ("bob@example.com", &None));
    assert_eq!((users[1].role, users[1].disabled), (Role::User, false));
    assert!(!format!("{users:?}").contains("EixZa"), "hashes stay out of logs");
}

#[test]
fn columns_come_in_any_order_but_must_be_known() {
    let users = csv(&format!("hashed_password,email\n{HASH},ada@example.com\n")).unwrap();
    assert_eq!(users[0].email, "ada@example.com");
    for (header, reason) in [
        ("emial,hashed_password", "line 1: unknown column emial: did you mean email?"),
        (
            "email,hashed_password,shoe",
            "line 1: unknown column shoe: there are email, hashed_password, name, role, disabled",
        ),
        ("email,hashed_password,email", "line 1: column email comes twice"),
        (
            "email,name",
            "line 1: column hashed_password is missing: the first line names the columns, email and hashed_password among them",
        ),
        ("", "line 2: unknown column x: there are email, hashed_password, name, role, disabled"),
    ] {
        assert_eq!(reasons(csv(&format!("{header}\nx,y\n"))), [reason]);
    }
}

#[test]
fn a_csv_file_without_any_line_has_no_columns() {
    assert_eq!(reasons(csv("\r\n")), [format!("line 1: {NO_COLUMNS}")]);
}

#[test]
fn every_bad_csv_line_is_named() {
    let text = format!(
        "email,hashed_password,role,disabled\n\
         ada@example.com,{HASH},,\n\
         invalid,{HASH},,\n\
         bob@example.com,hunter2,,\n\
         ADA@example.com,{HASH},,\n\
         eve@example.com,{HASH},root,\n\
         dan@example.com,{HASH},,maybe\n\
         fay@example.com,{HASH}\n\
         \"multi\nline@example.com\",{HASH},,\n\
         gus@example.com,{HASH},user,false\n"
    );
    assert_eq!(
        reasons(csv(&text)),
        [
            "line 3: email: expected an e-mail address such as ada@example.com",
            &format!("line 4: hashed_password: {}", hash::EXPECTED),
            "line 5: email: ada@example.com is on line 2 already",
            "line 6: role: expected user or admin",
            "line 7: disabled: expected true or false",
            "line 8: expected 4 fields, found 2: values with commas need quotes",
            "line 9: email: expected an e-mail address such as ada@example.com",
        ]
    );
}

#[test]
fn a_csv_line_that_is_no_text_is_named() {
    let mut text = b"email,hashed_password\n\xff@example.com,x\n".to_vec();
    text.extend(format!("invalid,{HASH}\n").as_bytes());
    let result = parse(&text[..], Format::Csv, |_| {});
    assert_eq!(
        reasons(result),
        [
            "line 2: is not UTF-8: save the file as UTF-8",
            "line 3: email: expected an e-mail address such as ada@example.com"
        ]
    );
}

#[test]
fn json_lines() {
    let text = format!(
        "\u{feff}{{\"email\": \"Ada@Example.com\", \"hashed_password\": \"{HASH}\", \"role\": \"admin\"}}\n\n\
         {{\"email\": \"bob@example.com\", \"hashed_password\": \"{HASH}\", \"name\": null, \"disabled\": true}}"
    );
    let users = json(&text).unwrap();
    assert_eq!((users[0].email.as_str(), users[0].role), ("ada@example.com", Role::Admin));
    assert_eq!((users[1].disabled, &users[1].name), (true, &None));
    assert!(json("").unwrap().is_empty());
}

#[test]
fn every_bad_json_line_is_named() {
    let text = format!(
        "{{\"email\": \"a@example.com\"}}\n\
         {{\"email\": \"a@example.com\", \"hashed_password\": \"{HASH}\", \"shoe\": 44}}\n\
         not json\n\
         {{\"email\": 5, \"hashed_password\": \"{HASH}\"}}\n\
         {{\"email\": \"a@example.com\", \"hashed_password\": \"{HASH}\"}}\n\
         {{\"email\": \"a@example.com\", \"email\": \"b@example.com\", \"hashed_password\": \"{HASH}\"}}\n\
         []\n"
    );
    let reasons = reasons(json(&text));
    assert_eq!(reasons.len(), 6, "{reasons:?}");
    assert!(reasons[0].starts_with("line 1: missing field `hashed_password`"), "{reasons:?}");
    assert!(reasons[1].starts_with("line 2: unknown field `shoe`, expected one of `email`"), "{reasons:?}");
    assert!(reasons[2].starts_with("line 3: expected ident"), "{reasons:?}");
    assert!(reasons[3].starts_with("line 4: invalid type: integer `5`, expected a string"), "{reasons:?}");
    assert!(reasons[4].starts_with("line 6: duplicate field `email`"), "{reasons:?}");
    assert!(reasons[5].starts_with("line 7: "), "{reasons:?}");
}

#[test]
fn the_format_is_told_by_name_or_beginning() {
    for (name, beginning, format) in [
        ("users.CSV", "{", Format::Csv),
        ("users.jsonl", "email", Format::JsonLines),
        ("users.ndjson", "", Format::JsonLines),
        ("users", "\u{feff} {", Format::JsonLines),
        ("users.txt", "email,", Format::Csv),
    ] {
        assert_eq!(Format::of(Path::new(name), beginning.as_bytes()), format, "{name}");
    }
}

#[test]
fn progress_reaches_the_end() {
    let csv = format!("email,hashed_password\nada@example.com,{HASH}\nbob@example.com,{HASH}\n");
    let json = format!("{{\"email\": \"ada@example.com\", \"hashed_password\": \"{HASH}\"}}\n");
    for (text, format) in [(csv, Format::Csv), (json, Format::JsonLines)] {
        let mut last = 0;
        parse(text.as_bytes(), format, |bytes| last = bytes).unwrap();
        assert_eq!(last, text.len() as u64, "{format:?}");
    }
}
