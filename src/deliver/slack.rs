//! Slack: an incoming webhook, or `chat.postMessage` with a bot token.
//!
//! A status says little here: the Web API answers failures with 200, and a webhook names its reason in a word. So the
//! word decides first, then the status.
//!
//! - Incoming webhooks: <https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>
//! - `chat.postMessage`: <https://docs.slack.dev/reference/methods/chat.postMessage>
//! - Rate limits: <https://docs.slack.dev/apis/web-api/rate-limits>

use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde_json::Value;

use super::http::{self, Answer, Clients, Endpoint, UrlProblem, is_within};
use super::{BuildError, wrong_content};
use crate::model::{Channel, Content, Message, Outcome, Report, Secret, Timestamp};

/// Where in Slack.
#[derive(Clone, Debug, PartialEq)]
pub enum Settings {
    /// An incoming webhook; the URL is the credential.
    Webhook { url: Secret },
    /// `chat.postMessage` with a bot token (`xoxb-…`) into `channel` (`C0123…` or `#name`).
    /// `api_base` is `https://slack.com/api` but for tests and proxies.
    Bot { token: Secret, channel: String, api_base: String },
}

/// Whether `url` can be an incoming webhook; refuses the addresses of Slack that are easily taken for one.
/// Hosts other than Slack's are accepted: proxies, and chat servers that speak Slack's format.
pub fn check_url(url: &str, allow_http: bool) -> Result<(), UrlProblem> {
    let url = http::check_url(url, allow_http)?;
    let host = url.host_str().unwrap_or_default();
    let help = "create an incoming webhook for the channel and use its URL, https://hooks.slack.com/services/…";
    match host {
        "hooks.slack.com" | "hooks.slack-gov.com" if url.path().starts_with("/services/") => Ok(()),
        "hooks.slack.com" | "hooks.slack-gov.com"
            if url.path().starts_with("/triggers/") || url.path().starts_with("/workflows/") =>
        {
            Err(UrlProblem::new(
                "this is a workflow trigger: it takes declared variables, not messages, and would fail in silence",
                help,
            ))
        }
        _ if ["slack.com", "slack-gov.com"].iter().any(|domain| is_within(host, domain)) => {
            Err(UrlProblem::new("this is an address of Slack, but not an incoming webhook", help))
        }
        _ => Ok(()),
    }
}

#[derive(Debug)]
pub struct Slack {
    endpoint: Endpoint,
    bot: Option<Bot>,
}

#[derive(Debug)]
struct Bot {
    /// Marked sensitive, so that it is blank in `Debug`.
    authorization: HeaderValue,
    channel: String,
}

impl Slack {
    pub(super) fn new(settings: &Settings, clients: &Clients) -> Result<Self, BuildError> {
        match settings {
            Settings::Webhook { url } => Ok(Self { endpoint: Endpoint::new(url, clients)?, bot: None }),
            Settings::Bot { token, channel, api_base } => {
                let url = format!("{}/chat.postMessage", api_base.trim_end_matches('/'));
                let mut authorization =
                    HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(|_| BuildError::Token)?;
                authorization.set_sensitive(true);
                let bot = Bot { authorization, channel: channel.clone() };
                Ok(Self { endpoint: Endpoint::new(&Secret::new(url), clients)?, bot: Some(bot) })
            }
        }
    }

    pub(super) async fn send(&self, message: &Message, now: Timestamp) -> Report {
        let channel = self.bot.as_ref().map(|bot| bot.channel.as_str());
        let Some(body) = payload(&message.content, channel) else { return wrong_content(Channel::Slack) };
        let mut headers = http::json_headers();
        if let Some(bot) = &self.bot {
            headers.insert(AUTHORIZATION, bot.authorization.clone());
        }
        match self.endpoint.post(headers, body.to_string().into_bytes(), now).await {
            Ok(answer) if self.bot.is_some() => judge_api(&answer),
            Ok(answer) => judge_webhook(&answer),
            Err(report) => report,
        }
    }
}

/// The rendered message with what every message needs: no previews, for fetching a link of a scanned website tells its
/// owner that we looked; and the channel, where the URL does not already say it.
pub(super) fn payload(content: &Content, channel: Option<&str>) -> Option<Value> {
    let Content::Json(Value::Object(message)) = content else { return None };
    let mut message = message.clone();
    message.insert("unfurl_links".to_owned(), false.into());
    message.insert("unfurl_media".to_owned(), false.into());
    if let Some(channel) = channel {
        message.insert("channel".to_owned(), channel.into());
    }
    Some(Value::Object(message))
}

