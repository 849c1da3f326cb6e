//! The program `sekisho`: parses the arguments, runs the command, exits with its code.

use sekisho::cli::{self, Exit};

fn main() -> Exit {
    cli::run(std::env::args_os())
}
