//! The known event keys: what each is called, how urgent it is, which facts matter and in which order, and a sample event.
//!
//! The vendor's archive names 67 keys (<https://docs.halosecurity.com/api/events-archive>) and says itself that more may
//! come, so nothing here limits what is relayed: an unknown key is routed and shown like any other.
//!
//! **What is fact and what is guess.** Keys and subjects are the vendor's. Field names are the vendor's where
//! [`Known::documented`] is true; for all other keys the names in `facts` and in the sample are *our guess*, made in the
//! style of the documented ones. A guess that misses costs a fact in a message, never an event.

use std::sync::LazyLock;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::model::{Event, EventKey, Severity};

/// One known key.
#[derive(Debug, Deserialize)]
pub struct Known {
    /// `website-cert-expiring`.
    pub key: &'static str,
    /// The vendor's subject line; several keys may share one.
    pub subject: &'static str,
    /// What people read: the subject in sentence case.
    pub title: &'static str,
    /// How urgent such an event is where nobody has said it of the rule. Critical: broken or expired now, or visitors are
    /// at risk now. High: it will be soon, or may be an attack. Medium: to be looked at on a working day. Low: new, seldom
    /// wrong. Info: done by the scanner or by one's own staff.
    #[serde(deserialize_with = "severity")]
    pub severity: Severity,
    /// Whether the vendor documents the event-specific fields; see above.
    pub documented: bool,
    /// What to tell of such an event, most important first.
    pub facts: Vec<Fact>,
    /// The fields that tell of a deadline, the first there is: days left as a number, or a date.
    pub deadline: Vec<&'static str>,
    target: Option<&'static str>,
    sample: Map<String, Value>,
}

/// An event-specific field and the label people read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Fact {
    pub field: &'static str,
    pub label: &'static str,
}

impl Known {
    /// The names of all event-specific fields known or guessed for this key.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        let guessed = self.facts.iter().map(|fact| fact.field).filter(|field| !self.sample.contains_key(*field));
        self.sample.keys().map(String::as_str).chain(guessed)
    }
}

fn severity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Severity, D::Error> {
    <&str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// The severity of an event where neither a rule nor the rules file says one: the catalogue's; of a key nobody knows, info.
pub fn usual_severity(key: &str) -> Severity {
    find(key).map_or(Severity::Info, |known| known.severity)
}

/// All known keys, in alphabetical order.
pub fn all() -> &'static [Known] {
    static ALL: LazyLock<Vec<Known>> = LazyLock::new(|| {
        #[expect(clippy::expect_used, reason = "compiled-in data that every test run reads")]
        serde_json::from_str(include_str!("catalogue/events.json")).expect("the compiled-in catalogue is readable")
    });
    &ALL
}

/// What is known of a key.
pub fn find(key: &str) -> Option<&'static Known> {
    let at = all().binary_search_by(|known| known.key.cmp(key)).ok()?;
    all().get(at)
}

/// A realistic event of this key, always the same; of an unknown key, one with a single `detail`.
/// It looks as the event API sends them: times to the minute, the target as an object.
#[expect(clippy::missing_panics_doc, reason = "an id and a key are all an event needs, and both are set")]
pub fn sample(key: &EventKey) -> Event {
    let known = find(key.as_str());
    let id = format!("20261123094100{:016x}{:016x}{:03x}", digest(key, 1), digest(key, 2), digest(key, 3) & 0xFFF);
    let mut record = Map::new();
    let subject = known.map_or("New kind of event", |known| known.subject);
    record.insert("url".to_owned(), json!(format!("https://app.halosecurity.com/link?q=user-event&id={id}")));
    record.insert("event_id".to_owned(), json!(id));
    record.insert("key".to_owned(), json!(key.as_str()));
    record.insert("subject".to_owned(), json!(subject));
    record.insert("date_created".to_owned(), json!("2026-11-23 09:41"));
    if let Some(target) = known.map_or(Some("www.example.org"), |known| known.target) {
        record.insert("target".to_owned(), json!({"target_name": "", "target_id": 123_456, "target": target}));
    }
    match known {
        Some(known) => record.extend(known.sample.clone()),
        None => record.extend([("detail".to_owned(), json!("sample"))]),
    }
    #[expect(clippy::expect_used, reason = "an id and a key are all an event needs, and both are set above")]
    Event::from_value(Value::Object(record)).expect("a sample is an event")
}