/// An incoming webhook has taken the message only if it answers 200 and exactly `ok`.
fn judge_webhook(answer: &Answer) -> Report {
    if answer.status == 200 && answer.whole && answer.text() == "ok" {
        return answer.report(Outcome::Delivered, None);
    }
    match answer.json() {
        Some(body) => judge_failure(answer, body["error"].as_str(), &body, by_status(answer)),
        None => judge_failure(answer, Some(answer.text()), &Value::Null, by_status(answer)),
    }
}

/// The Web API has taken the message only if it answers 200 and `"ok": true`.
fn judge_api(answer: &Answer) -> Report {
    let body = answer.json().unwrap_or_default();
    if answer.status == 200 && body["ok"] == true {
        return answer.report(Outcome::Delivered, None);
    }
    // `"ok": false` says that nothing was posted. With a word that Slack has added since, trying again is safe, and gives
    // up neither the message nor the destination.
    let refused = answer.status == 200 && body["ok"] == false;
    let fallback = if refused { Outcome::Transient } else { by_status(answer) };
    judge_failure(answer, body["error"].as_str(), &body, fallback)
}

/// A 2xx that is not the contract's success leaves the outcome unknown.
fn by_status(answer: &Answer) -> Outcome {
    match answer.common() {
        Outcome::Delivered => Outcome::Ambiguous,
        outcome => outcome,
    }
}

/// 429 is a pause whatever else is said; then the error word decides, then `fallback`.
fn judge_failure(answer: &Answer, word: Option<&str>, body: &Value, fallback: Outcome) -> Report {
    let word = word.filter(|word| is_word(word));
    let outcome = match word.and_then(word_outcome) {
        Some(outcome) if answer.status != 429 => outcome,
        _ => fallback,
    };
    let outcome = match outcome {
        Outcome::Throttled { .. } => {
            let asked = body["retry_after"].as_f64().and_then(http::bounded_wait);
            Outcome::Throttled { wait: answer.retry_after.or(asked) }
        }
        outcome => outcome,
    };
    let note = match (word, place(body)) {
        (Some(word), Some(place)) => Some(format!("{word} at {place}")),
        (Some(word), None) => Some(word.to_owned()),
        (None, _) if outcome == Outcome::Ambiguous => Some("not an answer that Slack gives".to_owned()),
        (None, _) => None,
    };
    answer.report(outcome, note.as_deref())
}

/// Slack's reasons are words like `invalid_blocks`; other text is not shown, for it could echo the message.
fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Which block was refused, out of `must be less than 3001 characters [json-pointer:/blocks/0/text/text]`.
fn place(body: &Value) -> Option<&str> {
    let note = body.pointer("/response_metadata/messages/0")?.as_str()?;
    let place = note.split_once("[json-pointer:")?.1.split_once(']')?.0;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_');
    (place.len() <= 80 && place.bytes().all(plain)).then_some(place)
}

