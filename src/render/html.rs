//! Where in an HTML mail a value may stand: as text between tags, in a few double-quoted attributes, and in `href` if it is
//! one of the two addresses. Nowhere else are entities enough to keep a value inert.
//!
//! Reads literals letter by letter, the way browsers do, as far as is needed to know which of these a place is.
//! <https://html.spec.whatwg.org/multipage/parsing.html#tokenization>

/// Attributes whose value means nothing to a browser but text.
const ATTRIBUTES: [&str; 5] = ["alt", "title", "aria-label", "summary", "abbr"];
/// Attributes that change what is seen: an event could hide text with them, so only the severity may stand there.
const LOOKS: [&str; 3] = ["class", "bgcolor", "color"];
/// The only values that may be a link.
pub(super) const ADDRESSES: [&str; 2] = ["link.url", "runbook"];
/// Elements whose content is not text with entities.
const RAW: [&str; 8] = ["script", "style", "xmp", "iframe", "noembed", "noframes", "noscript", "plaintext"];

/// A place in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Html {
    state: State,
    /// The tag being read, in lower case, with its `/` if it closes; empty in text.
    tag: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Text,
    /// After `<`.
    Open,
    /// In `<!…`, with what has been read of it.
    Declaration(String),
    /// In `<!-- …`, with its last two letters.
    Comment(String),
    TagName,
    /// Between a tag's attributes.
    Tag,
    Name(String),
    /// After `name=`.
    Equals(String),
    Quoted {
        name: String,
        filled: Filled,
    },
    SingleQuoted,
    Unquoted,
    /// In an element of [`RAW`], with what may be its end tag.
    Raw(String),
}

/// What an attribute's value holds so far.
#[derive(Clone, Copy, Debug)]
enum Filled {
    Nothing,
    Text,
    /// One of [`ADDRESSES`]: nothing may follow.
    Address,
}

impl PartialEq for Filled {
    /// Nothing and text are one: a branch may leave out what another fills in.
    fn eq(&self, other: &Self) -> bool {
        matches!(self, Self::Address) == matches!(other, Self::Address)
    }
}

impl Eq for Filled {}

impl Default for Html {
    fn default() -> Self {
        Self { state: State::Text, tag: String::new() }
    }
}

impl Html {
    /// Reads a literal.
    pub(super) fn literal(&mut self, text: &str) -> Result<(), String> {
        text.chars().try_for_each(|letter| self.step(letter))
    }

    #[expect(clippy::match_same_arms, reason = "an arm a state, in the order of the specification")]
    fn step(&mut self, letter: char) -> Result<(), String> {
        let space = letter.is_ascii_whitespace();
        let state = std::mem::replace(&mut self.state, State::Text);
        self.state = match state {
            State::Text if letter == '<' => State::Open,
            State::Text => State::Text,
            State::Open if letter == '!' => State::Declaration(String::new()),
            State::Open if letter.is_ascii_alphabetic() || letter == '/' => {
                self.tag = letter.to_ascii_lowercase().to_string();
                State::TagName
            }
            // A bogus comment, as browsers call it.
            State::Open if letter == '?' => State::Declaration("?".to_owned()),
            State::Open if letter == '<' => State::Open,
            State::Open => State::Text,
            State::Declaration(_) if letter == '>' => State::Text,
            State::Declaration(read) if read == "-" && letter == '-' => State::Comment(String::new()),
            State::Declaration(read) => {
                State::Declaration(if read.len() < 2 { format!("{read}{letter}") } else { read })
            }
            State::Comment(read) if read == "--" && letter == '>' => State::Text,
            State::Comment(read) => State::Comment(last_two(&read, letter)),
            State::TagName | State::Tag if letter == '>' => self.enter(),
            State::TagName if space || (letter == '/' && self.tag != "/") => State::Tag,
            State::TagName => {
                self.tag.push(letter.to_ascii_lowercase());
                State::TagName
            }
            State::Tag if space || letter == '/' => State::Tag,
            State::Tag => State::Name(letter.to_ascii_lowercase().to_string()),
            State::Name(_) if letter == '>' => self.enter(),
            State::Name(name) if letter == '=' => State::Equals(name),
            State::Name(name) if space => State::Name(if name.ends_with(' ') { name } else { name + " " }),
            State::Name(_) if letter == '/' => State::Tag,
            // After a space another attribute begins.
            State::Name(name) if name.ends_with(' ') => State::Name(letter.to_ascii_lowercase().to_string()),
            State::Name(name) => State::Name(format!("{name}{}", letter.to_ascii_lowercase())),
            State::Equals(name) if space => State::Equals(name),
            State::Equals(name) if letter == '"' => {
                State::Quoted { name: name.trim_end().to_owned(), filled: Filled::Nothing }
            }
            State::Equals(_) if letter == '\'' => State::SingleQuoted,
            State::Equals(_) if letter == '>' => self.enter(),
            State::Equals(_) => State::Unquoted,
            State::Quoted { .. } if letter == '"' => State::Tag,
            State::Quoted { filled: Filled::Address, .. } => {
                return Err("the address must be the whole attribute".to_owned());
            }
            State::Quoted { name, .. } => State::Quoted { name, filled: Filled::Text },
            State::SingleQuoted if letter == '\'' => State::Tag,
            State::SingleQuoted => State::SingleQuoted,
            State::Unquoted if space => State::Tag,
            State::Unquoted if letter == '>' => self.enter(),
            State::Unquoted => State::Unquoted,
            State::Raw(read) => self.raw(read, letter),
        };
        Ok(())
    }

