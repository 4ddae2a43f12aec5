//! `halo-relay send-test`: one marked message through the real channel, and what it answered.

use clap::Args;

use super::render::{find, message};
use super::{Common, Failure, exit, output, place, small_runtime};
use crate::clock::Clock;
use crate::config::{self, LoadOptions, Secrets};
use crate::deliver::{Clients, Notifier};
use crate::model::{Event, Outcome, Report};

#[derive(Debug, Args)]
pub struct SendTest {
    /// The destination
    destination: String,
    /// Send the sample event of this key
    #[arg(long, default_value = "website-cert-expiring")]
    key: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl SendTest {
    pub fn run(self, common: &Common) -> Result<(), Failure> {
        let event = place::sample_event(&self.key)?;
        let options = LoadOptions { sources: Secrets::Skipped, ..LoadOptions::default() };
        let config = config::load(&common.config, &options)?;
        let (name, destination) = find(&config, &self.destination)?;
        let report = small_runtime()?.block_on(async {
            let message = message(&config, &name, &event, None, true)?;
            let clients = Clients::new().map_err(|error| Failure::new(exit::FINDINGS, error.to_string()))?;
            let notifier = Notifier::new(&destination.settings, &clients)
                .map_err(|error| Failure::new(exit::CONFIG, format!("destination {name}: {error}")))?;
            Ok::<_, Failure>(notifier.send(&message, Clock::start().now()).await)
        })?;
        if self.json {
            output::say_json(&serde_json::json!({
                "destination": self.destination,
                "key": event.key.as_str(),
                "outcome": report.outcome.name(),
                "status": report.status,
                "detail": report.detail,
            }))?;
        }
        tell(&self.destination, &event, &report, self.json)
    }
}

/// What is good goes to standard output, unless JSON has been printed there; what is not is complained of in either case.
fn tell(destination: &str, event: &Event, report: &Report, printed: bool) -> Result<(), Failure> {
    let status = report.status.map(|status| format!(" ({status})")).unwrap_or_default();
    let told = format!("{}{status}: {}", report.outcome.name(), report.detail);
    if report.outcome == Outcome::Delivered {
        if printed {
            return Ok(());
        }
        return output::say(&format!("a test of {} was sent to {destination}; {told}", event.key));
    }
    let hint = match report.outcome {
        Outcome::RefusedDestination => "check the destination's URL and credentials",
        Outcome::RefusedContent => "check the destination's template with `halo-relay render`",
        Outcome::Throttled { .. } => "it asks for a pause; try again later",
        Outcome::Ambiguous => "it may have arrived all the same: look there",
        _ if report.status.is_some() => "the receiver has trouble of its own; try again later",
        _ => "check the address, and the network between here and there",
    };
    Err(Failure::new(exit::UNREACHABLE, format!("{destination} did not confirm the test; {told}; {hint}")))
}
