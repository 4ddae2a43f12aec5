//! Renders what most templates consist of, without handlebars: printed names, `json`, `default`, `if`, `unless` and `each`
//! over names that lead down from where they stand.
//!
//! handlebars looks up every name and helper afresh each time and copies most of what it touches, which is the greater part
//! of the time that a message takes. A template that holds nothing else is read into a [`Program`] at load. A program
//! gives what handlebars would give or nothing at all: what it does not know ([`read`]) or does not meet as expected
//! ([`Program::run`]) is left to handlebars, and so are all errors.

use std::collections::BTreeMap;

use handlebars::template::{DecoratorTemplate, HelperTemplate, Parameter, Template, TemplateElement};
use handlebars::{JsonRender as _, JsonTruthy as _, Path, PathSeg};
use serde_json::{Map, Value};

use super::OUTPUT_BYTES_MAX;
use super::helpers::{JSON, SHAPES, first_given};
use super::taint::mark_json;
use crate::model::Event;

/// A template as a list of steps.
#[derive(Debug)]
pub(super) struct Program(Vec<Step>);

#[derive(Debug)]
enum Step {
    Text(String),
    Print(Name),
    /// The first that is neither null nor empty.
    PrintFirst(Vec<Operand>),
    PrintJson(Name),
    /// `{{json event.body}}`
    PrintBody,
    If {
        test: Test,
        then: Program,
        otherwise: Program,
    },
    Each {
        list: Name,
        inner: Program,
        otherwise: Option<Program>,
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

fn step(element: &TemplateElement, partials: &Partials) -> Option<Step> {
    match element {
        TemplateElement::RawString(text) => Some(Step::Text(text.clone())),
        TemplateElement::Expression(expression) if expression.hash.is_empty() => print(expression),
        TemplateElement::HelperBlock(block) if block.hash.is_empty() && block.block_param.is_none() => {
            nest(block, partials)
        }
        _ => None,
    }
}

fn print(expression: &HelperTemplate) -> Option<Step> {
    match (expression.name.as_name()?, expression.params.as_slice()) {
        (helper, []) if SHAPES.iter().any(|shape| shape.name == helper) => None,
        (_, []) => name(&expression.name).map(Step::Print),
        ("default", operands) => operands.iter().map(operand).collect::<Option<_>>().map(Step::PrintFirst),
        (JSON, [value]) if value.as_name() == Some("event.body") => Some(Step::PrintBody),
        (JSON, [value]) => name(value).map(Step::PrintJson),
        _ => None,
    }
}

fn nest(block: &HelperTemplate, partials: &Partials) -> Option<Step> {
    let [parameter] = block.params.as_slice() else { return None };
    let inner = block.template.as_ref().map(|inner| read(inner, partials))?;
    let otherwise = block.inverse.as_ref().map(|inverse| read(inverse, partials).ok_or(())).transpose().ok()?;
    match block.name.as_name()? {
        "each" => Some(Step::Each { list: name(parameter)?, inner: inner?, otherwise }),
        "if" => {
            Some(Step::If { test: test(parameter)?, then: inner?, otherwise: otherwise.unwrap_or(Program(vec![])) })
        }
        "unless" => {
            let test = Test::Not(Box::new(test(parameter)?));
            Some(Step::If { test, then: inner?, otherwise: otherwise.unwrap_or(Program(vec![])) })
        }
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
    /// Instead of the root's own.
    event: Option<&'a Value>,
    /// The event's, which is not in `event`: most webhooks print it, and nothing is copied for that.
    body: Option<&'a Map<String, Value>>,
}

impl<'a> Scope<'a> {
    pub(super) fn new(root: &'a Value, event: Option<&'a Value>) -> Self {
        Self { root, event, body: None }
    }

    pub(super) fn for_machines(root: &'a Value, shown: &'a Value, event: &'a Event) -> Self {
        Self { root, event: Some(shown), body: Some(event.body()) }
    }

    fn find(self, name: &[String]) -> Option<&'a Value> {
        let (first, rest) = name.split_first()?;
        let start = match self.event {
            // Without its body and most of its fields it is no answer to `{{json event}}`.
            Some(_) if first == "event" && rest.is_empty() => return None,
            Some(event) if first == "event" => event,
            _ => self.root.as_object()?.get(first)?,
        };
        rest.iter().try_fold(start, |value, member| value.as_object()?.get(member))
    }
}

/// A program that is running.
struct Run {
    escape: fn(&str, &mut String),
    out: String,
}

/// Where in the innermost `each` a step stands: at the first item, at the last.
type Ends = (bool, bool);

impl Program {
    /// `None` if it is handlebars' to render this, or to say what is wrong.
    pub(super) fn run(&self, scope: Scope<'_>, escape: fn(&str, &mut String)) -> Option<String> {
        let mut run = Run { escape, out: String::with_capacity(2048) };
        run.steps(&self.0, scope, None)?;
        Some(run.out)
    }
}

impl Run {
    fn steps(&mut self, steps: &[Step], scope: Scope<'_>, ends: Option<Ends>) -> Option<()> {
        for step in steps {
            match step {
                Step::Text(text) => self.out.push_str(text),
                Step::Print(name) => self.print(scope.find(name)?)?,
                Step::PrintFirst(operands) => self.print_first(operands, scope)?,
                Step::PrintJson(name) => mark_json(scope.find(name)?, &mut self.out),
                Step::PrintBody => mark_json(scope.body?, &mut self.out),
                Step::If { test, then, otherwise } => {
                    let branch = if test.holds(scope, ends)? { then } else { otherwise };
                    self.steps(&branch.0, scope, ends)?;
                }
                Step::Each { list, inner, otherwise } => {
                    let items = scope.find(list)?.as_array()?;
                    for (at, item) in items.iter().enumerate() {
                        self.steps(&inner.0, Scope::new(item, None), Some((at == 0, at + 1 == items.len())))?;
                    }
                    if let (true, Some(otherwise)) = (items.is_empty(), otherwise) {
                        self.steps(&otherwise.0, scope, ends)?;
                    }
                }
            }
            if self.out.len() > OUTPUT_BYTES_MAX {
                return None;
            }
        }
        Some(())
    }

    fn print(&mut self, value: &Value) -> Option<()> {
        match value {
            Value::String(text) => (self.escape)(text, &mut self.out),
            Value::Null | Value::Bool(_) | Value::Number(_) => (self.escape)(&value.render(), &mut self.out),
            Value::Array(_) | Value::Object(_) => return None,
        }
        Some(())
    }

    fn print_first(&mut self, operands: &[Operand], scope: Scope<'_>) -> Option<()> {
        let value = |operand: &Operand| match operand {
            Operand::Name(name) => scope.find(name).cloned(),
            Operand::Literal(value) => Some(value.clone()),
        };
        let values: Vec<_> = operands.iter().map(value).collect::<Option<_>>()?;
        self.print(&first_given(&values.iter().collect::<Vec<_>>()))
    }
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

    use serde_json::json;

    use crate::model::Event;
    use crate::render::hostile_tests::HOSTILE;
    use crate::render::snapshot_tests::{context, sample};
    use crate::render::{Context, DEFAULT, Renderer, Shape, is_partial, shape_of};

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
        let renderer = Renderer::load(Some(dir.path())).unwrap_or_else(|errors| panic!("{errors:#?}"));
        let mut compared = 0;
        for (format, templates) in &renderer.formats {
            assert!(templates.programs.contains_key(DEFAULT), "{format:?}: the built-in template needs no handlebars");
            let of_events =
                templates.programs.keys().filter(|name| !is_partial(name) && shape_of(name) == Shape::Event);
            for name in of_events {
                for context in contexts() {
                    let facts = &templates.read[name];
                    if name == "whole" {
                        assert_eq!(
                            templates.by_program(*format, name, &context, facts),
                            None,
                            "only a part is at hand"
                        );
                        continue;
                    }
                    let program = templates.by_program(*format, name, &context, facts).unwrap();
                    let handlebars = templates.by_handlebars(*format, name, &context, facts).unwrap();
                    assert_eq!(program, handlebars, "{format:?} {name}");
                    compared += 1;
                }
            }
        }
        assert_eq!(compared, 8 * contexts().len(), "six built-in parts and two of this test");
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
