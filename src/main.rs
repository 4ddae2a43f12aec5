//! Parses the command line and runs the command; everything else is the library.

use std::process::ExitCode;

use clap::Parser;
use halo_relay::cli::{self, Cli};

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
