//! Microsoft Teams: a Workflows URL that takes an Adaptive Card.
//!
//! "Accepted" is all that Teams ever says: the flow posts the card after it has answered 202, and a failure there is
//! seen in the flow's own run history only.
//!
//! - The trigger and its URL: <https://learn.microsoft.com/en-us/connectors/teams/#when-a-teams-webhook-request-is-received>
//! - The message envelope: <https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using>

use serde_json::{Value, json};

use super::contract::{self, Parts, Row, Seen, THROTTLED};
use super::http::{self, Answer, Clients, Endpoint, UrlProblem, is_within};
use super::{BuildError, wrong_content};
use crate::model::{Channel, Content, Message, Outcome, Report, Secret, Timestamp};

/// The "When a Teams webhook request is received" URL; its `sig` is the credential.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub url: Secret,
}

/// Whether `url` can be a Workflows URL; refuses the connectors that Microsoft has switched off, and a URL that was cut at
/// its first `&`. Hosts other than Microsoft's are accepted: proxies and gateways.
pub fn check_url(url: &str, allow_http: bool) -> Result<(), UrlProblem> {
    let url = http::check_url(url, allow_http)?;
    let host = url.host_str().unwrap_or_default();
    let outlook = matches!(host, "outlook.office.com" | "outlook.office365.com");
    if is_within(host, "webhook.office.com") || (outlook && url.path().starts_with("/webhook")) {
        return Err(UrlProblem::new(
            "this is an Office 365 connector, a kind of webhook that Microsoft switched off in May 2026",
            "in Teams, add the workflow \"Send webhook alerts to a channel\" and use the URL that it shows",
        ));
    }
    let microsoft = ["api.powerplatform.com", "logic.azure.com"].iter().any(|domain| is_within(host, domain));
    if microsoft && !url.query_pairs().any(|(name, value)| name == "sig" && !value.is_empty()) {
        return Err(UrlProblem::new(
            "the Workflows URL has no `sig`, its credential",
            "copy the whole URL and quote it (a shell cuts it at the first `&`); the trigger must allow \"anyone\"",
        ));
    }
    Ok(())
}

#[derive(Debug)]
pub struct Teams {
    endpoint: Endpoint,
}

impl Teams {
    pub(super) fn new(settings: &Settings, clients: &Clients) -> Result<Self, BuildError> {
        Ok(Self { endpoint: Endpoint::new(&settings.url, clients)? })
    }

    pub(super) async fn send(&self, message: &Message, now: Timestamp) -> Report {
        let Some(body) = envelope(&message.content) else { return wrong_content(Channel::Teams) };
        match self.endpoint.post(http::json_headers(), http::json_body(&body), now).await {
            Ok(answer) => judge(&answer),
            Err(report) => report,
        }
    }
}

/// Exactly what the flow's template loops over. Anything else is answered 202 and fails afterwards, unseen.
pub(super) fn envelope(content: &Content) -> Option<Value> {
    let Content::Json(card @ Value::Object(_)) = content else { return None };
    Some(json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": card,
        }],
    }))
}

/// "Accepted" is success. Another 2xx comes from a gateway or a flow with an answer of its own, and counts as well, unless its
/// text tells a failure, as the old connectors' did, or is a web page, as a sign-in proxy's is.
pub(super) const WORKFLOW: Parts = &[
    &[
        Row {
            seen: Seen::Status(&[202]),
            outcome: Outcome::Delivered,
            why: "The flow has the message. What it does with it shows in its run history only",
            source: TRIGGER,
        },
        Row {
            seen: Seen::Told("another 2xx that is cut, a web page or no text", is_no_answer),
            outcome: Outcome::Ambiguous,
            why: "Somebody else answered, such as a sign-in page",
            source: "",
        },
        Row {
            seen: Seen::Told("another 2xx, text with `HTTP error 429`", |answer| tells(answer, "http error 429")),
            outcome: THROTTLED,
            why: "More than four requests a second",
            source: CONNECTORS,
        },
        Row {
            seen: Seen::Told("another 2xx, text with `HTTP error 413`", |answer| tells(answer, "http error 413")),
            outcome: Outcome::RefusedContent,
            why: "More than 28 KB",
            source: CONNECTORS,
        },
        Row {
            seen: Seen::Told("another 2xx, text with `error` or `failed`", |answer| {
                tells(answer, "error") || tells(answer, "failed")
            }),
            outcome: Outcome::Transient,
            why: "The text tells a failure",
            source: CONNECTORS,
        },
        Row {
            seen: Seen::Statuses(200, 299),
            outcome: Outcome::Delivered,
            why: "A gateway, or a flow with an answer of its own",
            source: "",
        },
    ],
    contract::PAUSE,
    &[Row {
        seen: Seen::Words(&[
            "DirectApiAuthorizationRequired",
            "TriggerInputSchemaMismatch",
            "WorkflowDisabled",
            "WorkflowNotFound",
            "WorkflowTriggerIsNotEnabled",
        ]),
        outcome: Outcome::RefusedDestination,
        why: "The flow is off, deleted, or asks for something else than a Teams webhook request; mostly told with HTTP 400",
        source: "https://learn.microsoft.com/en-us/power-automate/error-reference",
    }],
    contract::NOT_TAKEN,
    contract::GATEWAY_IN_DOUBT,
    contract::FAILED,
];

