//! What the relay says of itself: logs on stderr, and the metrics.

pub mod metrics;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

pub use metrics::Metrics;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line each.
    #[default]
    Text,
    /// One JSON object each.
    Json,
}

/// Only our own lines by default: what libraries log at `info` is noise, and at `debug` some print what they send.
const DEFAULT_FILTER: &str = "halo_relay=info,warn";

/// These write request heads, addresses or payloads at the levels below `warn`; a relay's log must not hold secrets at any
/// level, so no filter can lower them.
const NEVER_BELOW_WARN: [&str; 8] =
    ["hyper", "hyper_util", "reqwest", "rustls", "h2", "lettre", "rustls_platform_verifier", "handlebars"];

/// Starts logging to stderr. `filter` is in the syntax of `RUST_LOG` (`debug`, `halo_relay::dispatch=trace`).
pub fn start_logging(format: LogFormat, filter: Option<&str>) -> anyhow::Result<()> {
    let variable = || std::env::var("RUST_LOG").ok().map(|asked| ("RUST_LOG", asked));
    let asked = filter.map(|asked| ("--log", asked.to_owned())).or_else(variable);
    let (from, asked) = asked.filter(|(_, asked)| !asked.is_empty()).unwrap_or(("", DEFAULT_FILTER.to_owned()));
    let mut filter = EnvFilter::try_new(&asked)
        .map_err(|error| anyhow::anyhow!("{from} {asked:?} is not a log filter, as `debug` is: {error}"))?;
    for library in NEVER_BELOW_WARN {
        filter = filter.add_directive(format!("{library}=warn").parse()?);
    }
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_span_events(FmtSpan::NONE);
    // The journal stamps each line itself.
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let started = match format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Text if in_journal => builder.without_time().with_target(false).with_ansi(false).try_init(),
        LogFormat::Text => builder.with_target(false).with_ansi(colour).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("failed to start logging: {error}"))
}
