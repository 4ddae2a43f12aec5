//! Renders what most templates consist of, without handlebars: printed names, `json`, `default`, `if`, `unless` and `each`
//! over names that lead down from where they stand.
//!
//! handlebars looks up every name and helper afresh each time and copies most of what it touches, which is the greater part
//! of the time that a message takes. A template that holds nothing else is read into a [`Program`] at load. A program
//! gives what handlebars would give or nothing at all: what it does not know ([`read`]) or does not meet as expected
//! ([`Program::run`]) is left to handlebars, and so are all errors.
//!
//! Of a JSON template the literals are kept as tokens, and it runs into a document at once: see [`document`](super::document).

use std::collections::BTreeMap;

use handlebars::template::{DecoratorTemplate, HelperTemplate, Parameter, Template, TemplateElement};
use handlebars::{JsonRender as _, JsonTruthy as _, Path, PathSeg};
use serde_json::{Map, Value};

use super::OUTPUT_BYTES_MAX;
use super::context::Context;
use super::document::{Lexer, Tokens};
use super::helpers::{JSON, SHAPES, first_given};
use crate::model::Event;

/// A template as a list of steps. Its literals are kept as text, or as the tokens of a document.
#[derive(Debug)]
pub(super) struct Program<L = String>(Vec<Step<L>>);

#[derive(Debug)]
enum Step<L> {
    Literal(L),
    Print(Name),
    /// The first that is neither null nor empty.
    PrintFirst(Vec<Operand>),
    PrintJson(Name),
    /// `{{json event.body}}`
    PrintBody,
    If {
        test: Test,
        then: Program<L>,
        otherwise: Program<L>,
    },
    Each {
        list: Name,
        inner: Program<L>,
        otherwise: Program<L>,
    },
}

/// Members, from the innermost `each` or from the root.
type Name = Vec<String>;

#[derive(Debug)]
enum Operand {
    Name(Name),
    Literal(Value),
}

#[derive(Debug)]
enum Test {
    Name(Name),
    Any(Vec<Name>),
    All(Vec<Name>),
    IsFirst,
    IsLast,
    Not(Box<Self>),
}

/// Templates by name: a partial is read as if its text stood where it is named. None of them reaches itself.
pub(super) type Partials = BTreeMap<String, Template>;

/// Reads a template; `None` if it holds anything else.
pub(super) fn read(template: &Template, partials: &Partials) -> Option<Program> {
    let mut steps = Vec::new();
    for element in &template.elements {
        match element {
            TemplateElement::Comment(_) => {}
            TemplateElement::PartialExpression(partial) => steps.extend(included(partial, partials)?.0),
            element => steps.push(step(element, partials)?),
        }
    }
    Some(Program(steps))
}

fn included(partial: &DecoratorTemplate, partials: &Partials) -> Option<Program> {
    let plain = partial.params.is_empty() && partial.hash.is_empty() && partial.indent.is_none();
    let named = partial.name.as_name().filter(|_| plain && partial.template.is_none())?;
    read(partials.get(named)?, partials)
}

fn step(element: &TemplateElement, partials: &Partials) -> Option<Step<String>> {
    match element {
        TemplateElement::RawString(text) => Some(Step::Literal(text.clone())),
        TemplateElement::Expression(expression) if expression.hash.is_empty() => print(expression),
        TemplateElement::HelperBlock(block) if block.hash.is_empty() && block.block_param.is_none() => {
            nest(block, partials)
        }
        _ => None,
    }
}

fn print(expression: &HelperTemplate) -> Option<Step<String>> {
    match (expression.name.as_name()?, expression.params.as_slice()) {
        (helper, []) if SHAPES.iter().any(|shape| shape.name == helper) => None,
        (_, []) => name(&expression.name).map(Step::Print),
        ("default", operands) => operands.iter().map(operand).collect::<Option<_>>().map(Step::PrintFirst),
        (JSON, [value]) if value.as_name() == Some("event.body") => Some(Step::PrintBody),
        (JSON, [value]) => name(value).map(Step::PrintJson),
        _ => None,
    }
}

fn nest(block: &HelperTemplate, partials: &Partials) -> Option<Step<String>> {
    let [parameter] = block.params.as_slice() else { return None };
    let inner = block.template.as_ref().map(|inner| read(inner, partials))?;
    let otherwise = block.inverse.as_ref().map_or(Some(Program(vec![])), |inverse| read(inverse, partials))?;
    match block.name.as_name()? {
        "each" => Some(Step::Each { list: name(parameter)?, inner: inner?, otherwise }),
        "if" => Some(Step::If { test: test(parameter)?, then: inner?, otherwise }),
        "unless" => Some(Step::If { test: Test::Not(Box::new(test(parameter)?)), then: inner?, otherwise }),
        _ => None,
    }
}

