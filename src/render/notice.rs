//! News of the relay itself: a destination refuses messages.
//!
//! What a template sees as `notice`, beside the members that all shapes have:
//!
//! | member | what it is |
//! |---|---|
//! | `destination` | the one that takes no messages |
//! | `reason` | why, as its channel said it: `channel_is_archived` |
//! | `waiting` | how many deliveries wait for it |
//! | `remedy` | what to do next |

use serde_json::json;

use super::context::{Circumstances, FACT_MAX, NAME_MAX, Said, Shape, Told, reason};
use super::text::{clean, shorten};
use crate::model::DestinationName;

/// A destination takes no messages: its channel says that it is gone, closed or forbidden.
#[derive(Clone, Copy, Debug)]
pub struct Notice<'a> {
    pub destination: &'a DestinationName,
    /// As its channel said it: `channel_is_archived`.
    pub reason: &'a str,
    /// How many deliveries wait for it.
    pub waiting: u64,
}

/// Slack takes 150 characters in a header block, of which two are an emoji's. With the longest name, and a test's mark, there
/// are some fifty left for the reason.
const HEADLINE_MAX: usize = 148;

pub(super) fn told(notice: &Notice<'_>, about: &Circumstances<'_>) -> Told {
    let name = clean(notice.destination.as_str(), NAME_MAX);
    let why = reason(notice.reason, FACT_MAX);
    let title = format!("{name} takes no messages");
    let before = format!("{}NOTICE · {title}", if about.test { "TEST · " } else { "" });
    let room = HEADLINE_MAX.saturating_sub(before.chars().count() + " · ".chars().count());
    let short = shorten(&why, room);
    let because = if why.is_empty() { String::new() } else { format!(" · {short}") };
    let waiting = match notice.waiting {
        0 => "no deliveries".to_owned(),
        1 => "1 delivery".to_owned(),
        more => format!("{more} deliveries"),
    };
    let remedy = format!(
        "mend {name} or its settings, then run: systemctl reload halo-relay. \
        Until then what was meant for it comes here; halo-relay status shows more."
    );
    // The headline says why, unless it had to cut it.
    let waiting = if short == why { waiting } else { format!("{waiting}, because {name} says: {why}") };
    let facts = [("Waiting", waiting), ("What to do", remedy.clone())];
    Told {
        said: Said { shape: Shape::Notice, headline: before + &because, title },
        facts: facts.into_iter().map(|(label, value)| json!({"label": label, "value": value})).collect(),
        data: json!({"destination": name, "reason": why, "waiting": notice.waiting, "remedy": remedy}),
    }
}
