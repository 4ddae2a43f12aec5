//! Webhook: JSON for machines. Values keep their text; only the structure is guarded.

use serde_json::{Value, json};

use super::context::Context;
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

/// The small plain body: no template, the event by its id and key alone.
pub(super) fn plain(context: &Context) -> Value {
    let event = context.event();
    json!({
        "type": event.key.as_str(),
        "timestamp": event.time.map(|time| time.to_string()).as_deref().or(context.text("received")),
        "data": {"event_id": event.id.as_str(), "key": event.key.as_str()},
        "headline": context.text("headline"),
        "link": context.link(),
        "delivery": {"id": context.delivery_id(), "code": context.text("code")},
        "rule": context.text("rule"),
    })
}