/// The words of both interfaces, by what they mean for us; `None` for a word not known.
fn word_outcome(word: &str) -> Option<Outcome> {
    Some(match word {
        "ratelimited" | "rate_limited" => Outcome::Throttled { wait: None },
        "block_mismatch"
        | "invalid_arg_name"
        | "invalid_arguments"
        | "invalid_attachments"
        | "invalid_blocks"
        | "invalid_blocks_format"
        | "invalid_charset"
        | "invalid_form_data"
        | "invalid_payload"
        | "invalid_post_type"
        | "markdown_text_conflict"
        | "metadata_too_large"
        | "missing_post_type"
        | "missing_text_or_fallback_or_attachments"
        | "msg_blocks_too_long"
        | "msg_too_long"
        | "no_text"
        | "too_many_attachments" => Outcome::RefusedContent,
        "access_denied"
        | "accesslimited"
        | "account_inactive"
        | "action_prohibited"
        | "channel_is_archived"
        | "channel_not_found"
        | "ekm_access_denied"
        | "invalid_auth"
        | "invalid_token"
        | "is_archived"
        | "missing_scope"
        | "no_active_hooks"
        | "no_permission"
        | "no_service"
        | "no_service_id"
        | "no_team"
        | "not_allowed_token_type"
        | "not_authed"
        | "not_in_channel"
        | "posting_to_general_channel_denied"
        | "restricted_action"
        | "restricted_action_non_threadable_channel"
        | "restricted_action_read_only_channel"
        | "restricted_action_thread_only_channel"
        | "team_access_not_granted"
        | "team_disabled"
        | "token_expired"
        | "token_revoked"
        | "user_not_found" => Outcome::RefusedDestination,
        "external_channel_migrating"
        | "org_login_required"
        | "request_timeout"
        | "rollup_error"
        | "service_unavailable"
        | "team_added_to_org"
        | "update_failed" => Outcome::Transient,
        // Slack says of both that part of the work may have been done.
        "fatal_error" | "internal_error" => Outcome::Ambiguous,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: body.into(), whole: true, retry_after: None }
    }

    #[test]
    fn webhook_answers() {
        let cases = [
            (200, "ok", "delivered", "HTTP 200"),
            (200, "ok\n", "delivered", "HTTP 200"),
            (200, "", "ambiguous", "HTTP 200: not an answer that Slack gives"),
            (200, "OK", "ambiguous", "HTTP 200: not an answer that Slack gives"),
            (200, "{\"ok\":true}", "ambiguous", "HTTP 200: not an answer that Slack gives"),
            (200, "<html>sign in</html>", "ambiguous", "HTTP 200: not an answer that Slack gives"),
            (202, "ok", "ambiguous", "HTTP 202: ok"),
            (200, "no_service", "refused_destination", "HTTP 200: no_service"),
            (200, "invalid_blocks", "refused_content", "HTTP 200: invalid_blocks"),
            (302, "", "refused_destination", "HTTP 302"),
            (400, "invalid_payload", "refused_content", "HTTP 400: invalid_payload"),
            (400, "user_not_found", "refused_destination", "HTTP 400: user_not_found"),
            (400, "a_new_word", "refused_content", "HTTP 400: a_new_word"),
            (403, "action_prohibited", "refused_destination", "HTTP 403: action_prohibited"),
            (403, "invalid_token", "refused_destination", "HTTP 403: invalid_token"),
            (404, "channel_not_found", "refused_destination", "HTTP 404: channel_not_found"),
            (404, "no_service", "refused_destination", "HTTP 404: no_service"),
            (410, "channel_is_archived", "refused_destination", "HTTP 410: channel_is_archived"),
            (413, "too big", "refused_content", "HTTP 413"),
            (429, "no_text", "throttled", "HTTP 429: no_text"),
            (500, "missing_text_or_fallback_or_attachments", "refused_content", ""),
            (500, "rollup_error", "transient", "HTTP 500: rollup_error"),
            (500, "internal_error", "ambiguous", "HTTP 500: internal_error"),
            (503, "Bad things about SECRET", "transient", "HTTP 503"),
        ];
        for (status, body, outcome, detail) in cases {
            let report = judge_webhook(&answer(status, body));
            assert_eq!((report.outcome.name(), report.status), (outcome, Some(status)), "{status} {body}");
            assert!(detail.is_empty() || report.detail == detail, "{status} {body}: {}", report.detail);
        }
        let cut = Answer { whole: false, ..answer(200, "ok") };
        assert_eq!(judge_webhook(&cut).outcome, Outcome::Ambiguous);
    }

    #[test]
    fn api_answers() {
        let cases = [
            (200, r#"{"ok":true,"channel":"C1","ts":"1.2"}"#, "delivered"),
            (200, r#"{"ok":"true"}"#, "ambiguous"),
            (200, "ok", "ambiguous"),
            (200, "", "ambiguous"),
            (201, r#"{"ok":true}"#, "ambiguous"),
            (200, r#"{"ok":false,"error":"invalid_auth"}"#, "refused_destination"),
            (200, r#"{"ok":false,"error":"not_in_channel"}"#, "refused_destination"),
            (200, r#"{"ok":false,"error":"is_archived"}"#, "refused_destination"),
            (200, r#"{"ok":false,"error":"invalid_blocks"}"#, "refused_content"),
            (200, r#"{"ok":false,"error":"msg_blocks_too_long"}"#, "refused_content"),
            (200, r#"{"ok":false,"error":"service_unavailable"}"#, "transient"),
            (200, r#"{"ok":false,"error":"internal_error"}"#, "ambiguous"),
            (200, r#"{"ok":false,"error":"fatal_error"}"#, "ambiguous"),
            (200, r#"{"ok":false,"error":"ratelimited"}"#, "throttled"),
            (200, r#"{"ok":false,"error":"a_new_word"}"#, "transient"),
            (200, r#"{"ok":false}"#, "transient"),
            (401, r#"{"ok":false}"#, "refused_destination"),
            (429, "", "throttled"),
            (500, "oops", "transient"),
        ];
        for (status, body, outcome) in cases {
            assert_eq!(judge_api(&answer(status, body)).outcome.name(), outcome, "{status} {body}");
        }
    }

    #[test]
    fn how_long_slack_asks_to_wait() {
        let json = r#"{"retry_after":1.5,"ok":false,"error":"rate_limited"}"#;
        let header = |seconds| Some(Duration::from_secs(seconds));
        for judge in [judge_webhook, judge_api] {
            let wait = |retry_after, body| match judge(&Answer { retry_after, ..answer(429, body) }).outcome {
                Outcome::Throttled { wait } => wait,
                other => panic!("{other:?}"),
            };
            assert_eq!(wait(None, json), Some(Duration::from_millis(1_500)));
            assert_eq!(wait(header(9), json), header(9));
            assert_eq!(wait(header(9), ""), header(9));
            assert_eq!(wait(None, ""), None);
            assert_eq!(wait(None, r#"{"retry_after":-1}"#), None);
        }
        let report = judge_webhook(&Answer { retry_after: header(9), ..answer(429, json) });
        assert_eq!(report.detail, "HTTP 429: rate_limited, asks to wait 9s");
    }

    #[test]
    fn details_tell_the_block_but_quote_nothing_else() {
        let detail = |note: &str| {
            let body = json!({"ok": false, "error": "invalid_blocks", "response_metadata": {"messages": [note]}});
            judge_api(&answer(200, &body.to_string())).detail
        };
        let note = "[ERROR] must be less than 3001 characters [json-pointer:/blocks/0/text/text]";
        assert_eq!(detail(note), "HTTP 200: invalid_blocks at /blocks/0/text/text");
        assert_eq!(detail("[json-pointer:/<script>]"), "HTTP 200: invalid_blocks");
        assert_eq!(detail("SECRET"), "HTTP 200: invalid_blocks");
    }

    #[test]
    fn payloads() {
        let content = Content::Json(json!({"text": "hi", "unfurl_links": true, "channel": "#evil"}));
        let expected = json!({"text": "hi", "unfurl_links": false, "channel": "C1", "unfurl_media": false});
        assert_eq!(payload(&content, Some("C1")), Some(expected));
        assert_eq!(payload(&Content::Json(json!(["hi"])), None), None);
    }

    #[test]
    fn urls() {
        let good = [
            "https://hooks.slack.com/services/T0/B0/s3cret",
            "https://hooks.slack-gov.com/services/T0/B0/s3cret",
            "https://chat.example.org/hooks/s3cret",
            "http://127.0.0.1:9000/services/T0/B0/s3cret",
            "https://notslack.com/x",
        ];
        for url in good {
            assert_eq!(check_url(url, false), Ok(()), "{url}");
        }
        let bad = [
            ("https://hooks.slack.com/triggers/T0/1/s3cret", "this is a workflow trigger"),
            ("https://hooks.slack.com/workflows/T0/A0/1/s3cret", "this is a workflow trigger"),
            ("https://hooks.slack.com/s3cret", "this is an address of Slack, but"),
            ("https://app.slack.com/client/T0/s3cret", "this is an address of Slack, but"),
            ("https://acme.slack.com/archives/s3cret", "this is an address of Slack, but"),
            ("http://hooks.slack.com/services/T0/B0/s3cret", "the URL is plain `http`"),
            ("s3cret", "the URL cannot be read"),
        ];
        for (url, message) in bad {
            let problem = check_url(url, false).unwrap_err();
            assert!(problem.message.starts_with(message), "{url}: {problem}");
            assert!(!problem.to_string().contains("s3cret"), "{problem}");
        }
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_refused_at_once() {
        let settings = |token| Settings::Bot {
            token: Secret::new(token),
            channel: "#sec".to_owned(),
            api_base: "https://slack.com/api".to_owned(),
        };
        let clients = Clients::new().unwrap();
        let slack = Slack::new(&settings("xoxb-s3cret"), &clients).unwrap();
        assert!(!format!("{slack:?}").contains("s3cret"), "{slack:?}");
        assert!(matches!(Slack::new(&settings("xoxb-1\nx: y"), &clients), Err(BuildError::Token)));
    }
}
