//! The program `sekisho`: parses the arguments, runs the command, exits with its code.

use mimalloc::MiMalloc;
use sekisho::cli::{self, ExitStatus};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitStatus {
    cli::run(std::env::args_os())
}