fn test(parameter: &Parameter) -> Option<Test> {
    match parameter {
        Parameter::Path(Path::Local((0, variable, _))) if variable == "first" => Some(Test::IsFirst),
        Parameter::Path(Path::Local((0, variable, _))) if variable == "last" => Some(Test::IsLast),
        Parameter::Subexpression(call) if call.hash().is_some_and(std::collections::HashMap::is_empty) => {
            let names = call.params()?.iter().map(name).collect::<Option<_>>()?;
            match call.as_element() {
                TemplateElement::Expression(call) if call.name.as_name() == Some("or") => Some(Test::Any(names)),
                TemplateElement::Expression(call) if call.name.as_name() == Some("and") => Some(Test::All(names)),
                _ => None,
            }
        }
        parameter => name(parameter).map(Test::Name),
    }
}

fn operand(parameter: &Parameter) -> Option<Operand> {
    match parameter {
        Parameter::Literal(value) => Some(Operand::Literal(value.clone())),
        parameter => name(parameter).map(Operand::Name),
    }
}

/// A name without `..`, `@` or `this`.
fn name(parameter: &Parameter) -> Option<Name> {
    let Parameter::Path(Path::Relative((steps, _))) = parameter else { return None };
    let member = |step: &PathSeg| match step {
        PathSeg::Named(member) => Some(member.clone()),
        _ => None,
    };
    steps.iter().map(member).collect::<Option<Name>>().filter(|name| !name.is_empty())
}

/// What names stand for.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    root: &'a Value,
    /// Where the root is a context: it makes some members when they are read.
    context: Option<&'a Context>,
    /// Instead of the context's own.
    event: Option<&'a Value>,
    /// The event's, which is not in `event`: most webhooks print it, and nothing is copied for that.
    body: Option<&'a Map<String, Value>>,
}

impl<'a> Scope<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        Self { root, context: None, event: None, body: None }
    }

    /// `event` has the fields that are read, if there are any.
    pub(super) fn of(context: &'a Context, event: Option<&'a Value>) -> Self {
        Self { context: Some(context), event, ..Self::new(context.data()) }
    }

    pub(super) fn for_machines(context: &'a Context, shown: &'a Value, event: &'a Event) -> Self {
        Self { body: Some(event.body()), ..Self::of(context, Some(shown)) }
    }

    fn find(self, name: &[String]) -> Option<&'a Value> {
        let (first, rest) = name.split_first()?;
        let start = match self.event {
            // Without its body and most of its fields it is no answer to `{{json event}}`.
            Some(_) if first == "event" && rest.is_empty() => return None,
            Some(event) if first == "event" => event,
            _ => match self.context.and_then(|context| context.made(first)) {
                Some(made) => made,
                None => self.root.as_object()?.get(first)?,
            },
        };
        rest.iter().try_fold(start, |value, member| value.as_object()?.get(member))
    }
}

/// What a program's output goes to; `None` from any of these ends the run.
pub(super) trait Output<L> {
    fn literal(&mut self, literal: &L) -> Option<()>;
    /// A printed value.
    fn value(&mut self, text: &str) -> Option<()>;
    /// A value printed as JSON.
    fn json(&mut self, value: &Value) -> Option<()>;
    fn body(&mut self, body: &Map<String, Value>) -> Option<()>;
}

/// Output of a template that is no JSON.
pub(super) struct Text {
    escape: fn(&str, &mut String),
    text: String,
}

impl Output<String> for Text {
    fn literal(&mut self, literal: &String) -> Option<()> {
        self.text.push_str(literal);
        (self.text.len() <= OUTPUT_BYTES_MAX).then_some(())
    }

    fn value(&mut self, text: &str) -> Option<()> {
        (self.escape)(text, &mut self.text);
        (self.text.len() <= OUTPUT_BYTES_MAX).then_some(())
    }

    fn json(&mut self, _: &Value) -> Option<()> {
        None
    }

    fn body(&mut self, _: &Map<String, Value>) -> Option<()> {
        None
    }
}

/// Where in the innermost `each` a step stands: at the first item, at the last.
type Ends = (bool, bool);

impl Program {
    /// `None` if it is handlebars' to render this, or to say what is wrong.
    pub(super) fn text(&self, scope: Scope<'_>, escape: fn(&str, &mut String)) -> Option<String> {
        let mut out = Text { escape, text: String::with_capacity(2048) };
        self.run(scope, &mut out)?;
        Some(out.text)
    }

    /// The same for a JSON template; `None` if it cannot be said beforehand what its literals are.
    pub(super) fn tokenised(self) -> Option<Program<Tokens>> {
        let mut lexer = Lexer::default();
        let program = self.tokens(&mut lexer)?;
        (lexer == Lexer::default()).then_some(program)
    }

