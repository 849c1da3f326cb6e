//! `sekisho completions`.

use clap::{Args, Command};
use clap_complete::Shell;

use super::error::CliError;
use super::output;

/// Arguments of `sekisho completions`.
#[derive(Args, Clone, Copy, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Prints the script that completes the arguments of `command`.
pub(super) fn run(args: CompletionsArgs, command: &mut Command) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "sekisho", &mut script);
    output::print_bytes(&script)
}

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho completions bash > /etc/bash_completion.d/sekisho
  sekisho completions zsh > /usr/local/share/zsh/site-functions/_sekisho
  sekisho completions fish > ~/.config/fish/completions/sekisho.fish";