/// FNV-1a: ids that differ from key to key and stay the same from run to run.
/// <https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>
fn digest(key: &EventKey, salt: u8) -> u64 {
    key.as_str()
        .bytes()
        .chain([salt])
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn all_keys_are_there_once_and_in_order() {
        assert_eq!(all().len(), 67);
        assert!(all().windows(2).all(|pair| pair[0].key < pair[1].key));
        assert_eq!(all().iter().filter(|known| known.documented).count(), 6);
        for known in all() {
            assert_eq!(find(known.key).map(|found| found.key), Some(known.key));
        }
        assert!(find("website-cert").is_none());
        assert!(find("").is_none());
    }

    /// A phone's preview shows some forty letters: a title must leave room for the host.
    const TITLE_MAX: usize = 34;
    const LABEL_MAX: usize = 16;

    #[test]
    fn every_entry_is_well_formed() {
        for known in all() {
            let key = known.key;
            let sentence_case = |text: &str| {
                let mut words = text.split_whitespace();
                let first =
                    words.next().is_some_and(|word| word.starts_with(|letter: char| letter.is_ascii_uppercase()));
                // Later words are in lower case, but for abbreviations and names.
                let names = ["API", "IP", "PCI", "SSL", "TLD"];
                first && words.all(|word| names.contains(&word) || !word.contains(|letter: char| letter.is_uppercase()))
            };
            assert!((5..=TITLE_MAX).contains(&known.title.len()) && known.title.is_ascii(), "{key}: {}", known.title);
            assert!(sentence_case(known.title), "{key}: {}", known.title);
            // It stands after `37 ×` too, and beside the target.
            assert!(!known.title.ends_with('s') || known.title.ends_with("address"), "{key}: {}", known.title);
            assert!(known.target.is_none_or(|target| !known.title.contains(target)), "{key}");
            assert!((2..=5).contains(&known.facts.len()), "{key}");
            let (fields, labels): (Vec<_>, Vec<_>) = known.facts.iter().map(|fact| (fact.field, fact.label)).unzip();
            for list in [&fields, &labels] {
                assert_eq!(list.iter().collect::<HashSet<_>>().len(), list.len(), "{key}: one is there twice");
            }
            assert!(labels.iter().all(|label| label.len() <= LABEL_MAX && sentence_case(label)), "{key}: {labels:?}");
            // The headline says it, in words.
            let days = |field: &&str| field.ends_with("_in_days") || field.ends_with("_days_ago");
            assert!(!fields.iter().any(days), "{key}");
            // At least two facts of each sample have something to say, and no fact of a documented key is made up.
            let told: HashSet<_> =
                fields.iter().filter_map(|field| known.sample.get(*field)).map(Value::to_string).collect();
            let others =
                told.iter().filter(|value| known.target.is_none_or(|target| **value != format!("\"{target}\"")));
            assert!(others.count() >= 1 && !told.is_empty(), "{key}");
            assert!(!known.documented || fields.iter().all(|field| known.sample.contains_key(*field)), "{key}");
            assert!(matches!(known.deadline.as_slice(), [] | ["expires_in_days", "expires_date"]), "{key}");
        }
    }

    #[test]
    fn severities_follow_one_rule() {
        let of = |key: &str| find(key).unwrap().severity;
        for known in all() {
            let expected = match known.key {
                key if key.ends_with("-expired") || key.ends_with("expire-past") => Some(Severity::Critical),
                key if key.ends_with("-expiring") || key.ends_with("expire-today") => Some(Severity::High),
                key if key.contains("-scan-f") && key != "target-scan-failed" => Some(Severity::Info),
                key if key.ends_with("-scan-start") => Some(Severity::Info),
                "target-add" | "domain-add" | "network-add" => Some(Severity::Info),
                _ => None,
            };
            assert!(expected.is_none_or(|expected| known.severity == expected), "{}", known.key);
        }
        // What visitors run, send or take home is worse than what they merely see.
        assert!(of("website-script-risk") > of("website-link-risk"));
        assert!(of("website-form-oos") > of("website-cookie-oos"));
        let critical: Vec<_> =
            all().iter().filter(|known| known.severity == Severity::Critical).map(|known| known.key).collect();
        assert_eq!(
            critical,
            [
                "pci-report-expire-past",
                "website-cert-expired",
                "website-download-risk",
                "website-form-risk",
                "website-script-risk",
                "website-whois-expired"
            ]
        );
        assert_eq!(
            (usual_severity("website-cert-expired"), usual_severity("brand-new")),
            (Severity::Critical, Severity::Info)
        );
    }

    #[test]
    fn samples_are_events_of_their_key() {
        let mut ids = HashSet::new();
        for known in all() {
            let event = sample(&EventKey::new(known.key).unwrap());
            assert_eq!(event.key.as_str(), known.key);
            assert_eq!(event.subject, known.subject);
            assert_eq!(event.id.as_str().len(), 49);
            assert_eq!(event.time.map(|time| time.to_string()).as_deref(), Some("2026-11-23T09:41:00Z"));
            assert!(event.url.is_some_and(|url| url.starts_with("https://app.halosecurity.com/link?q=user-event&id=")));
            assert!(ids.insert(event.id.as_str().to_owned()), "two keys share an id");
            if let [days, date] = known.deadline.as_slice() {
                assert!(known.sample.get(*days).is_some_and(Value::is_i64), "{}", known.key);
                assert!(known.sample.get(*date).is_some_and(Value::is_string), "{}", known.key);
            }
        }
    }

    /// The names on the vendor's pages, <https://docs.halosecurity.com/api/events-archive> and the pages below it.
    #[test]
    fn documented_samples_have_the_documented_fields() {
        let cases: [(&str, &[&str]); 6] = [
            (
                "firewall-banner-change",
                &["banner", "banner_prior", "detail", "port", "protocol", "scan_id", "target_id"],
            ),
            (
                "pci-report-expire-today",
                &["approved_date", "approved_days_ago", "expires_in_days", "report_id", "report_name"],
            ),
            (
                "website-cert-new-issuer",
                &["cert_issuer_c", "cert_issuer_cn", "cert_subject_cn", "detail", "host", "scan_id", "target_id"],
            ),
            ("website-cert-risk", &["risk", "risk_reason", "scan_id", "target_id"]),
            (
                "website-form-new-country",
                &["country", "detail", "form_action", "form_method", "host", "scan_id", "target_id"],
            ),
            ("website-form-oos", &["detail", "form_action", "form_method", "host", "scan_id", "target_id"]),
        ];
        for (key, fields) in cases {
            let known = find(key).unwrap();
            assert!(known.documented);
            let mut names: Vec<_> = known.fields().collect();
            names.sort_unstable();
            assert_eq!(names, fields, "{key}");
        }
    }

    #[test]
    fn an_unknown_key_has_a_sample_too() {
        let event = sample(&EventKey::new("brand-new \u{1F600}").unwrap());
        assert_eq!(event.key.as_str(), "brand-new \u{1F600}");
        assert_eq!(event.fields().count(), 1);
    }
}
