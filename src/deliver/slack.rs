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

use super::contract::{self, Parts, Row, Seen, THROTTLED};
use super::http::{self, Answer, Clients, Endpoint, UrlProblem, is_within};
use super::{BuildError, wrong_content};
use crate::model::{Channel, Content, Message, Outcome, Report, Secret, ThreadNews, Timestamp};

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

    pub(super) const fn is_bot(&self) -> bool {
        self.bot.is_some()
    }

    pub(super) async fn send(&self, message: &Message, now: Timestamp) -> Report {
        let parent = self.bot.as_ref().and_then(|bot| Parent::read(message.reply_to.as_deref()?, bot));
        let channel =
            self.bot.as_ref().map(|bot| parent.as_ref().map_or(bot.channel.as_str(), |parent| parent.channel));
        let Some(mut body) = payload(&message.content, channel) else { return wrong_content(Channel::Slack) };
        if let Some(parent) = &parent {
            body["thread_ts"] = parent.ts.into();
        }
        let mut headers = http::json_headers();
        if let Some(bot) = &self.bot {
            headers.insert(AUTHORIZATION, bot.authorization.clone());
        }
        match self.endpoint.post(headers, http::json_body(&body), now).await {
            Ok(answer) if let Some(bot) = &self.bot => {
                let report = judge_bot(&answer);
                match &message.thread {
                    Some(key) => Report { thread: thread_news(key, parent.is_some(), bot, &answer, &report), ..report },
                    None => report,
                }
            }
            Ok(answer) => judge_webhook(&answer),
            Err(report) => report,
        }
    }
}

/// The first message of a thread, as its answer named it. The handle is `C0123456789 1700000000.000100 C0123456789`: the
/// channel's id, the message's time, which is its name and kept as text, and the channel as configured then.
#[derive(Debug, PartialEq, Eq)]
struct Parent<'a> {
    channel: &'a str,
    ts: &'a str,
}

impl<'a> Parent<'a> {
    /// `None` if the destination posts to another channel by now: an answer would go to the old one.
    fn read(handle: &'a str, bot: &Bot) -> Option<Self> {
        let (channel, rest) = handle.split_once(' ')?;
        let (ts, configured) = rest.split_once(' ')?;
        (configured == bot.channel).then_some(Self { channel, ts })
    }

    fn handle(answer: &Answer, bot: &Bot) -> Option<String> {
        let body = answer.json()?;
        let (channel, ts) = (body["channel"].as_str()?, body["ts"].as_str()?);
        let is_id = (1..=64).contains(&channel.len()) && channel.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let is_time = (1..=64).contains(&ts.len()) && ts.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        (is_id && is_time).then(|| format!("{channel} {ts} {}", bot.channel))
    }
}

