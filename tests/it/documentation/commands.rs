//! Examples of the command line.

use clap::{Command, CommandFactory, Parser};
use sekisho::cli::Cli;

use super::markdown::{CodeBlock, Page};
use super::{assert_none, pages, shell};

#[test]
fn commands_in_examples_are_accepted() {
    let pages = pages();
    let mut checked = 0;
    let mut errors = Vec::new();
    for (page, block) in pages.iter().flat_map(|page| page.blocks.iter().map(move |block| (page, block))) {
        for args in sekisho_commands(block) {
            checked += 1;
            errors.extend(parse_error(&args).map(|error| format!("{}: {error}", page.at(block.line))));
        }
    }
    assert_none(errors);
    assert!(checked > 10, "the examples were not read");
}

#[test]
fn commands_in_the_text_exist() {
    let root = Cli::command();
    let errors = |page: &Page| -> Vec<String> {
        let spans = page.code_spans.iter().filter(|span| span.text.starts_with("sekisho "));
        spans
            .filter_map(|span| unknown_word(&root, &span.text).map(|word| (span, word)))
            .map(|(span, word)| format!("{}: {word} in `{}`", page.at(span.line), span.text))
            .collect()
    };
    assert_none(pages().iter().flat_map(errors));
}

/// Returns the arguments of each call of the program.
fn sekisho_commands(block: &CodeBlock) -> Vec<Vec<String>> {
    let script = match &*block.language {
        "sh" => block.text.clone(),
        // A session in a terminal, with the output.
        "text" => {
            block.text.lines().filter_map(|line| line.strip_prefix("$ ")).collect::<Vec<_>>().join("\n")
        }
        _ => return Vec::new(),
    };
    shell::commands(&script).iter().filter_map(|command| arguments(command)).collect()
}

fn arguments(command: &[String]) -> Option<Vec<String>> {
    let assignments = command.iter().take_while(|word| word.contains('=')).count();
    let command = &command[assignments..];
    let command = match command {
        [sudo, option, _user, rest @ ..] if sudo == "sudo" && option == "-u" => rest,
        [sudo, rest @ ..] if sudo == "sudo" => rest,
        _ => command,
    };
    let (program, args) = command.split_first()?;
    if program == "sekisho" || program.ends_with("/sekisho") {
        return Some(args.to_vec());
    }
    let runs_program =
        program == "cargo" && args.first()? == "run" && !args.iter().any(|arg| arg == "--example");
    let separator = args.iter().position(|arg| arg == "--")?;
    runs_program.then(|| args[separator + 1..].to_vec())
}

fn parse_error(args: &[String]) -> Option<String> {
    let parsed = Cli::try_parse_from([&["sekisho".to_owned()], args].concat());
    let error = parsed.err().filter(clap::Error::use_stderr)?;
    Some(format!("sekisho {}: {error}", args.join(" ")))
}

/// Returns the first word of a command that is neither a command nor an option. `a|b` stands for two commands.
fn unknown_word(root: &Command, text: &str) -> Option<String> {
    let mut command = root;
    let mut is_value = false;
    for word in text.split_whitespace().skip(1).map(|word| word.trim_matches(['[', ']', '…'])) {
        if let Some(option) = word.strip_prefix("--") {
            let mut known = command.get_arguments().chain(root.get_arguments());
            let found = known.find(|arg| arg.get_long() == Some(option));
            is_value = found.is_some_and(|arg| arg.get_action().takes_values());
            if found.is_none() && option != "help" && option != "version" {
                return Some(word.to_owned());
            }
        } else if command.has_subcommands() && !is_value && !word.is_empty() {
            let mut names = word.split(['|', '\\']).filter(|name| !name.is_empty());
            let unknown = names.clone().find(|name| command.find_subcommand(name).is_none());
            if let Some(name) = unknown {
                return Some(name.to_owned());
            }
            command = names.next().and_then(|name| command.find_subcommand(name)).unwrap_or(command);
        } else {
            is_value = false;
        }
    }
    None
}

#[test]
fn unknown_commands_and_options_are_found() {
    let root = Cli::command();
    let unknown = |text| unknown_word(&root, text);
    assert_eq!(unknown("sekisho serve [--listen HOST:PORT]"), None);
    assert_eq!(unknown(r"sekisho session list\|revoke\|explain"), None);
    assert_eq!(unknown("sekisho --config x.toml session list --ended"), None);
    assert_eq!(unknown("sekisho session forget ID"), Some("forget".to_owned()));
    assert_eq!(unknown("sekisho serve --port 80"), Some("--port".to_owned()));
    let script =
        "cargo run --release -- demo --listen x\nsudo -u a b/sekisho serve &\nsystemctl reload sekisho";
    let block = CodeBlock { line: 1, language: "sh".to_owned(), text: script.to_owned() };
    assert_eq!(sekisho_commands(&block), [&["demo", "--listen", "x"][..], &["serve"]]);
    assert!(parse_error(&["serve".to_owned(), "--port".to_owned()]).is_some());
}
