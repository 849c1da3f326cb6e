//! The reference of `docs/cli.md`, which is generated from the definitions of the commands.

use std::fmt::Write;

use clap::{Arg, Command, CommandFactory};
use sekisho::cli::Cli;

use super::generated;

#[test]
fn commands_page_agrees_with_help() {
    let mut root = Cli::command();
    root.build();
    let mut text = String::new();
    for command in root.get_subcommands_mut() {
        push_command(&mut text, command);
    }
    generated::check("docs/cli.md", &text);
}

/// Appends a command, or its subcommands if it has any.
fn push_command(text: &mut String, command: &mut Command) {
    if command.get_name() == "help" {
        return;
    }
    if command.has_subcommands() {
        command.get_subcommands_mut().for_each(|command| push_command(text, command));
        return;
    }
    let name = command.get_bin_name().unwrap().to_owned();
    let about = command.get_about().unwrap().to_string();
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    write!(text, "\n## `{name}`\n\n{about}.\n\n```text\n{usage}\n```\n").unwrap();
    let arguments: Vec<String> = command.get_arguments().filter_map(row).collect();
    if !arguments.is_empty() {
        write!(text, "\n| argument | |\n|---|---|\n{}", arguments.concat()).unwrap();
    }
    if command.get_after_help().is_some() {
        let examples = command.clone().term_width(LINE_LENGTH).help_template("{after-help}").render_help();
        write!(text, "\n```text\n{}\n```\n", examples.to_string().trim()).unwrap();
    }
}

const LINE_LENGTH: usize = 110;

/// Returns the row of an argument. Those of every command are in the text of the page.
fn row(arg: &Arg) -> Option<String> {
    if arg.is_global_set() || arg.get_id() == "help" {
        return None;
    }
    let value = arg.get_value_names().filter(|_| arg.get_action().takes_values());
    let value = value.and_then(|names| names.first()).map(ToString::to_string);
    let name = [arg.get_long().map(|long| format!("--{long}")), value];
    let name = name.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let default = arg.get_default_values().first().filter(|_| arg.get_action().takes_values());
    let default = default.map(|value| format!("; default `{}`", value.display())).unwrap_or_default();
    Some(format!("| `{name}` | {help}{default} |\n"))
}