const TRIGGER: &str = "https://learn.microsoft.com/en-us/connectors/teams/#when-a-teams-webhook-request-is-received";
const CONNECTORS: &str =
    "https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/add-incoming-webhook";

pub(super) fn judge(answer: &Answer) -> Report {
    let code = error_code(answer);
    let outcome = contract::decide(WORKFLOW, answer, code.as_deref());
    let note = match outcome {
        Outcome::Ambiguous if answer.status < 300 => Some("not an answer that a Teams workflow gives"),
        Outcome::Delivered => None,
        _ if answer.status < 300 => Some("the answer's text tells a failure"),
        _ => code.as_deref(),
    };
    answer.report(outcome, note)
}

fn is_no_answer(answer: &Answer) -> bool {
    let text = str::from_utf8(&answer.body);
    is_success(answer) && (!answer.whole || text.is_err() || answer.text().starts_with('<'))
}

/// "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429 with …"
fn tells(answer: &Answer, words: &str) -> bool {
    is_success(answer) && answer.text().to_ascii_lowercase().contains(words)
}

fn is_success(answer: &Answer) -> bool {
    (200..300).contains(&answer.status)
}

/// Power Automate's reason, such as `WorkflowTriggerIsNotEnabled`; never its message, which can quote the URL.
fn error_code(answer: &Answer) -> Option<String> {
    let body = answer.json()?;
    let code = body.pointer("/error/code")?.as_str()?;
    let plain = (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain.then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details() {
        let detail = |body: &str| judge(&Answer { status: 404, body: body.into(), ..Answer::default() }).detail;
        let body = r#"{"error":{"code":"WorkflowTriggerIsNotEnabled","message":"sig=s3cret"}}"#;
        assert_eq!(detail(body), "HTTP 404: WorkflowTriggerIsNotEnabled");
        assert_eq!(detail(r#"{"error":{"code":"sig=s3cret"}}"#), "HTTP 404");
        assert_eq!(detail("s3cret"), "HTTP 404");
    }

    #[test]
    fn urls() {
        let good = [
            "https://e1.environment.api.powerplatform.com:443/powerautomate/automations/direct/workflows/0a/triggers/manual/paths/invoke?api-version=1&sp=%2Ftriggers&sv=1.0&sig=s3cret",
            "https://prod-01.westeurope.logic.azure.com:443/workflows/0a/triggers/manual/paths/invoke?api-version=2016-06-01&sig=s3cret",
            "https://gateway.example.org/teams",
            "http://localhost:9000/teams",
        ];
        for url in good {
            assert_eq!(check_url(url, false), Ok(()), "{url}");
        }
        let bad = [
            ("https://acme.webhook.office.com/webhookb2/s3cret", "this is an Office 365 connector"),
            ("https://outlook.office.com/webhook/s3cret", "this is an Office 365 connector"),
            ("https://outlook.office365.com/webhook/s3cret", "this is an Office 365 connector"),
            (
                "https://prod-01.westeurope.logic.azure.com:443/workflows/s3cret?api-version=2016-06-01",
                "the Workflows URL",
            ),
            ("https://e1.environment.api.powerplatform.com/s3cret?sig=", "the Workflows URL has no `sig`"),
            ("http://gateway.example.org/s3cret", "the URL is plain `http`"),
        ];
        for (url, message) in bad {
            let problem = check_url(url, false).unwrap_err();
            assert!(problem.message.starts_with(message), "{url}: {problem}");
            assert!(!problem.to_string().contains("s3cret"), "{problem}");
        }
    }
}
