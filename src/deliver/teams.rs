//! Microsoft Teams: a Workflows URL that takes an Adaptive Card.
//!
//! "Accepted" is all that Teams ever says: the flow posts the card after it has answered 202, and a failure there is
//! seen in the flow's own run history only.
//!
//! - The trigger and its URL: <https://learn.microsoft.com/en-us/connectors/teams/#when-a-teams-webhook-request-is-received>
//! - The message envelope: <https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using>

use serde_json::{Value, json};

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
        match self.endpoint.post(http::json_headers(), body.to_string().into_bytes(), now).await {
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

/// 202 is the flow's own answer. Another 2xx comes from a gateway or a flow with an answer of its own: it is a success
/// unless its text tells a failure, as the old connectors' did, or is a web page, as a sign-in proxy's is.
fn judge(answer: &Answer) -> Report {
    let outcome = match answer.common() {
        Outcome::Delivered if answer.status == 202 => Outcome::Delivered,
        Outcome::Delivered => judge_text(answer),
        outcome => outcome,
    };
    let note = match outcome {
        Outcome::Delivered => None,
        Outcome::Ambiguous => Some("not an answer that a Teams workflow gives".to_owned()),
        _ if answer.status < 300 => Some("the answer's text tells a failure".to_owned()),
        _ => error_code(answer),
    };
    answer.report(outcome, note.as_deref())
}

fn judge_text(answer: &Answer) -> Outcome {
    let text = answer.text().to_ascii_lowercase();
    if !answer.whole || text.starts_with('<') || str::from_utf8(&answer.body).is_err() {
        return Outcome::Ambiguous;
    }
    if !text.contains("error") && !text.contains("failed") {
        return Outcome::Delivered;
    }
    // "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429 with …"
    match ["429", "413"].into_iter().find(|status| text.contains(&format!("http error {status}"))) {
        Some("429") => Outcome::Throttled { wait: answer.retry_after },
        Some(_) => Outcome::RefusedContent,
        None => Outcome::Transient,
    }
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
    use std::time::Duration;

    use super::*;

    #[test]
    fn answers() {
        let old =
            |status| format!("Webhook message delivery failed with error: endpoint returned HTTP error {status} with");
        let cases = [
            (202, String::new(), "delivered"),
            (202, "error".to_owned(), "delivered"),
            (200, String::new(), "delivered"),
            (200, "1".to_owned(), "delivered"),
            (200, r#"{"status":"queued"}"#.to_owned(), "delivered"),
            (204, String::new(), "delivered"),
            (200, old(400), "transient"),
            (200, old(413), "refused_content"),
            (200, old(429), "throttled"),
            (200, r#"{"error":{"code":"X"}}"#.to_owned(), "transient"),
            (200, "<html>Sign in</html>".to_owned(), "ambiguous"),
            (301, String::new(), "refused_destination"),
            (400, String::new(), "refused_content"),
            (401, String::new(), "refused_destination"),
            (403, String::new(), "refused_destination"),
            (404, String::new(), "refused_destination"),
            (410, String::new(), "refused_destination"),
            (413, String::new(), "refused_content"),
            (429, String::new(), "throttled"),
            (500, String::new(), "transient"),
            (502, String::new(), "transient"),
        ];
        for (status, body, outcome) in cases {
            let report = judge(&Answer { status, body: body.clone().into(), whole: true, retry_after: None });
            assert_eq!((report.outcome.name(), report.status), (outcome, Some(status)), "{status} {body}");
        }
    }

    #[test]
    fn odd_answers() {
        let cut = Answer { status: 200, ..Answer::default() };
        assert_eq!(judge(&cut).outcome, Outcome::Ambiguous);
        let binary = Answer { status: 200, body: vec![0xff], whole: true, retry_after: None };
        assert_eq!(judge(&binary).outcome, Outcome::Ambiguous);
        let wait = Some(Duration::from_secs(5));
        let limited = Answer { status: 429, retry_after: wait, ..Answer::default() };
        assert_eq!(judge(&limited).outcome, Outcome::Throttled { wait });
    }

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
