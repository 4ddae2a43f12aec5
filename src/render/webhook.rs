//! Webhook: JSON for machines. Values keep their text; only the structure is guarded.

use serde_json::{Value, json};

use super::context::{Context, Shape};
use super::taint::{Piece, Spot};

/// Every place takes every value.
pub(super) fn write(_: &Spot<'_>, pieces: &[Piece]) -> String {
    pieces.iter().map(Piece::text).collect()
}

/// Receivers of Standard Webhooks expect an object.
/// <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
pub(super) fn fit(body: &Value) -> Result<(), String> {
    if body.is_object() { Ok(()) } else { Err("a webhook template must be one JSON object".to_owned()) }
}

/// The small plain body: no template; of an event its id and key alone, of several how many there are. It has all the members
/// that receivers of the built-in body may count on.
pub(super) fn plain(context: &Context) -> Value {
    let mut body = json!({
        "type": format!("halo-relay.{}", context.shape().name()),
        "shape": context.shape().name(),
        "timestamp": context.text("received"),
        "data": {},
        "severity": context.value("severity")["name"],
        "headline": context.text("headline"),
        "rule": context.text("rule"),
        "link": context.link(),
        "runbook": context.value("runbook"),
        "late": context.text("late"),
        "delay": context.value("delay"),
        "detour": null,
        "delivery": {"id": context.delivery_id(), "code": context.text("code"), "may_repeat": context.value("may_repeat")},
        "test": context.value("test"),
    });
    let detour = context.value("detour");
    if detour["text"].is_string() {
        body["detour"] = json!({"from": detour["from"], "why": detour["why"]});
    }
    let digest = context.value("digest");
    match (context.event(), context.shape()) {
        (Some(event), _) => {
            body["type"] = json!(event.key.as_str());
            body["data"] = json!({"event_id": event.id.as_str(), "key": event.key.as_str()});
            if let Some(time) = event.time {
                body["timestamp"] = json!(time.to_string());
            }
        }
        (None, Shape::Notice) => body["data"] = context.value("notice").clone(),
        (None, _) => {
            body["timestamp"] = digest["last"].clone();
            let member = |name: &str| (name.to_owned(), digest[name].clone());
            let told = ["kind", "count", "first", "last", "keys", "targets", "more_targets", "why"].map(member);
            body["data"] = told.into_iter().collect();
            (body["data"]["events"], body["data"]["left_out"]) = (json!([]), digest["count"].clone());
        }
    }
    body
}
