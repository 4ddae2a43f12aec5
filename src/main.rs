//! Parses the command line and runs the command; everything else is the library.

use std::process::ExitCode;

use clap::Parser;
use halo_relay::cli::{self, Cli};

/// Most of what an event costs in memory is taken and given back by different threads, at which the C library's allocator
/// is slow.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
