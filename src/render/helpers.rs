//! What a template may call, beside handlebars' own `if`, `unless`, `each`, `with`, `lookup`, comparisons and `len`.
//!
//! | helper | gives |
//! |---|---|
//! | `{{default event.fields.port "unknown"}}` | the first that is neither null nor empty |
//! | `{{upper rule}}`, `{{lower rule}}` | the text in that case |
//! | `{{truncate event.subject 40}}` | at most so many characters, `…` for what is gone; `short` is the same |
//! | `{{plural digest.count "event" "events"}}` | `1 event`, `37 events` |
//! | `{{list digest.targets "target" 3 digest.more_targets}}` | `a, b, c and 9 more` |
//! | `{{time received}}` | `2026-11-23 10:42 CET`: a time in the zone of who reads |
//! | `{{relative received}}` | `3 hours ago`, `in 7 days`, seen from now |
//! | `{{link runbook "Runbook"}}` | a link in the channel's notation; in chat and mail only |
//! | `{{json event.body}}` | any value as JSON; in `webhook` templates only, and outside of quotes |
//!
//! All but `link` and `json` return values, which are escaped like any other. Of a link the address and the label are.

use handlebars::{
    Context, Handlebars, Helper, HelperDef, HelperResult, JsonRender as _, Output, RenderContext, RenderError,
    RenderErrorReason, ScopedJson,
};
use serde_json::Value;

use super::Format;
use super::taint::{LINK, mark_json};
use super::text::{brief, cut, shorten};
use super::time;
use crate::model::{Timestamp, Zone};

/// How a helper is called: parameters from and to, as a block, inside another call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) parameters: (usize, usize),
    pub(super) block: Block,
    /// Looks at text to decide: a template that does may differ in structure from event to event.
    pub(super) compares: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    Never,
    Always,
    Either,
}

const fn shape(name: &'static str, parameters: (usize, usize), block: Block, compares: bool) -> Shape {
    Shape { name, parameters, block, compares }
}

/// Everything a template may call; all else is refused at load.
pub(super) const SHAPES: [Shape; 26] = [
    shape("if", (1, 1), Block::Always, false),
    shape("unless", (1, 1), Block::Always, false),
    shape("each", (1, 1), Block::Always, false),
    shape("with", (1, 1), Block::Always, false),
    shape("lookup", (2, 2), Block::Never, true),
    shape("eq", (2, 2), Block::Either, true),
    shape("ne", (2, 2), Block::Either, true),
    shape("gt", (2, 2), Block::Either, true),
    shape("gte", (2, 2), Block::Either, true),
    shape("lt", (2, 2), Block::Either, true),
    shape("lte", (2, 2), Block::Either, true),
    shape("and", (2, 8), Block::Either, false),
    shape("or", (2, 8), Block::Either, false),
    shape("not", (1, 1), Block::Either, false),
    shape("len", (1, 1), Block::Never, true),
    shape("default", (2, 8), Block::Never, false),
    shape("upper", (1, 1), Block::Never, false),
    shape("lower", (1, 1), Block::Never, false),
    shape("truncate", (2, 2), Block::Never, false),
    shape("short", (2, 2), Block::Never, false),
    shape("plural", (3, 3), Block::Never, false),
    shape("list", (1, 4), Block::Never, false),
    shape("time", (1, 1), Block::Never, false),
    shape("relative", (1, 1), Block::Never, false),
    shape(LINK_TO, (2, 2), Block::Never, false),
    shape(JSON, (1, 1), Block::Never, false),
];

pub(super) const JSON: &str = "json";
pub(super) const LINK_TO: &str = "link";

/// Whether templates of this format may call it.
pub(super) fn is_known(name: &str, format: Format) -> bool {
    match name {
        JSON => format == Format::Webhook,
        LINK_TO => matches!(format, Format::Slack | Format::Teams | Format::Text | Format::Html),
        name => SHAPES.iter().any(|shape| shape.name == name),
    }
}

/// Machines get JSON, and the text as it is.
pub(super) fn register(registry: &mut Handlebars<'static>, format: Format) {
    registry.register_helper("default", Box::new(Given(first_given)));
    registry.register_helper("upper", Box::new(Given(|values| Value::String(text(values).to_uppercase()))));
    registry.register_helper("lower", Box::new(Given(|values| Value::String(text(values).to_lowercase()))));
    registry.register_helper("plural", Box::new(Given(plural)));
    registry.register_helper("list", Box::new(Given(list)));
    registry.register_helper("time", Box::new(Timed(|text, _, zone| time::show(text, zone))));
    registry.register_helper("relative", Box::new(Timed(time::relative)));
    let truncate = match format {
        Format::Webhook => |values: &[&Value]| Value::String(cut(&text(values), length(values))),
        _ => |values: &[&Value]| Value::String(shorten(&text(values), length(values))),
    };
    for name in ["truncate", "short"] {
        registry.register_helper(name, Box::new(Given(truncate)));
    }
    if is_known(JSON, format) {
        registry.register_helper(JSON, Box::new(write_json));
    }
    if is_known(LINK_TO, format) {
        registry.register_helper(LINK_TO, Box::new(Link(format)));
    }
}

/// A helper that makes one value of those it is given.
struct Given(fn(&[&Value]) -> Value);

impl HelperDef for Given {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        let values: Vec<_> = helper.params().iter().map(handlebars::PathAndJson::value).collect();
        Ok(ScopedJson::Derived((self.0)(&values)))
    }
}

