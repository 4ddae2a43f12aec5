//! What the HTTP APIs of mail services are sent: whole requests, each a file `target/messages/email-SERVICE/KEY.SHAPE.json` of
//! `{method, target, headers, body}`, as the relay's own sender put them on the wire.

use std::fs;
use std::path::Path;

use halo_relay::deliver::email::api::{self, Provider, Service, ses::Credentials};
use halo_relay::deliver::email::{self, Way};
use halo_relay::deliver::{Clients, Notifier, Settings};
use halo_relay::model::{Content, DeliveryId, Message, Outcome, Secret, Timestamp};
use serde_json::{Map, Value, json};

use crate::http::{FakeHttp, Reply};

/// The mails by their names, `KEY.SHAPE`, through every service; `now` is when they leave.
pub(crate) async fn write(directory: &Path, mails: &[(String, Content)], now: Timestamp) {
    let clients = Clients::new().unwrap();
    for provider in Provider::ALL {
        let directory = directory.join(format!("email-{}", provider.name()));
        fs::create_dir_all(&directory).unwrap();
        let (service, success) = service(provider);
        let mut fake = FakeHttp::start(success).await;
        let notifier = Notifier::new(&Settings::Email(settings(service, fake.url(""))), &clients).unwrap();
        for (row, (name, content)) in (1..).zip(mails) {
            let id = DeliveryId::new("a1b2c3", row);
            let message = Message { id, content: content.clone(), thread: Some(name.clone()), reply_to: None };
            let report = notifier.send(&message, now).await;
            assert_eq!(report.outcome, Outcome::Delivered, "{provider:?} {name}: {}", report.detail);
            let request = fake.request().await;
            let headers = request.headers.into_iter().map(|(name, value)| (name, Value::from(value)));
            let document = json!({
                "method": request.method,
                "target": request.target,
                "headers": headers.collect::<Map<_, _>>(),
                "body": String::from_utf8(request.body).unwrap(),
            });
            fs::write(directory.join(format!("{name}.json")), document.to_string()).unwrap();
        }
    }
}

/// Keys as `.ci/messages` knows them, and what the service says to a mail that it takes.
fn service(provider: Provider) -> (Service, Reply) {
    let key = || Secret::new("SG.not-a-real-key".to_owned());
    let (service, answer) = match provider {
        Provider::Mailgun => {
            (Service::Mailgun { key: key(), domain: "mg.example.org".to_owned() }, (200, r#"{"id":"<x>"}"#))
        }
        Provider::Postmark => {
            (Service::Postmark { key: key(), stream: Some("alerts".to_owned()) }, (200, r#"{"ErrorCode":0}"#))
        }
        Provider::Resend => (Service::Resend { key: key() }, (200, r#"{"id":"x"}"#)),
        Provider::SendGrid => (Service::SendGrid { key: key() }, (202, "")),
        Provider::Ses => {
            let credentials = Credentials {
                access_key_id: Secret::new("AKIDEXAMPLE".to_owned()),
                secret_access_key: key(),
                session_token: Some(Secret::new("TOKEN/EXAMPLE==".to_owned())),
            };
            (Service::Ses { region: "eu-west-1".to_owned(), credentials }, (200, r#"{"MessageId":"x"}"#))
        }
    };
    (service, Reply::text(answer.0, answer.1))
}

/// Names whose punctuation a list of addresses could trip over.
fn settings(service: Service, base_url: String) -> email::Settings {
    email::Settings {
        way: Way::Api(api::Settings { service, base_url }),
        from: "\"Halo: relay\" <halo-relay@example.org>".parse().unwrap(),
        to: ["compliance@example.org", "\"On call, team 2\" <oncall@example.org>"].map(|to| to.parse().unwrap()).into(),
        name: "compliance".into(),
    }
}