    /// What follows the `>` of a tag.
    fn enter(&mut self) -> State {
        if RAW.contains(&self.tag.as_str()) { State::Raw(String::new()) } else { self.leave() }
    }

    /// Text again: what tag it was no longer matters.
    fn leave(&mut self) -> State {
        self.tag.clear();
        State::Text
    }

    fn raw(&mut self, read: String, letter: char) -> State {
        let read = if letter == '<' { String::new() } else { read };
        let read = read + letter.to_ascii_lowercase().encode_utf8(&mut [0; 4]);
        let end = format!("</{}>", self.tag);
        if read == end {
            return self.leave();
        }
        State::Raw(if end.starts_with(&read) { read } else { String::new() })
    }

    /// Reads a value; `path` is the context member it is, if it is one.
    pub(super) fn value(&mut self, path: Option<&str>) -> Result<(), String> {
        match &mut self.state {
            State::Text => Ok(()),
            State::Quoted { name, filled } if name == "href" => {
                let is_address = path.is_some_and(|path| ADDRESSES.contains(&path));
                if !is_address || !matches!(filled, Filled::Nothing) {
                    return Err("`href` takes {{link.url}} or {{runbook}}, alone".to_owned());
                }
                *filled = Filled::Address;
                Ok(())
            }
            State::Quoted { name, filled } if ATTRIBUTES.contains(&name.as_str()) => {
                *filled = Filled::Text;
                Ok(())
            }
            State::Quoted { name, filled } if LOOKS.contains(&name.as_str()) => {
                if !path.is_some_and(|path| path.starts_with("severity.")) {
                    return Err(format!("`{name}` changes what is seen: it takes a member of severity and no other"));
                }
                *filled = Filled::Text;
                Ok(())
            }
            State::Quoted { name, .. } => Err(format!(
                "a value cannot stand in `{name}`, only in href, {} and {}",
                ATTRIBUTES.join(", "),
                LOOKS.join(", ")
            )),
            State::Comment(_) | State::Declaration(_) => Err("a value cannot stand in a comment".to_owned()),
            State::Raw(_) => Err(format!("a value cannot stand in <{}>", self.tag)),
            State::SingleQuoted | State::Unquoted | State::Equals(_) => {
                Err("an attribute with a value must be in double quotes".to_owned())
            }
            State::Open | State::TagName | State::Tag | State::Name(_) => {
                Err("a value cannot be a tag or an attribute's name".to_owned())
            }
        }
    }