    fn tokens(self, lexer: &mut Lexer) -> Option<Program<Tokens>> {
        let mut steps = Vec::with_capacity(self.0.len());
        for step in self.0 {
            let before = *lexer;
            // Whichever branch is taken, and however often, what follows must be read alike.
            let branch = |program: Self| {
                let mut after = before;
                Some((program.tokens(&mut after)?, after))
            };
            steps.push(match step {
                Step::Literal(text) => Step::Literal(lexer.read(&text)?),
                Step::Print(name) if lexer.in_string => Step::Print(name),
                Step::PrintFirst(operands) if lexer.in_string => Step::PrintFirst(operands),
                Step::PrintJson(name) if !lexer.in_string => Step::PrintJson(name),
                Step::PrintBody if !lexer.in_string => Step::PrintBody,
                Step::If { test, then, otherwise } => {
                    let ((then, after), (otherwise, same)) = (branch(then)?, branch(otherwise)?);
                    *lexer = (after == same).then_some(after)?;
                    Step::If { test, then, otherwise }
                }
                Step::Each { list, inner, otherwise } => {
                    let ((inner, after), (otherwise, same)) = (branch(inner)?, branch(otherwise)?);
                    (after == before && same == before).then_some(())?;
                    Step::Each { list, inner, otherwise }
                }
                _ => return None,
            });
        }
        Some(Program(steps))
    }
}

impl<L> Program<L> {
    /// `None` if it is handlebars' to render this, or to say what is wrong.
    pub(super) fn run(&self, scope: Scope<'_>, out: &mut impl Output<L>) -> Option<()> {
        self.steps(scope, None, out)
    }

    fn steps(&self, scope: Scope<'_>, ends: Option<Ends>, out: &mut impl Output<L>) -> Option<()> {
        for step in &self.0 {
            match step {
                Step::Literal(literal) => out.literal(literal)?,
                Step::Print(name) => print_value(scope.find(name)?, out)?,
                Step::PrintFirst(operands) => print_value(first_operand(operands, scope)?, out)?,
                Step::PrintJson(name) => out.json(scope.find(name)?)?,
                Step::PrintBody => out.body(scope.body?)?,
                Step::If { test, then, otherwise } => {
                    let branch = if test.holds(scope, ends)? { then } else { otherwise };
                    branch.steps(scope, ends, out)?;
                }
                Step::Each { list, inner, otherwise } => {
                    let items = scope.find(list)?.as_array()?;
                    for (at, item) in items.iter().enumerate() {
                        inner.steps(Scope::new(item), Some((at == 0, at + 1 == items.len())), out)?;
                    }
                    if items.is_empty() {
                        otherwise.steps(scope, ends, out)?;
                    }
                }
            }
        }
        Some(())
    }
}