pub(super) fn first_given(values: &[&Value]) -> Value {
    let given = |value: &Value| !value.is_null() && value.as_str() != Some("");
    values.iter().copied().find(|value| given(value)).cloned().unwrap_or(Value::Null)
}

fn text(values: &[&Value]) -> String {
    values.first().map(|value| value.render()).unwrap_or_default()
}

fn length(values: &[&Value]) -> usize {
    let max = values.get(1).and_then(|max| max.as_u64()).and_then(|max| usize::try_from(max).ok());
    max.unwrap_or(80).max(1)
}

/// `1 event`, `37 events`. The count may be a text; what is no number stands before the plural.
fn plural(values: &[&Value]) -> Value {
    let [count, one, many] = values else { return Value::Null };
    let count = count.render();
    let word = if count.trim() == "1" { one } else { many };
    Value::String(format!("{count} {}", word.render()))
}

/// Of a list: the member by which its items go, if they are objects, how many at most, and how many more there are than it
/// holds. A text, such as a field that people see, is a list already.
fn list(values: &[&Value]) -> Value {
    const MAX: usize = 5;
    let Some((Value::Array(items), options)) = values.split_first().map(|(list, options)| (*list, options)) else {
        return values.first().map_or(Value::Null, |value| Value::String(brief(value)));
    };
    let member = options.iter().find_map(|option| option.as_str());
    let mut numbers = options.iter().filter_map(|option| usize::try_from(option.as_u64()?).ok());
    let (max, more) = (numbers.next().unwrap_or(MAX).max(1), numbers.next().unwrap_or(0));
    let shown = items.iter().take(max).map(|item| brief(member.map_or(item, |member| &item[member])));
    let shown: Vec<_> = shown.filter(|text| !text.is_empty()).collect();
    let more = more.saturating_add(items.len().saturating_sub(max));
    let text = match (shown.split_last(), more) {
        (None, _) => String::new(),
        (Some((last, [])), 0) => last.clone(),
        (Some((last, others)), 0) => format!("{} and {last}", others.join(", ")),
        (Some(_), more) => format!("{} and {more} more", shown.join(", ")),
    };
    Value::String(text)
}

/// A helper that puts a time in words, for who reads and seen from now.
struct Timed(fn(&str, Timestamp, &Zone) -> String);

impl HelperDef for Timed {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        context: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        let text = helper.param(0).and_then(|value| value.value().as_str());
        let said = |member: &str| context.data()[member].as_str();
        // The context always has both.
        let zone = said("timezone").and_then(|name| Zone::named(name).ok()).unwrap_or_default();
        let now = said("now").and_then(Timestamp::from_api).unwrap_or_default();
        Ok(ScopedJson::Derived(text.map_or(Value::Null, |text| Value::String((self.0)(text, now, &zone)))))
    }
}

/// A link as the format writes it. The lint lets it lead only to the two addresses of the context and to literal ones.
struct Link(Format);

impl HelperDef for Link {
    fn call<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> HelperResult {
        let address = helper.param(0).filter(|address| !address.is_value_missing());
        let address = address.ok_or(RenderErrorReason::ParamNotFoundForIndex(LINK_TO, 0))?;
        let label = helper.param(1).filter(|label| !label.is_value_missing());
        let label = label.ok_or(RenderErrorReason::ParamNotFoundForIndex(LINK_TO, 1))?.value().render();
        // Without an address there is nothing to show, not even what it is called.
        let Some(url) = address.value().as_str().filter(|url| !url.is_empty()) else { return Ok(()) };
        let label = if label.trim().is_empty() { url } else { &label };
        out.write(&self.0.link(url, address.relative_path().is_none(), label))?;
        Ok(())
    }
}

impl Format {
    /// `is_literal`: the template itself says the address.
    fn link(self, url: &str, is_literal: bool, label: &str) -> String {
        let printed = |text: &str| {
            let mut printed = String::new();
            self.escape()(text, &mut printed);
            printed
        };
        let address = |url: &str| if is_literal { url.to_owned() } else { printed(url) };
        match self {
            Self::Slack if is_literal => format!("{LINK}<{}|{}>", url.replace('&', "&amp;"), printed(label)),
            Self::Slack => format!("{LINK}<{}|{}>", printed(url), printed(label)),
            Self::Teams => format!("{LINK}[{}]({})", printed(label), address(&without_brackets(url))),
            Self::Html if is_literal => format!("<a href=\"{}\">{}</a>", url.replace('&', "&amp;"), printed(label)),
            Self::Html => format!("<a href=\"{}\">{}</a>", printed(url), printed(label)),
            Self::Text | Self::Subject | Self::Webhook if label == url => address(url),
            Self::Text | Self::Subject | Self::Webhook => format!("{}: {}", printed(label), address(url)),
        }
    }
}

/// The same address where a round bracket would end it.
pub(super) fn without_brackets(url: &str) -> String {
    url.replace('(', "%28").replace(')', "%29")
}

fn write_json(
    helper: &Helper<'_>,
    _: &Handlebars<'_>,
    _: &Context,
    _: &mut RenderContext<'_, '_>,
    out: &mut dyn Output,
) -> HelperResult {
    let value = helper.param(0).filter(|value| !value.is_value_missing());
    let value = value.ok_or(RenderErrorReason::ParamNotFoundForIndex(JSON, 0))?;
    let mut text = String::new();
    mark_json(value.value(), &mut text);
    out.write(&text)?;
    Ok(())
}
