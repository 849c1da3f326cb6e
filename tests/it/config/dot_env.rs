//! The file `.env`, which other programs read as well.

use super::ConfigFixture;

fn issuer_of(text: impl AsRef<[u8]>) -> Result<String, String> {
    let fixture = ConfigFixture::new();
    std::fs::write(fixture.path(".env"), text).unwrap();
    match fixture.load() {
        Ok(loaded) => Ok(loaded.config.tokens.issuer),
        Err(_) => Err(fixture.error()),
    }
}

/// D4: lines of other programs stopped the start.
#[test]
fn lines_of_other_programs_are_ignored() {
    for foreign in [
        "GREETING=hello to all of you",
        r#"SETTINGS={"a": [1, 2], "b": "it's"}"#,
        r"WINDOWS_PATH=C:\Users\me\new",
        "QUOTE=it's",
        "OPEN=\"never closed",
        "OPEN='never closed",
        "JUST_A_NAME",
        "name with spaces = 1",
        "export UNSET_NAME",
        "YAML: value",
        "[section]",
        "A=$UNDEFINED_NAME and ${B",
        "PEM=\"-----BEGIN KEY-----\nSEKISHO_TOKENS__ISSUER=inside\n-----END KEY-----\"",
        "KEY='{\n  \"SEKISHO_TOKENS__ISSUER\": 1\n}' # a comment",
        "=",
        "\u{1}",
    ] {
        for text in [
            format!("{foreign}\nSEKISHO_TOKENS__ISSUER=ours\n"),
            format!("SEKISHO_TOKENS__ISSUER=ours\n{foreign}\n"),
            format!("\u{feff}SEKISHO_TOKENS__ISSUER=ours\r\n{foreign}"),
            format!("{foreign}\n  export SEKISHO_TOKENS__ISSUER = \"ours\" # comment\n{foreign}"),
        ] {
            assert_eq!(issuer_of(&text).as_deref(), Ok("ours"), "{text}");
        }
    }
    // Another encoding.
    assert_eq!(issuer_of(b"NAME=caf\xe9\nSEKISHO_TOKENS__ISSUER=ours\n").as_deref(), Ok("ours"));
}

/// D4: the message named line 1.
#[test]
fn errors_name_the_line_of_a_variable() {
    let expected = "expected NAME=value; values with spaces or # in them need quotes";
    for (text, line, problem) in [
        ("A=b c\nSEKISHO_TOKENS__ISSUER=a b\n", 2, expected),
        ("A='x\ny'\n\nSEKISHO_TOKENS__ISSUER='a\nb\n", 4, expected),
        ("# comment\nA={\"b\": 1}\n  export SEKISHO_TOKENS__ISSUER=\"a", 3, expected),
        ("\u{feff}\nSEKISHO_NOTE\n", 2, expected),
        ("A=1\nSEKISHO_TOKENS__SECRET=hunter2$def\n", 2, "$ refers to a variable that is not defined"),
        ("SEKISHO_TOKENS__SECRET=\"hunter2${B}\"\nB=1\n", 1, "$ refers to a variable that is not defined"),
    ] {
        let error = issuer_of(text).unwrap_err();
        assert!(error.starts_with(&format!("./.env, line {line}: {problem}")), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = issuer_of(b"A=1\nSEKISHO_TOKENS__ISSUER=caf\xe9\n").unwrap_err();
    assert_eq!(error, "./.env, line 2: the value is not UTF-8");
    let utf16: Vec<u8> =
        "\u{feff}SEKISHO_TOKENS__ISSUER=a".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(issuer_of(utf16).unwrap_err(), "./.env, line 1: the file is in UTF-16: save it as UTF-8");
}

#[test]
fn defined_names_are_replaced() {
    for (text, issuer) in [
        ("ZZHOST=db\nSEKISHO_TOKENS__ISSUER=a-$ZZHOST", "a-db"),
        ("ZZ_HOST=db\nSEKISHO_TOKENS__ISSUER=\"${ZZ_HOST}-a\"", "db-a"),
        ("SEKISHO_TOKENS__ISSUER='a$b'", "a$b"),
        ("SEKISHO_TOKENS__ISSUER=a\\$b", "a$b"),
        ("SEKISHO_TOKENS__ISSUER=a\nSEKISHO_TOKENS__ISSUER=b", "b"),
    ] {
        assert_eq!(issuer_of(text).as_deref(), Ok(issuer), "{text}");
    }
}
