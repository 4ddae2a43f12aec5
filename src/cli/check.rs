//! `halo-relay check`: what is wrong with a rules file, and where.

use std::path::PathBuf;

use clap::Args;

use super::{Common, Failure, output};
use crate::config::{self, LoadOptions, Style};

#[derive(Debug, Args)]
pub struct Check {
    /// The rules file [default: that of --config]
    rules: Option<PathBuf>,
    /// Do not look for secrets: for machines that have none
    #[arg(long)]
    no_secrets: bool,
    /// Exit with 1 if there are only warnings
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub fn run(self, common: &Common) -> Result<(), Failure> {
        let path = self.rules.as_ref().unwrap_or(&common.config);
        let options = if self.no_secrets { LoadOptions::without_secrets() } else { LoadOptions::default() };
        let report = config::check(path, &options);
        if self.json {
            output::say_json(&report.json())?;
        } else {
            output::say(&report.text(Style::of(&std::io::stdout())))?;
        }
        match report.exit_code(self.strict) {
            0 => Ok(()),
            code => Err(Failure::new(code, "")),
        }
    }
}
