//! `halo-relay demo`: the real daemon on the example rules, between a simulated event API and a page that shows every
//! message. Nothing leaves the machine, nothing is kept.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{Common, Failure, exit, output, run};
use crate::app::{self, Load, Options};
use crate::config::{self, Asked, Config, Listen, LoadOptions, Problems, Secrets};
use crate::deliver::email::submission::{Server, Tls};
use crate::demo::{self, Running};
use crate::model::{Channel, Overflow};
use crate::source::poll::FirstRun;
use crate::{deliver, source, telemetry};

/// The rules the demo runs on: the example that comes with the relay.
const EXAMPLE: &str = include_str!("../../rules.example.yaml");
const EXAMPLE_NAME: &str = "rules.example.yaml";
/// The event API is simulated and near: no reason to be gentle.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Shorter than the example's, so that a scan's burst shows a digest while somebody watches.
const DIGEST_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct Demo {
    /// Where the page is
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8780", value_parser = an_address)]
    listen: SocketAddr,
    /// The same seed makes the same events
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Demo {
    pub fn run(self, common: &Common) -> Result<(), Failure> {
        if !self.listen.ip().is_loopback() {
            let port = self.listen.port();
            let message = format!(
                "--listen {}: the page has no login, so it is for this machine only; give 127.0.0.1:{port}",
                self.listen
            );
            return Err(Failure::new(exit::USAGE, message));
        }
        // The page is what to look at; the log only says what is wrong, unless asked.
        let filter = common.log.as_deref().or(Some("warn"));
        telemetry::start_logging(common.log_format, filter)
            .map_err(|error| Failure::new(exit::USAGE, format!("{error:#}")))?;
        let scratch = run::scratch_dir()?;
        run::runtime()?.block_on(async {
            let shutdown = CancellationToken::new();
            let services = demo::start(self.listen, self.seed, shutdown.clone()).await.map_err(|error| {
                let message =
                    format!("the demo cannot listen on {}: {error}; choose another with --listen", self.listen);
                Failure::new(exit::UNREACHABLE, message)
            })?;
            let services = Arc::new(services);
            let load: Load = {
                let services = Arc::clone(&services);
                Box::new(move || rules(&services))
            };
            let config = load()?;
            output::say(&welcome(&services, &config))?;
            let ended = app::run(Options { state_dir: scratch.path().to_owned(), dry_run: false }, load).await;
            shutdown.cancel();
            if let Some(services) = Arc::into_inner(services) {
                services
                    .stopped()
                    .await
                    .map_err(|error| Failure::new(exit::FINDINGS, format!("the demo's services: {error}")))?;
            }
            ended.map_err(Failure::from)
        })
    }
}

fn an_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or(8780);
    text.parse().map_err(|_| format!("give an address of this machine and a port, like 127.0.0.1:{port}"))
}

/// The example, with every secret answered, every address on this machine, and digests that do not keep one waiting.
fn rules(services: &Running) -> Result<Config, Problems> {
    let answer = |asked: &Asked<'_>| answer(services, asked);
    let options = LoadOptions {
        sources: Secrets::Answered(&answer),
        destinations: Secrets::Answered(&answer),
        ..LoadOptions::default()
    };
    let mut config = config::load_str(EXAMPLE, Path::new(EXAMPLE_NAME), &options)?;
    for source in &mut config.sources {
        match source {
            source::Settings::Halo(halo) => {
                halo.base_url = services.api_base_url();
                halo.every = POLL_EVERY;
                halo.first_run = FirstRun::All;
            }
            source::Settings::Webhook(webhook) => webhook.listen = free(webhook.listen),
        }
    }
    if let Some(Listen::Tcp(address)) = &mut config.admin {
        *address = free(*address);
    }
    for (name, destination) in &mut config.destinations {
        if let Overflow::Digest { after } = &mut destination.overflow {
            *after = DIGEST_AFTER;
        }
        if let deliver::Settings::Email(mail) = &mut destination.settings {
            mail.way = deliver::email::Way::Smtp(Server {
                host: services.smtp.ip().to_string(),
                port: services.smtp.port(),
                tls: Tls::None,
                login: None,
                ca_file: None,
            });
            mail.to.iter().for_each(|to| services.name_mailbox(to.email.as_ref(), name.as_str()));
        }
    }
    config.warnings.clear();
    Ok(config)
}

fn answer(services: &Running, asked: &Asked<'_>) -> String {
    let channel = asked.kind.parse::<Channel>().ok();
    match (asked.field, channel) {
        ("api_key", _) => services.api_key.expose().to_owned(),
        ("url", Some(channel)) => services.destination_url(channel, asked.name).unwrap_or_default(),
        ("secret", _) => DEMO_SIGNING_KEY.to_owned(),
        _ => "demo".to_owned(),
    }
}

/// Signs messages to the demo's own inbox; no secret.
const DEMO_SIGNING_KEY: &str = "whsec_ZGVtby1kZW1vLWRlbW8tZGVtby1kZW1vLWRlbW8=";

/// The address if nobody has it, else its host with a port of the system's choice: a real relay may run beside the demo.
fn free(address: SocketAddr) -> SocketAddr {
    match TcpListener::bind(address) {
        Ok(_) => address,
        Err(_) => SocketAddr::new(address.ip(), 0),
    }
}

fn welcome(services: &Running, config: &Config) -> String {
    let push = config.sources.iter().find_map(|source| match source {
        source::Settings::Webhook(webhook) if webhook.listen.port() != 0 => {
            Some(format!("http://{}{}", webhook.listen, webhook.path))
        }
        _ => None,
    });
    let push = push.map(|url| {
        format!(
            "  post one of your own:  curl -H 'Authorization: Bearer demo' {url} \\\n                           \
             -d '{{\"event_id\": \"mine\", \"key\": \"issue-add\", \"target\": \"www.example.org\"}}'\n"
        )
    });
    format!(
        "halo-relay demo: made-up events through {EXAMPLE_NAME}, nothing leaves this machine\n\n  \
         watch the messages:    {}\n{}\nCtrl-C ends it.\n",
        services.page_url(),
        push.unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::an_address;

    #[test]
    fn an_address_needs_a_port() {
        let cases = [
            ("127.0.0.1:9000", Ok("127.0.0.1:9000")),
            ("[::1]:0", Ok("[::1]:0")),
            ("9000", Err("127.0.0.1:9000")),
            ("localhost:9000", Err("127.0.0.1:9000")),
            ("127.0.0.1", Err("127.0.0.1:8780")),
            ("", Err("127.0.0.1:8780")),
        ];
        for (text, expected) in cases {
            match (an_address(text), expected) {
                (Ok(address), Ok(expected)) => assert_eq!(address.to_string(), expected),
                (Err(help), Err(example)) => assert!(help.ends_with(example), "{text}: {help}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