/// What an answer tells of the thread. `is_reply` is whether the message was an answer itself: then the thread goes on under
/// its first message.
fn thread_news(key: &str, is_reply: bool, bot: &Bot, answer: &Answer, report: &Report) -> Option<ThreadNews> {
    let key = key.to_owned();
    match report.outcome {
        Outcome::Delivered if !is_reply => Some(ThreadNews { key, handle: Some(Parent::handle(answer, bot)?) }),
        Outcome::RefusedContent if is_reply => {
            let body = answer.json()?;
            let gone = body["error"].as_str().is_some_and(|word| NO_THREAD.contains(&word));
            gone.then_some(ThreadNews { key, handle: None })
        }
        _ => None,
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
pub(super) const WEBHOOK: Parts = &[
    &[Row {
        seen: Seen::Told("HTTP 200 and exactly `ok`", |answer| {
            answer.status == 200 && answer.whole && answer.text() == "ok"
        }),
        outcome: Outcome::Delivered,
        why: "What a webhook says of a message it has posted",
        source: "https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks",
    }],
    contract::PAUSE,
    WORDS,
    UNHEARD_OF,
    contract::NOT_TAKEN,
    contract::GATEWAY_IN_DOUBT,
    contract::FAILED,
];

/// The Web API has taken the message only if it answers 200 and `"ok": true`.
pub(super) const BOT: Parts = &[
    &[Row {
        seen: Seen::Told("HTTP 200 and `\"ok\": true`", |answer| is_told(answer, true)),
        outcome: Outcome::Delivered,
        why: "What the Web API says of a message it has posted",
        source: POST_MESSAGE,
    }],
    contract::PAUSE,
    &[Row {
        seen: Seen::Words(NO_THREAD),
        outcome: Outcome::RefusedContent,
        why: "What the message was to be an answer to is deleted or closed: it is sent again at once, and begins a thread",
        source: POST_MESSAGE,
    }],
    WORDS,
    &[Row {
        seen: Seen::Told("HTTP 200, `\"ok\": false` and another word", |answer| is_told(answer, false)),
        outcome: Outcome::Transient,
        why: "Nothing was posted. With a word that is new, trying again gives up neither message nor destination",
        source: POST_MESSAGE,
    }],
    UNHEARD_OF,
    contract::NOT_TAKEN,
    contract::GATEWAY_IN_DOUBT,
    contract::FAILED,
];

/// Of answers to a message. Nothing was posted.
const NO_THREAD: &[&str] = &[
    "cannot_reply_to_message",
    "invalid_thread_ts",
    "message_not_found",
    "restricted_action_non_threadable_channel",
    "restricted_action_thread_locked",
    "thread_not_found",
];

/// The words of both interfaces; the older webhook tells them bare, the API as `error`.
const WORDS: &[Row<Seen>] = &[
    Row {
        seen: Seen::Words(&["rate_limited", "ratelimited"]),
        outcome: THROTTLED,
        why: "About one message a second in a channel; `Retry-After`, or `retry_after` in the body, says for how long to wait",
        source: "https://docs.slack.dev/apis/web-api/rate-limits",
    },
    Row {
        seen: Seen::Words(&[
            "block_mismatch",
            "invalid_arg_name",
            "invalid_arguments",
            "invalid_attachments",
            "invalid_blocks*",
            "invalid_charset",
            "invalid_form_data",
            "invalid_payload",
            "invalid_post_type",
            "markdown_text_conflict",
            "metadata_too_large",
            "missing_post_type",
            "missing_text_or_fallback_or_attachments",
            "msg_blocks_too_long",
            "msg_too_long",
            "no_text",
            "too_many_attachments",
        ]),
        outcome: Outcome::RefusedContent,
        why: "The message is too large or malformed",
        source: POST_MESSAGE,
    },
    Row {
        seen: Seen::Words(&[
            "access_denied",
            "accesslimited",
            "account_inactive",
            "action_prohibited",
            "channel_*",
            "ekm_access_denied",
            "invalid_auth",
            "invalid_token",
            "is_archived",
            "missing_scope",
            "no_active_hooks",
            "no_permission",
            "no_service*",
            "no_team",
            "not_allowed_token_type",
            "not_authed",
            "not_in_channel",
            "posting_to_general_channel_denied",
            "restricted_action*",
            "team_access_not_granted",
            "team_disabled",
            "token_expired",
            "token_revoked",
            "user_not_found",
        ]),
        outcome: Outcome::RefusedDestination,
        why: "The URL or the token is revoked or may not post, or the channel is gone, archived or closed to it",
        source: POST_MESSAGE,
    },
    Row {
        seen: Seen::Words(&[
            "external_channel_migrating",
            "org_login_required",
            "request_timeout",
            "rollup_error",
            "service_unavailable",
            "team_added_to_org",
            "update_failed",
        ]),
        outcome: Outcome::Transient,
        why: "Nothing was posted, and it passes",
        source: POST_MESSAGE,
    },
    Row {
        seen: Seen::Words(&["fatal_error", "internal_error"]),
        outcome: Outcome::Ambiguous,
        why: "Slack says of both that part of the work may have been done",
        source: POST_MESSAGE,
    },
];

/// A 2xx that is not the contract's success leaves the outcome unknown.
const UNHEARD_OF: &[Row<Seen>] = &[Row {
    seen: Seen::Statuses(200, 299),
    outcome: Outcome::Ambiguous,
    why: "Not an answer that Slack gives: a proxy's, or one cut on its way",
    source: "",
}];

const POST_MESSAGE: &str = "https://docs.slack.dev/reference/methods/chat.postMessage#errors";

fn is_told(answer: &Answer, ok: bool) -> bool {
    answer.status == 200 && answer.json().is_some_and(|body| body["ok"] == ok)
}

pub(super) fn judge_webhook(answer: &Answer) -> Report {
    match answer.json() {
        Some(body) => judge(WEBHOOK, answer, body["error"].as_str(), &body),
        None => judge(WEBHOOK, answer, Some(answer.text()).filter(|_| answer.whole), &Value::Null),
    }
}

pub(super) fn judge_bot(answer: &Answer) -> Report {
    let body = answer.json().unwrap_or_default();
    judge(BOT, answer, body["error"].as_str(), &body)
}

fn judge(parts: Parts, answer: &Answer, word: Option<&str>, body: &Value) -> Report {
    let word = word.filter(|word| is_word(word));
    let outcome = match contract::decide(parts, answer, word) {
        Outcome::Delivered => return answer.report(Outcome::Delivered, None),
        Outcome::Throttled { .. } => {
            Outcome::Throttled { wait: body["retry_after"].as_f64().and_then(http::bounded_wait) }
        }
        outcome => outcome,
    };
    let note = match (word, place(body)) {
        (Some(word), Some(place)) => Some(format!("{word} at {place}")),
        (Some(word), None) => Some(word.to_owned()),
        (None, _) if answer.status < 300 && outcome == Outcome::Ambiguous => {
            Some("not an answer that Slack gives".to_owned())
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: body.into(), whole: true, ..Answer::default() }
    }

    #[test]
    fn how_long_slack_asks_to_wait() {
        let json = r#"{"retry_after":1.5,"ok":false,"error":"rate_limited"}"#;
        let header = |seconds| Some(Duration::from_secs(seconds));
        for judge in [judge_webhook, judge_bot] {
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
            judge_bot(&answer(200, &body.to_string())).detail
        };
        let note = "[ERROR] must be less than 3001 characters [json-pointer:/blocks/0/text/text]";
        assert_eq!(detail(note), "HTTP 200: invalid_blocks at /blocks/0/text/text");
        assert_eq!(detail("[json-pointer:/<script>]"), "HTTP 200: invalid_blocks");
        assert_eq!(detail("SECRET"), "HTTP 200: invalid_blocks");
    }

    #[test]
    fn a_message_becomes_the_parent_of_those_after_it() {
        let bot = |channel: &str| Bot { authorization: HeaderValue::from_static("x"), channel: channel.to_owned() };
        let taken = |body: &Value| answer(200, &body.to_string());
        let delivered = Report::new(Outcome::Delivered, Some(200), "ok");
        let news = |body: &Value| thread_news("key", false, &bot("#sec"), &taken(body), &delivered);
        let handle = "C01 1700000000.000100 #sec";
        let good = json!({"ok": true, "channel": "C01", "ts": "1700000000.000100"});
        assert_eq!(news(&good), Some(ThreadNews { key: "key".into(), handle: Some(handle.into()) }));
        assert_eq!(thread_news("key", true, &bot("#sec"), &taken(&good), &delivered), None, "an answer is no parent");
        for bad in [
            json!({"ok": true}),
            json!({"ok": true, "channel": "C01", "ts": 1_700_000_000.000_1}),
            json!({"ok": true, "channel": "C 1", "ts": "1.1"}),
            json!({"ok": true, "channel": "C1", "ts": "1 x"}),
            json!({"ok": true, "channel": "", "ts": ""}),
        ] {
            assert_eq!(news(&bad), None, "{bad}");
        }
        assert_eq!(Parent::read(handle, &bot("#sec")), Some(Parent { channel: "C01", ts: "1700000000.000100" }));
        for (handle, channel) in [(handle, "#other"), ("C01 1.1", "#sec"), ("", ""), ("C01", "C01")] {
            assert_eq!(Parent::read(handle, &bot(channel)), None, "{handle} {channel}");
        }
        let refused = |word: &str, is_reply| {
            let answer = taken(&json!({"ok": false, "error": word}));
            let report = judge_bot(&answer);
            (report.outcome.name(), thread_news("key", is_reply, &bot("C1"), &answer, &report))
        };
        let gone = Some(ThreadNews { key: "key".into(), handle: None });
        for word in NO_THREAD {
            assert_eq!(refused(word, true), ("refused_content", gone.clone()), "{word}");
            assert_eq!(refused(word, false), ("refused_content", None), "{word}");
        }
        assert_eq!(refused("invalid_blocks", true), ("refused_content", None));
        assert_eq!(refused("restricted_action_thread_only_channel", true), ("refused_destination", None));
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