    /// Whether a document may end here.
    pub(super) fn is_text(&self) -> bool {
        self.state == State::Text
    }
}

fn last_two(read: &str, letter: char) -> String {
    let mut letters = read.chars().rev().take(1).collect::<String>();
    letters.push(letter);
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `@` stands for a value, `#` for `link.url`, `$` for `severity.color`.
    fn read(template: &str) -> Result<Html, String> {
        let mut html = Html::default();
        for part in template.split_inclusive(['@', '#', '$']) {
            html.literal(part.trim_end_matches(['@', '#', '$']))?;
            match part.chars().last() {
                Some('@') => html.value(Some("headline"))?,
                Some('#') => html.value(Some("link.url"))?,
                Some('$') => html.value(Some("severity.color"))?,
                _ => {}
            }
        }
        Ok(html)
    }

    #[test]
    fn where_values_may_stand() {
        for template in [
            "@",
            "<p>@</p>",
            "<!DOCTYPE html><html><head><title>@</title></head>",
            "<p class=\"a $\" title=\"@\">@",
            "<a href=\"#\">@</a>",
            "<a style=\"x\" href = \"#\" >@</a>",
            "<style>p > a { color: red }</style><p>@",
            "<!-- > -- --><p>@",
            "<br/><hr />@<img alt=\"@\" src=\"cid:logo\">",
            "1 < 2 @",
            "<a disabled href=\"#\">",
            "<td bgcolor=\"$\">@",
            "<style/x>a</style>@",
            "<hr/title=\"@\">@",
        ] {
            assert!(read(template).is_ok(), "{template}: {:?}", read(template));
        }
    }

    #[test]
    fn where_values_may_not() {
        for (template, why) in [
            ("<@>", "a value cannot be a tag or an attribute's name"),
            ("<p@>", "a value cannot be a tag or an attribute's name"),
            ("<p @>", "a value cannot be a tag or an attribute's name"),
            ("<p a@=\"x\">", "a value cannot be a tag or an attribute's name"),
            ("<p title=@>", "an attribute with a value must be in double quotes"),
            ("<p title=x@>", "an attribute with a value must be in double quotes"),
            ("<p title='@'>", "an attribute with a value must be in double quotes"),
            ("<p style=\"color:@\">", "a value cannot stand in `style`"),
            ("<p onclick=\"@\">", "a value cannot stand in `onclick`"),
            ("<img src=\"#\">", "a value cannot stand in `src`"),
            ("<a href=\"@\">", "`href` takes {{link.url}} or {{runbook}}, alone"),
            ("<a href=\"https://x/#\">", "`href` takes {{link.url}} or {{runbook}}, alone"),
            ("<a href=\"##\">", "`href` takes {{link.url}} or {{runbook}}, alone"),
            ("<a href=\"#x\">", "the address must be the whole attribute"),
            ("<a HREF=\"@\">", "`href` takes {{link.url}} or {{runbook}}, alone"),
            ("<!-- @ -->", "a value cannot stand in a comment"),
            ("<!-- a -- > @ -->", "a value cannot stand in a comment"),
            ("<!x @>", "a value cannot stand in a comment"),
            ("<script>var x = \"@\"</script>", "a value cannot stand in <script>"),
            ("<STYLE>a</p>@", "a value cannot stand in <style>"),
            ("<style/x>@</style>", "a value cannot stand in <style>"),
            ("<script/>@", "a value cannot stand in <script>"),
            ("<p class=\"@\">", "`class` changes what is seen"),
            ("<td bgcolor=\"@\">", "`bgcolor` changes what is seen"),
            ("<p lang=\"@\">", "a value cannot stand in `lang`"),
            ("<style>a</styles>@", "a value cannot stand in <style>"),
        ] {
            let result = read(template);
            assert!(result.as_ref().is_err_and(|error| error.starts_with(why)), "{template}: {result:?}");
        }
        assert!(!read("<p title=\"").unwrap().is_text());
        assert!(read("<p title=\"x\">").unwrap().is_text());
    }
}
