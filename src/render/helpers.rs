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
    registry.register_helper("default", Box::new(Given(|values| first_given(values).clone())));
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

pub(super) fn first_given<'a>(values: &[&'a Value]) -> &'a Value {
    let given = |value: &Value| !value.is_null() && value.as_str() != Some("");
    values.iter().copied().find(|value| given(value)).unwrap_or(&Value::Null)
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
            Self::Text | Self::Subject | Self::Webhook | Self::Preset(_) if label == url => address(url),
            Self::Text | Self::Subject | Self::Webhook | Self::Preset(_) => {
                format!("{}: {}", printed(label), address(url))
            }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use serde_json::json;

    use crate::model::{Channel, Content, Event, Zone};
    use crate::render::snapshot_tests::{about, context, sample};
    use crate::render::{Audience, Context, Digest, DigestKind, HostPattern, Hosts, Renderer};

    fn load(file: &str, text: &str) -> Renderer {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        Renderer::load(Some(dir.path()), &[]).unwrap_or_else(|errors| panic!("{text}: {errors:#?}"))
    }

    fn mail(text: &str, context: &Context) -> String {
        let Content::Mail { text, .. } = load("email/a.text.hbs", text).render(Channel::Email, "a", context).unwrap()
        else {
            panic!("no mail")
        };
        text.trim_end().to_owned()
    }

    fn berlin() -> Audience {
        let hosts = Hosts::new(vec![HostPattern::parse("*.example.org").unwrap()]);
        Audience { zone: Zone::named("Europe/Berlin").unwrap(), hosts }
    }

    #[test]
    fn times_are_told_as_readers_see_them() {
        let berlin = berlin();
        let event = json!({"event_id": "1", "key": "k", "date_created": "2026-11-23 09:41", "seen": "2026-11-21T06:00:00Z",
            "due": "2026-11-30", "odd": "soon", "expires_in_days": 7});
        let event = Event::from_value(event).unwrap();
        let context = about(
            |_| (),
            |about| {
                let now = about.received.plus(Duration::from_hours(3));
                Context::new(&event, &super::super::Circumstances { audience: &berlin, now, ..*about })
            },
        );
        let cases = [
            ("{{headline}}", "HIGH · K · 7 days"),
            ("{{event.when}}, {{event.time}}", "2026-11-23 10:41 CET, 2026-11-23T09:41:00Z"),
            ("{{timezone}} {{now}}", "Europe/Berlin 2026-11-23T12:42:00Z"),
            ("{{time received}}, {{relative received}}", "2026-11-23 10:42 CET, 3 hours ago"),
            ("{{time event.fields.seen}}, {{relative event.fields.seen}}", "2026-11-21 07:00 CET, 2 days ago"),
            ("{{time event.fields.due}}, {{relative event.fields.due}}", "2026-11-30, in 7 days"),
            ("{{relative now}} {{relative event.fields.odd}} {{relative event.fields.none}}.", "now soon ."),
            (
                "{{#each facts}}{{#if @last}}{{label}}: {{value}} {{time @root.received}}{{/if}}{{/each}}",
                "Time: 2026-11-23 10:41 CET 2026-11-23 10:42 CET",
            ),
            ("{{late}}", "sent 3 hours late"),
        ];
        for (template, expected) in cases {
            assert_eq!(mail(template, &context), expected, "{template}");
        }
    }

    #[test]
    fn lists_and_plurals() {
        let sample = sample("issue-add");
        let events = |count: usize| {
            let mut record = sample.body().clone();
            let event = |number: usize| {
                record.insert("target".to_owned(), json!(format!("h{number}.example.org")));
                (Event::from_value(record.clone().into()).unwrap(), crate::model::Timestamp::default())
            };
            (0..count).map(event).collect::<Vec<_>>()
        };
        let digest = |count| {
            let digest = Digest::of(DigestKind::Batch, &events(count)).unwrap();
            about(|_| (), |about| Context::digest(&digest, about))
        };
        let list = |template: &str, context: &Context| {
            let Content::Mail { text, .. } =
                load("email/a.digest.text.hbs", template).render(Channel::Email, "a", context).unwrap()
            else {
                panic!("no mail")
            };
            text.trim_end().to_owned()
        };
        let cases = [
            (1, "{{plural digest.count 'event' 'events'}}", "1 event"),
            (2, "{{plural digest.count 'event' 'events'}}", "2 events"),
            (2, "{{plural digest.left_out 'event' 'events'}}", "0 events"),
            (1, "{{list digest.targets 'target'}}", "h0.example.org"),
            (2, "{{list digest.targets 'target'}}", "h0.example.org and h1.example.org"),
            (3, "{{list digest.targets 'target'}}", "h0.example.org, h1.example.org and h2.example.org"),
            (7, "{{list digest.targets 'target' 2}}", "h0.example.org, h1.example.org and 5 more"),
            (12, "{{list digest.targets 'target' 1 digest.more_targets}}", "h0.example.org and 11 more"),
            (12, "{{list digest.targets 'none'}}.", "."),
            (2, "{{list digest.keys}}", "key: issue-add, title: New issue detected, count: 2"),
        ];
        for (count, template, expected) in cases {
            assert_eq!(list(template, &digest(count)), expected, "{template}");
        }
        let event = context(&sample, |_| ());
        assert_eq!(
            mail("{{list event.subject 3}} {{plural title 'a' 'b'}}", &event),
            "New Issue Detected New issue detected b"
        );
        assert_eq!(mail("{{truncate event.subject 5}} {{short event.subject 5}}", &event), "New … New …");
    }

    #[test]
    fn links_are_as_the_channel_writes_them() {
        let hostile = json!({"event_id": "1", "key": "k", "a": "<!channel> ](x) *b* \"q\"",
            "url": "https://app.halosecurity.com/link?q=a&b=c"});
        let event = Event::from_value(hostile).unwrap();
        let shown = context(&event, |_| ());
        let json = |channel, file: &str, text: &str, pointer: &str, context: &Context| {
            let Content::Json(json) = load(file, text).render(channel, "a", context).unwrap() else {
                panic!("no JSON")
            };
            json.pointer(pointer).unwrap().as_str().unwrap().to_owned()
        };
        let slack = |call: &str, context: &Context| {
            json(Channel::Slack, "slack/a.hbs", &format!("{{\"text\": \"see {call}.\"}}"), "/text", context)
        };
        let teams = |call: &str| {
            let card = format!(
                "{{\"type\": \"AdaptiveCard\", \"body\": [{{\"type\": \"TextBlock\", \"text\": \"see {call}.\"}}]}}"
            );
            json(Channel::Teams, "teams/a.hbs", &card, "/body/0/text", &shown)
        };
        let url = "https://app.halosecurity.com/link?q=a&b=c";
        let (own, literal) =
            ("{{link link.url event.fields.a}}", "{{link 'https://status.example.com/?a=1&b=(2)' 'Status'}}");
        assert_eq!(slack(own, &shown), format!("see <{}|&lt;!channel&gt; ](x) ∗b∗ \"q\">.", url.replace('&', "&amp;")));
        assert_eq!(slack(literal, &shown), "see <https://status.example.com/?a=1&amp;b=(2)|Status>.");
        assert_eq!(
            slack("{{link runbook ''}}", &shown),
            "see <https://wiki.example.org/runbooks/certificates|https://wiki.example.org/runbooks/certificates>."
        );
        assert_eq!(teams(own), "see [‹!channel› \\]（x) ∗b∗ \"q\"](https://app.halosecurity.com/link?q=a&b=c).");
        assert_eq!(teams(literal), "see [Status](https://status.example.com/?a=1&b=%282%29).");
        assert_eq!(mail(own, &shown), format!("<!channel> ](x) *b* \"q\": {url}"));
        let html =
            load("email/a.html.hbs", &format!("<p>{own} {literal}</p>")).render(Channel::Email, "a", &shown).unwrap();
        let Content::Mail { html: Some(html), .. } = html else { panic!("no HTML") };
        assert_eq!(
            html.trim_end(),
            "<p><a href=\"https://app.halosecurity.com/link?q&#61;a&amp;b&#61;c\">&lt;!channel&gt; ](x) *b* &quot;q&quot;</a> \
             <a href=\"https://status.example.com/?a=1&amp;b=(2)\">Status</a></p>"
        );
        // Nothing where there is no address.
        let bare = Event::from_value(json!({"event_id": "1", "key": "k"})).unwrap();
        assert_eq!(slack("{{link link.url 'Open'}}", &context(&bare, |_| ())), "see .");
        // In a list each has its own.
        let listed = "{\"text\": \"{{#each digest.events}}{{link link.url line}} {{/each}}\"}";
        let digest = Digest::of(DigestKind::Batch, &vec![(event, crate::model::Timestamp::default()); 2]).unwrap();
        let digest = about(|_| (), |about| Context::digest(&digest, about));
        let text = json(Channel::Slack, "slack/a.digest.hbs", listed, "/text", &digest);
        assert_eq!(text.matches("|K>").count(), 2, "{text}");
    }

    #[test]
    fn allowed_hosts_may_be_clicked() {
        let berlin = berlin();
        let event = json!({"event_id": "1", "key": "k", "subject": "see https://a.example.org/x", "url": "https://b.example.org/y",
            "detail": "https://evil.example/ on c.example.org"});
        let event = Event::from_value(event).unwrap();
        let told = |audience: &Audience| {
            let context =
                about(|_| (), |about| Context::new(&event, &super::super::Circumstances { audience, ..*about }));
            mail("{{title}} | {{link.url}} {{link.label}} | {{event.fields.detail}}.", &context)
        };
        assert_eq!(
            told(&berlin),
            "see https://a.example.org/x | https://b.example.org/y Open b.example.org | hxxps://evil[.]example/ on c.example.org."
        );
        assert_eq!(
            told(Audience::anyone()),
            "see hxxps://a[.]example[.]org/x |   | hxxps://evil[.]example/ on c[.]example[.]org."
        );
    }
}
