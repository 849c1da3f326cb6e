//! The program `sekisho`: parses the arguments, runs the command, exits with its code.

use mimalloc::MiMalloc;
use sekisho::cli::{self, Exit};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> Exit {
    cli::run(std::env::args_os())
}
