//! What Slack and Teams would say to a message: the refusals that a careless sender meets first. A demo that takes
//! everything would show messages that the real channel would not.
//!
//! Slack: <https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks/>, limits of
//! <https://docs.slack.dev/reference/block-kit/blocks>. Teams: the envelope of
//! <https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using>.

use serde_json::Value;

const BLOCKS_MAX: usize = 50;
const HEADER_CHARS_MAX: usize = 150;
const TEXT_CHARS_MAX: usize = 3000;
const FIELD_CHARS_MAX: usize = 2000;
const FIELDS_MAX: usize = 10;
const CONTEXT_ELEMENTS_MAX: usize = 10;
/// Per posted message, markup included.
pub(super) const TEAMS_BYTES_MAX: usize = 28 * 1024;

/// Slack's error word, if it would refuse the payload.
pub(super) fn slack_refusal(payload: &Value) -> Option<&'static str> {
    let Some(payload) = payload.as_object() else { return Some("invalid_payload") };
    let text = payload.get("text").and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    let empty = |name: &str| payload.get(name).is_none_or(|list| list.as_array().is_some_and(Vec::is_empty));
    if !text && empty("blocks") && empty("attachments") {
        return Some("no_text");
    }
    let attachments = match payload.get("attachments").map(Value::as_array) {
        None => &[],
        Some(None) => return Some("invalid_attachments"),
        Some(Some(list)) => list.as_slice(),
    };
    let mut lists = attachments.iter().chain(std::iter::once(&Value::Null)).filter_map(|one| one.get("blocks"));
    let own = payload.get("blocks");
    own.into_iter().chain(&mut lists).find_map(blocks_refusal)
}

fn blocks_refusal(blocks: &Value) -> Option<&'static str> {
    let Some(blocks) = blocks.as_array() else { return Some("invalid_blocks_format") };
    let good = blocks.len() <= BLOCKS_MAX && blocks.iter().all(good_block);
    (!good).then_some("invalid_blocks")
}

fn good_block(block: &Value) -> bool {
    match block["type"].as_str() {
        Some("header") => good_text(&block["text"], HEADER_CHARS_MAX) && block["text"]["type"] == "plain_text",
        Some("section") => {
            let fields = block.get("fields").map(Value::as_array);
            let good_fields = |fields: &Vec<Value>| {
                (1..=FIELDS_MAX).contains(&fields.len()) && fields.iter().all(|field| good_text(field, FIELD_CHARS_MAX))
            };
            match (block.get("text"), fields) {
                (None, None) | (_, Some(None)) => false,
                (text, fields) => {
                    text.is_none_or(|text| good_text(text, TEXT_CHARS_MAX)) && fields.flatten().is_none_or(good_fields)
                }
            }
        }
        Some("context") => {
            let elements = block["elements"].as_array();
            elements.is_some_and(|elements| {
                (1..=CONTEXT_ELEMENTS_MAX).contains(&elements.len())
                    && elements.iter().all(|one| one["type"] == "image" || good_text(one, TEXT_CHARS_MAX))
            })
        }
        Some("rich_text" | "actions") => block["elements"].as_array().is_some_and(|elements| !elements.is_empty()),
        Some(_) => true,
        None => false,
    }
}

fn good_text(text: &Value, chars_max: usize) -> bool {
    let typed = matches!(text["type"].as_str(), Some("plain_text" | "mrkdwn"));
    let length = text["text"].as_str().map_or(0, |text| text.chars().count());
    typed && (1..=chars_max).contains(&length)
}

/// What is wrong with what should be an Adaptive Card in its envelope.
pub(super) fn teams_refusal(payload: &Value) -> Option<&'static str> {
    if payload["type"] != "message" {
        return Some("`type` must be `message`");
    }
    let Some(attachments) = payload["attachments"].as_array().filter(|list| !list.is_empty()) else {
        return Some("`attachments` must be a list with at least one card");
    };
    attachments.iter().find_map(|one| {
        let card = &one["content"];
        if one["contentType"] != "application/vnd.microsoft.card.adaptive" {
            Some("`contentType` must be `application/vnd.microsoft.card.adaptive`")
        } else if card["type"] != "AdaptiveCard" {
            Some("property `type` must be `AdaptiveCard`")
        } else if !card["body"].is_array() || !card["version"].is_string() {
            Some("the card needs `version` and `body`")
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn slack() {
        let text = |length: usize| json!({"type": "mrkdwn", "text": "x".repeat(length)});
        let section = |length| json!({"blocks": [{"type": "section", "text": text(length)}]});
        let header = |kind: &str, length: usize| json!({"blocks": [{"type": "header", "text": {"type": kind, "text": "é".repeat(length)}}]});
        let cases = [
            (json!({"text": "x"}), None),
            (json!({"attachments": [{"color": "danger", "blocks": [{"type": "divider"}]}]}), None),
            (section(3000), None),
            (header("plain_text", 150), None),
            (json!({"blocks": [{"type": "section", "fields": [text(2000)]}]}), None),
            (json!({"blocks": [{"type": "rich_text", "elements": [{}]}, {"type": "future"}]}), None),
            (json!([]), Some("invalid_payload")),
            (json!({}), Some("no_text")),
            (json!({"text": "", "blocks": []}), Some("no_text")),
            (json!({"text": "x", "blocks": {}}), Some("invalid_blocks_format")),
            (json!({"text": "x", "attachments": {}}), Some("invalid_attachments")),
            (json!({"text": "x", "blocks": vec![json!({"type": "divider"}); 51]}), Some("invalid_blocks")),
            (json!({"text": "x", "blocks": [{}]}), Some("invalid_blocks")),
            (section(0), Some("invalid_blocks")),
            (section(3001), Some("invalid_blocks")),
            (header("plain_text", 151), Some("invalid_blocks")),
            (header("mrkdwn", 10), Some("invalid_blocks")),
            (json!({"blocks": [{"type": "section"}]}), Some("invalid_blocks")),
            (json!({"blocks": [{"type": "section", "fields": vec![text(1); 11]}]}), Some("invalid_blocks")),
            (json!({"blocks": [{"type": "context", "elements": vec![text(1); 11]}]}), Some("invalid_blocks")),
            (json!({"attachments": [{"blocks": [{"type": "context"}]}]}), Some("invalid_blocks")),
        ];
        for (payload, expected) in cases {
            assert_eq!(slack_refusal(&payload), expected, "{payload:.200}");
        }
    }

    #[test]
    fn teams() {
        let kind = "application/vnd.microsoft.card.adaptive";
        let card = json!({"type": "AdaptiveCard", "version": "1.4", "body": []});
        let one = |content: &Value| json!({"type": "message", "attachments": [{"contentType": kind, "contentUrl": null, "content": content}]});
        assert_eq!(teams_refusal(&one(&card)), None);
        let cases = [
            card.clone(),
            json!([]),
            json!({"type": "message"}),
            json!({"type": "message", "attachments": []}),
            json!({"type": "message", "attachments": [{"content": card}]}),
            json!({"type": "message", "attachments": [{"contentType": kind, "content": null}]}),
            one(&json!({"type": "MessageCard", "version": "1.4", "body": []})),
            one(&json!({"type": "AdaptiveCard", "body": []})),
            one(&json!({"type": "AdaptiveCard", "version": "1.4"})),
        ];
        for payload in cases {
            assert!(teams_refusal(&payload).is_some(), "{payload}");
        }
    }
}