fn print_value<L>(value: &Value, out: &mut impl Output<L>) -> Option<()> {
    match value {
        Value::String(text) => out.value(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => out.value(&value.render()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn first_operand<'a>(operands: &'a [Operand], scope: Scope<'a>) -> Option<&'a Value> {
    let value = |operand: &'a Operand| match operand {
        Operand::Name(name) => scope.find(name),
        Operand::Literal(value) => Some(value),
    };
    let values: Vec<_> = operands.iter().map(value).collect::<Option<_>>()?;
    Some(first_given(&values))
}

impl Test {
    fn holds(&self, scope: Scope<'_>, ends: Option<Ends>) -> Option<bool> {
        let truth = |name: &Name| scope.find(name).map(|value| value.is_truthy(false));
        match self {
            Self::Name(name) => truth(name),
            Self::Any(names) => names.iter().map(truth).try_fold(false, |any, truth| Some(any | truth?)),
            Self::All(names) => names.iter().map(truth).try_fold(true, |all, truth| Some(all & truth?)),
            Self::IsFirst => ends.map(|(first, _)| first),
            Self::IsLast => ends.map(|(_, last)| last),
            Self::Not(test) => test.holds(scope, ends).map(|truth| !truth),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use crate::model::Event;
    use crate::render::hostile_tests::{self, HOSTILE};
    use crate::render::snapshot_tests::{context, sample};
    use crate::render::{Context, Renderer, shape_of, taint};

    fn contexts() -> Vec<Context> {
        let hostile = HOSTILE.map(|text| {
            json!({"event_id": text, "key": "k", "subject": text, "target": text, "url": text, "a": text, "b": [text],
                "c": {text: text}, "zero": 0, "no": false, "minus": -1.5e300, "nothing": null, "empty": ""})
        });
        let records = hostile.into_iter().chain([json!({"event_id": "1", "key": "k"})]);
        let events = records.map(|mut record| {
            if let Some(id) = record["event_id"].as_str().filter(|id| id.chars().any(char::is_control)) {
                record["event_id"] = json!(id.escape_default().to_string());
            }
            Event::from_value(record).unwrap()
        });
        let events = events.chain([sample("website-cert-expiring"), sample("firewall-banner-change")]);
        let with = |event: Event| {
            [
                context(&event, |_| ()),
                context(&event, |about| {
                    about.runbook = None;
                    about.now = about.received.plus(std::time::Duration::from_hours(3));
                    (about.may_repeat, about.test) = (true, true);
                }),
            ]
        };
        events.flat_map(with).collect()
    }

    #[test]
    fn a_program_gives_what_handlebars_gives() {
        let all = "{{headline}} {{#if late}}{{late}}{{else if test}}T{{else}}{{title}}{{/if}} {{#unless test}}-{{/unless}}\n\
            {{#each facts}}{{label}}{{#if @first}}={{/if}}{{value}}{{#unless @last}},{{else}};{{/unless}}\n{{else}}none{{/each}}\n\
            {{~#if (or late runbook)}} x {{~/if}} {{#if (and test link.url)}}y{{/if}} {{default late event.subject \"n\"}}\n\
            {{! note }}{{severity.rank}}{{test}}{{late}}{{event.fields.a}}{{event.fields.missing}}{{event.fields.minus}}\
            {{#if event.fields.zero}}0{{/if}}{{#if event.fields.no}}1{{/if}}{{#if severity.rank}}2{{/if}}";
        let quoted = all.replace('\n', "\\n");
        let json = format!(
            "{{ \"s\": \"{quoted}\", \"b\": {{{{json event.body}}}}, \"e\": {{{{json event.subject}}}}, \"f\": {{{{json event.fields.a}}}} }}",
        );
        let json = json.replace("\\\"", "'").replace("\"n\"", "'n'");
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("webhook")).unwrap();
        fs::create_dir(dir.path().join("email")).unwrap();
        fs::write(dir.path().join("webhook/all.hbs"), json).unwrap();
        fs::write(dir.path().join("webhook/whole.hbs"), "{\"event\": {{json event}}}").unwrap();
        fs::write(dir.path().join("email/all.text.hbs"), all).unwrap();
        let renderer = Renderer::load(Some(dir.path()), &[]).unwrap_or_else(|errors| panic!("{errors:#?}"));
        let contexts: Vec<_> =
            contexts().into_iter().chain(HOSTILE.into_iter().flat_map(hostile_tests::contexts)).collect();
        let mut compared = 0;
        for (format, templates) in &renderer.formats {
            for name in templates.read.keys() {
                for context in contexts.iter().filter(|context| context.shape() == shape_of(name)) {
                    let slow = || templates.by_handlebars(*format, name, context).unwrap();
                    let (quick, slow) = match format.is_json() {
                        true if name == "whole" => (templates.document(*format, name, context), None),
                        true => (templates.document(*format, name, context), Some(taint::parse(&slow()).unwrap())),
                        false => (templates.by_program(*format, name, context).map(Value::String), Some(slow().into())),
                    };
                    assert_eq!(
                        quick, slow,
                        "{format:?} {name}: `whole` has only a part at hand, all others need no handlebars"
                    );
                    compared += 1;
                }
            }
        }
        let (all, shapes) = (contexts.len(), HOSTILE.len());
        // So many built-in parts for each shape, two more for events, and the part that is refused.
        let parts = renderer.formats.len();
        assert_eq!(compared, (parts + 3) * (all - 2 * shapes) + parts * 2 * shapes);
    }

    #[test]
    fn what_else_there_is_stays_with_handlebars() {
        let cases = [
            "{{#with event}}{{id}}{{/with}}",
            "{{#each facts}}{{../title}}{{/each}}",
            "{{#each facts}}{{@root.title}}{{/each}}",
            "{{#each facts}}{{@index}}{{/each}}",
            "{{#each facts as |fact|}}{{fact.label}}{{/each}}",
            "{{#each facts}}{{this.label}}{{/each}}{{this}}",
            "{{#each facts}}{{#each event.fields}}{{#if @../last}}x{{/if}}{{/each}}{{/each}}",
            "{{upper title}}",
            "{{#if (eq title \"x\")}}{{/if}}",
            "{{#if severity.rank includeZero=true}}{{/if}}",
            "{{#if test}}{{lookup event.fields \"a\"}}{{/if}}",
            "{{> _part}}",
        ];
        for text in cases {
            let template = handlebars::Template::compile(text).unwrap();
            let known = super::read(&template, &super::Partials::new());
            assert!(known.is_none(), "{text}: {known:?}");
        }
    }
}
