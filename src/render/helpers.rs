//! What a template may call, beside handlebars' own `if`, `unless`, `each`, `with`, `lookup`, comparisons and `len`.
//!
//! | helper | gives |
//! |---|---|
//! | `{{default event.fields.port "unknown"}}` | the first that is neither null nor empty |
//! | `{{upper rule}}`, `{{lower rule}}` | the text in that case |
//! | `{{short event.subject 40}}` | at most so many characters, `…` for what is gone |
//! | `{{json event.body}}` | any value as JSON; in `webhook` templates only, and outside of quotes |
//!
//! All but `json` return values, which are escaped like any other.

use handlebars::{
    Context, Handlebars, Helper, HelperDef, HelperResult, JsonRender as _, Output, RenderContext, RenderError,
    RenderErrorReason, ScopedJson,
};
use serde_json::Value;

use super::taint::mark_json;
use super::text::{cut, shorten};

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
pub(super) const SHAPES: [Shape; 20] = [
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
    shape("short", (2, 2), Block::Never, false),
    shape(JSON, (1, 1), Block::Never, false),
];

pub(super) const JSON: &str = "json";

/// `json`: for machines, who get JSON and the text as it is.
pub(super) fn register(registry: &mut Handlebars<'static>, json: bool) {
    registry.register_helper("default", Box::new(Given(first_given)));
    registry.register_helper("upper", Box::new(Given(|values| Value::String(text(values).to_uppercase()))));
    registry.register_helper("lower", Box::new(Given(|values| Value::String(text(values).to_lowercase()))));
    if json {
        registry.register_helper("short", Box::new(Given(|values| Value::String(cut(&text(values), length(values))))));
        registry.register_helper(JSON, Box::new(write_json));
    } else {
        registry
            .register_helper("short", Box::new(Given(|values| Value::String(shorten(&text(values), length(values))))));
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
