//! What a mail server's reply means for the message: tables, and pure functions over the reply and the moment it came in.
//!
//! The reply code alone does not tell: big providers answer "try again tomorrow" with a permanent code. So the tables look
//! at the enhanced code (RFC 3463) and a few of the providers' own phrases before the basic code (RFC 5321).

use std::fmt;

use crate::deliver::contract::{Row, THROTTLED};
use crate::model::Outcome;

/// How far the dialogue was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::deliver) enum Phase {
    /// Greeting, EHLO, STARTTLS.
    Hello,
    Login,
    Sender,
    Recipient,
    /// DATA and what follows it.
    Content,
}

impl Phase {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Hello => "greeting",
            Self::Login => "login",
            Self::Sender => "sender",
            Self::Recipient => "recipient",
            Self::Content => "message",
        }
    }

    /// For the tables.
    const fn commands(self) -> &'static str {
        match self {
            Self::Hello => "greeting, EHLO, STARTTLS",
            Self::Login => "AUTH",
            Self::Sender => "MAIL",
            Self::Recipient => "RCPT",
            Self::Content => "DATA and after",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// The text of each line. Hostile or private: for decisions only, never shown.
    pub(super) lines: Vec<String>,
}

impl Reply {
    pub(super) const fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// Subject and detail of the enhanced code: `(1, 1)` of `5.1.1`.
    fn enhanced(&self) -> Option<(u16, u16)> {
        let mut parts = self.lines.first()?.split_whitespace().next()?.splitn(3, '.');
        let class: u16 = parts.next()?.parse().ok()?;
        let (subject, detail) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        (class == self.code / 100 && subject < 1_000 && detail < 1_000).then_some((subject, detail))
    }

    /// `550 5.1.1`, for people.
    pub(super) fn codes(&self) -> String {
        match self.enhanced() {
            Some((subject, detail)) => format!("{} {}.{subject}.{detail}", self.code, self.code / 100),
            None => self.code.to_string(),
        }
    }

    fn says(&self, phrase: &str) -> bool {
        self.lines.iter().any(|line| line.to_ascii_lowercase().contains(phrase))
    }
}

/// What is to be seen of a reply, all of it at once; what is left empty may be anything.
#[derive(Debug)]
pub(in crate::deliver) struct Says {
    phases: &'static [Phase],
    codes: &'static [u16],
    /// The first digit of the code.
    class: Option<u16>,
    /// Enhanced codes of that class: subject, first and last detail.
    enhanced: &'static [(u16, u16, u16)],
    /// One of these, in lower case.
    phrases: &'static [&'static str],
    /// Asked at RCPT, and then about this recipient only: the others can still have the message.
    one_recipient: bool,
}

const ANY: Says = Says { phases: &[], codes: &[], class: None, enhanced: &[], phrases: &[], one_recipient: false };
const WHOLE: (u16, u16) = (0, 999);

impl Says {
    fn fits(&self, phase: Phase, reply: &Reply) -> bool {
        let in_range = |&(subject, first, last): &(u16, u16, u16)| {
            reply.enhanced().is_some_and(|(at, detail)| at == subject && (first..=last).contains(&detail))
        };
        (self.phases.is_empty() || self.phases.contains(&phase))
            && (self.codes.is_empty() || self.codes.contains(&reply.code))
            && self.class.is_none_or(|class| reply.code / 100 == class)
            && (self.enhanced.is_empty() || self.enhanced.iter().any(in_range))
            && (self.phrases.is_empty() || self.phrases.iter().any(|phrase| reply.says(phrase)))
    }
}

impl fmt::Display for Says {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phases: Vec<_> = self.phases.iter().map(|phase| phase.commands()).collect();
        if !phases.is_empty() {
            write!(f, "{}: ", phases.join(", "))?;
        }
        let class = self.class.or(self.codes.first().map(|code| code / 100));
        let enhanced = |&(subject, first, last): &(u16, u16, u16)| {
            let class = class.map_or_else(|| "x".to_owned(), |class| class.to_string());
            match (first, last) {
                WHOLE => format!("`{class}.{subject}.*`"),
                (first, last) if first == last => format!("`{class}.{subject}.{first}`"),
                (first, last) => format!("`{class}.{subject}.{first}` to `{class}.{subject}.{last}`"),
            }
        };
        let mut parts: Vec<String> = Vec::new();
        match (self.codes, self.class) {
            ([], None) => parts.push("any other".to_owned()),
            ([], Some(class)) if self.enhanced.is_empty() => parts.push(format!("`{class}yz`")),
            ([], Some(_)) => {}
            (codes, _) => {
                parts.push(codes.iter().map(|code| format!("`{code}`")).collect::<Vec<_>>().join(", "));
            }
        }
        if !self.enhanced.is_empty() {
            parts.push(self.enhanced.iter().map(enhanced).collect::<Vec<_>>().join(", "));
        }
        if !self.phrases.is_empty() {
            parts.push(format!("“{}”", self.phrases.join("” or “")));
        }
        if self.one_recipient {
            parts.push("(this recipient only)".to_owned());
        }
        f.write_str(&parts.join(" "))
    }
}

/// What a reply that is not a success means. The first line that fits decides; the last fits always.
pub(in crate::deliver) const REPLIES: &[Row<Says>] = &[
    Row {
        seen: Says { codes: &[454], phrases: &["throttling failure"], ..ANY },
        outcome: THROTTLED,
        why: "Amazon SES: the sending rate or the daily quota is used up",
        source: "https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-smtp.html",
    },
    Row {
        seen: Says { codes: &[550], enhanced: &[(4, 5, 5)], ..ANY },
        outcome: THROTTLED,
        why: "Gmail: the daily limit is used up",
        source: "https://support.google.com/a/answer/3726730",
    },
    Row {
        seen: Says { codes: &[554], phrases: &["submissionquotaexceeded"], ..ANY },
        outcome: THROTTLED,
        why: "Exchange: the quota of recipients is used up",
        source: "https://learn.microsoft.com/en-us/office365/servicedescriptions/exchange-online-service-description/exchange-online-limits",
    },
    Row {
        seen: Says { codes: &[530, 534, 535, 538], ..ANY },
        outcome: Outcome::RefusedDestination,
        why: "A login is required, too weak or wrong",
        source: "https://www.rfc-editor.org/rfc/rfc4954#section-6",
    },
    Row {
        seen: Says {
            phases: &[Phase::Recipient],
            class: Some(4),
            enhanced: &[(1, WHOLE.0, WHOLE.1), (2, WHOLE.0, WHOLE.1), (4, WHOLE.0, WHOLE.1)],
            one_recipient: true,
            ..ANY
        },
        outcome: Outcome::Transient,
        why: "The mailbox is full, or its domain cannot be found or reached: that can last for weeks",
        source: "https://www.rfc-editor.org/rfc/rfc3463#section-3",
    },
    Row {
        seen: Says { class: Some(4), ..ANY },
        outcome: Outcome::Transient,
        why: "Later: greylisting, a full disk, a server that shuts down",
        source: "https://www.rfc-editor.org/rfc/rfc5321#section-4.2.1",
    },
    Row {
        seen: Says { phases: &[Phase::Hello], class: Some(5), ..ANY },
        outcome: Outcome::Transient,
        why: "A server in trouble greets so",
        source: "https://www.rfc-editor.org/rfc/rfc5321#section-3.1",
    },
    Row {
        seen: Says { phases: &[Phase::Login], class: Some(5), ..ANY },
        outcome: Outcome::RefusedDestination,
        why: "The login cannot work",
        source: "https://www.rfc-editor.org/rfc/rfc4954#section-6",
    },
    Row {
        seen: Says { phases: &[Phase::Sender], class: Some(5), enhanced: &[(2, 0, 2)], ..ANY },
        outcome: Outcome::RefusedDestination,
        why: "The sender's mailbox is closed or full",
        source: "https://www.rfc-editor.org/rfc/rfc3463#section-3.3",
    },
    Row {
        seen: Says { phases: &[Phase::Sender], codes: &[552], ..ANY },
        outcome: Outcome::RefusedContent,
        why: "The message is too large",
        source: "https://www.rfc-editor.org/rfc/rfc1870#section-6.1",
    },
    Row {
        seen: Says { phases: &[Phase::Sender], class: Some(5), enhanced: &[(2, 3, 3), (3, 4, 4)], ..ANY },
        outcome: Outcome::RefusedContent,
        why: "The message is too large",
        source: "https://www.rfc-editor.org/rfc/rfc3463#section-3.4",
    },
    Row {
        seen: Says { phases: &[Phase::Sender], class: Some(5), ..ANY },
        outcome: Outcome::RefusedDestination,
        why: "The sender may not send here. Of the message, nothing was told yet but its size",
        source: "https://www.rfc-editor.org/rfc/rfc5321#section-3.3",
    },
    Row {
        seen: Says { phases: &[Phase::Recipient], class: Some(5), one_recipient: true, ..ANY },
        outcome: Outcome::RefusedDestination,
        why: "No such mailbox, or no relaying to it (`5.7.1`)",
        source: "https://www.rfc-editor.org/rfc/rfc5321#section-3.3",
    },
    Row {
        seen: Says {
            phases: &[Phase::Content],
            codes: &[554],
            phrases: &["access denied", "address is not verified"],
            ..ANY
        },
        outcome: Outcome::RefusedDestination,
        why: "Amazon SES: the account may not send, or not as this sender",
        source: "https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-smtp.html",
    },
    Row {
        seen: Says { phases: &[Phase::Content], class: Some(5), enhanced: &[(7, 1, 1)], phrases: &["relay"], ..ANY },
        outcome: Outcome::RefusedDestination,
        why: "Relaying denied, told late",
        source: "https://www.rfc-editor.org/rfc/rfc3463#section-3.8",
    },
    Row {
        seen: Says { phases: &[Phase::Content], class: Some(5), enhanced: &[(7, 1, 1), (3, 4, 4)], ..ANY },
        outcome: Outcome::RefusedContent,
        why: "So content filters say no (`5.7.1`), and servers to a message too large",
        source: "https://www.rfc-editor.org/rfc/rfc3463#section-3.8",
    },
    Row {
        seen: Says {
            phases: &[Phase::Content],
            class: Some(5),
            enhanced: &[
                (1, WHOLE.0, WHOLE.1),
                (2, 0, 2),
                (3, WHOLE.0, WHOLE.1),
                (4, WHOLE.0, WHOLE.1),
                (7, WHOLE.0, WHOLE.1),
            ],
            ..ANY
        },
        outcome: Outcome::RefusedDestination,
        why: "An address, a mailbox's state, the mail system, its routes, a policy such as missing SPF or DKIM",
        source: "https://www.rfc-editor.org/rfc/rfc3463#section-3",
    },
    Row {
        seen: Says { phases: &[Phase::Content], class: Some(5), ..ANY },
        outcome: Outcome::RefusedContent,
        why: "The message: its size (`552`), form (`5.6.0`), or no reason told",
        source: "https://www.rfc-editor.org/rfc/rfc5321#section-4.2.1",
    },
    Row {
        seen: Says { phases: &[Phase::Content], class: Some(3), ..ANY },
        outcome: Outcome::Ambiguous,
        why: "No verdict: the server is confused, and may have the message",
        source: "https://www.rfc-editor.org/rfc/rfc5321#section-4.3.2",
    },
    Row {
        seen: ANY,
        outcome: Outcome::Transient,
        why: "A positive reply out of place: the server is confused, and took no message",
        source: "https://www.rfc-editor.org/rfc/rfc5321#section-4.3.2",
    },
];

/// What went wrong other than by a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::deliver) enum Fault {
    /// Before the end of the message had been sent; a server drops what has no end (RFC 5321, 3.8).
    Lost,
    Unconfirmed,
    NoStartTls,
    NoLogin,
    NoToken,
    TooLarge,
}

impl Fault {
    pub(super) fn outcome(self) -> Outcome {
        let row = FAULTS.iter().find(|row| row.seen == self);
        row.map_or(Outcome::Ambiguous, |row| row.outcome.clone())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "no connection, or it was lost or silent before the end of the message had been sent",
            Self::Unconfirmed => "lost, silent or unreadable after the end of the message",
            Self::NoStartTls => "STARTTLS is set and not offered",
            Self::NoLogin => {
                "a login is set, and the server does not offer its AUTH (PLAIN or LOGIN; XOAUTH2), or the connection is in the clear"
            }
            Self::NoToken => "the token's file cannot be read, or does not hold one token alone",
            Self::TooLarge => "the message is larger than the server's SIZE",
        })
    }
}

pub(in crate::deliver) const FAULTS: &[Row<Fault>] = &[
    Row {
        seen: Fault::Lost,
        outcome: Outcome::Transient,
        why: "DNS, refused, TLS, time-out: a message without its end is not delivered",
        source: "https://www.rfc-editor.org/rfc/rfc5321#section-3.8",
    },
    Row {
        seen: Fault::Unconfirmed,
        outcome: Outcome::Ambiguous,
        why: "The server may have taken it. The repeat has the same `Message-ID`",
        source: "https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.4",
    },
    Row {
        seen: Fault::NoStartTls,
        outcome: Outcome::RefusedDestination,
        why: "Never in the clear: whoever strips the offer can read along",
        source: "https://www.rfc-editor.org/rfc/rfc3207#section-6",
    },
    Row {
        seen: Fault::NoLogin,
        outcome: Outcome::RefusedDestination,
        why: "No password goes over the clear",
        source: "https://www.rfc-editor.org/rfc/rfc4954#section-4",
    },
    Row {
        seen: Fault::NoToken,
        outcome: Outcome::Transient,
        why: "The program that renews it may be at it",
        source: "",
    },
    Row {
        seen: Fault::TooLarge,
        outcome: Outcome::RefusedContent,
        why: "Not offered, for it would be refused",
        source: "https://www.rfc-editor.org/rfc/rfc1870#section-6.1",
    },
];

/// What a reply that is not a success means for the message as a whole.
pub(super) fn outcome(phase: Phase, reply: &Reply) -> Outcome {
    row(phase, reply).map_or(Outcome::Transient, |row| row.outcome.clone())
}

/// Whether a refused RCPT speaks of this recipient, so that the others can still have the message.
///
/// All permanent refusals do, even "relaying denied": if it holds for every recipient, none is left in the end. Of the
/// temporary ones only those that may last do. The others (greylisting, a server out of disk) soon pass, and waiting with
/// the whole message spares those already accepted a second copy.
pub(super) fn concerns_recipient_only(reply: &Reply) -> bool {
    row(Phase::Recipient, reply).is_some_and(|row| row.seen.one_recipient)
}

fn row(phase: Phase, reply: &Reply) -> Option<&'static Row<Says>> {
    REPLIES.iter().find(|row| row.seen.fits(phase, reply))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Reply {
        let (code, text) = text.split_at(3);
        Reply { code: code.parse().unwrap(), lines: vec![text.trim_start().to_owned()] }
    }

    #[test]
    fn replies() {
        use Phase::{Content, Hello, Login, Recipient, Sender};
        let cases = [
            (Hello, "421 4.3.2 shutting down", "transient"),
            (Hello, "554 no service here", "transient"),
            (Hello, "502 what is EHLO", "transient"),
            (Hello, "530 5.7.0 authentication required", "refused_destination"),
            (Login, "454 4.7.0 temporary authentication failure", "transient"),
            (Login, "432 4.7.12 password transition", "transient"),
            (Login, "421 4.7.0 try later", "transient"),
            (Login, "454 Throttling failure: Maximum sending rate exceeded.", "throttled"),
            (Login, "535 5.7.8 wrong password", "refused_destination"),
            (Login, "535 5.7.139 basic authentication is disabled", "refused_destination"),
            (Login, "534 5.7.9 mechanism too weak", "refused_destination"),
            (Login, "538 5.7.11 encryption required", "refused_destination"),
            (Login, "504 5.5.4 unknown mechanism", "refused_destination"),
            (Sender, "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", "transient"),
            (Sender, "451 4.7.0 greylisted", "transient"),
            (Sender, "452 4.3.1 out of disk", "transient"),
            (Sender, "530 5.7.0 must issue STARTTLS", "refused_destination"),
            (Sender, "550 5.7.60 not allowed to send as this sender", "refused_destination"),
            (Sender, "501 5.1.7 bad sender address", "refused_destination"),
            (Sender, "552 5.3.4 message size exceeds limit", "refused_content"),
            (Sender, "554 5.2.3 too large", "refused_content"),
            (Recipient, "450 4.7.1 greylisted", "transient"),
            (Recipient, "452 4.5.3 too many recipients", "transient"),
            (Recipient, "550 5.1.1 no such user", "refused_destination"),
            (Recipient, "550 5.7.1 relaying denied", "refused_destination"),
            (Recipient, "550 5.4.5 daily user sending limit exceeded", "throttled"),
            (Content, "250 unexpected but no acceptance", "transient"),
            (Content, "354 unexpected after the message", "ambiguous"),
            (Content, "451 4.3.0 try again", "transient"),
            (Content, "454 Throttling failure: Daily message quota exceeded.", "throttled"),
            (Content, "550 5.4.5 Daily user sending limit exceeded", "throttled"),
            (Content, "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException", "throttled"),
            (Content, "554 Access denied: user is not authorised", "refused_destination"),
            (Content, "554 Message rejected: Email address is not verified.", "refused_destination"),
            (Content, "550 5.7.26 unauthenticated mail", "refused_destination"),
            (Content, "550 5.7.1 message refused as spam", "refused_content"),
            (Content, "550 5.7.1 unable to relay", "refused_destination"),
            (Content, "554 5.3.2 system not accepting messages", "refused_destination"),
            (Content, "554 5.4.6 routing loop", "refused_destination"),
            (Sender, "552 5.2.2 sender's mailbox full", "refused_destination"),
            (Sender, "552 too large", "refused_content"),
            (Sender, "550 5.2.4 mailing list problem", "refused_destination"),
            (Recipient, "450 4.1.2 domain not found", "transient"),
            (Content, "550 5.1.1 no such user", "refused_destination"),
            (Content, "552 5.2.2 mailbox full", "refused_destination"),
            (Content, "550 5.4.4 no route", "refused_destination"),
            (Content, "552 5.2.3 too large", "refused_content"),
            (Content, "552 5.3.4 too large", "refused_content"),
            (Content, "554 5.6.0 malformed", "refused_content"),
            (Content, "501 syntax", "refused_content"),
            (Content, "555 parameters", "refused_content"),
            (Content, "554 transaction failed", "refused_content"),
        ];
        for (phase, text, expected) in cases {
            assert_eq!(outcome(phase, &reply(text)).name(), expected, "{phase:?} {text}");
        }
    }

    #[test]
    fn every_reply_means_something() {
        use Phase::{Content, Hello, Login, Recipient, Sender};
        let last = REPLIES.last().unwrap();
        for phase in [Hello, Login, Sender, Recipient, Content] {
            for code in 200..600 {
                let reply = Reply { code, lines: Vec::new() };
                assert!(last.seen.fits(phase, &reply));
                let outcome = outcome(phase, &reply);
                match code {
                    500..600 => assert!(!matches!(outcome, Outcome::Delivered | Outcome::Ambiguous)),
                    300..400 if phase == Content => assert_eq!(outcome, Outcome::Ambiguous, "{code}"),
                    _ => assert_eq!(outcome, Outcome::Transient, "{phase:?} {code}"),
                }
            }
        }
    }

    /// A line that is never the first to fit would be a promise that nobody keeps.
    #[test]
    fn no_line_is_hidden_by_one_above_it() {
        use Phase::{Content, Hello, Login, Recipient, Sender};
        for line in REPLIES {
            let codes = if line.seen.codes.is_empty() { vec![250, 350, 450, 550] } else { line.seen.codes.to_vec() };
            let enhanced = line.seen.enhanced.first().copied().unwrap_or((9, 9, 9));
            let phrase = line.seen.phrases.first().copied().unwrap_or_default();
            let reached = [Hello, Login, Sender, Recipient, Content].into_iter().any(|phase| {
                codes.iter().any(|&code| {
                    let text = format!("{}.{}.{} {phrase}", code / 100, enhanced.0, enhanced.2);
                    let found = row(phase, &Reply { code, lines: vec![text] });
                    found.is_some_and(|found| found.seen.to_string() == line.seen.to_string())
                })
            });
            assert!(reached, "{} is hidden", line.seen);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_judged(code in 200u16..600, lines in proptest::collection::vec(".{0,60}", 0..4)) {
            let reply = Reply { code, lines };
            for phase in [Phase::Hello, Phase::Login, Phase::Sender, Phase::Recipient, Phase::Content] {
                let outcome = outcome(phase, &reply);
                proptest::prop_assert!(outcome != Outcome::Delivered);
            }
            let _ = concerns_recipient_only(&reply);
            proptest::prop_assert!(reply.codes().len() <= 15);
        }
    }

    #[test]
    fn refused_recipients() {
        let cases = [
            ("550 5.1.1 no such user", true),
            ("551 5.1.6 moved", true),
            ("553 5.1.3 bad address", true),
            ("552 5.2.2 mailbox full", true),
            ("550 5.4.4 no route", true),
            ("550 no such user", true),
            ("550 5.7.1 relaying denied", true),
            ("452 4.2.2 mailbox full", true),
            ("450 4.2.1 mailbox busy", true),
            ("450 4.1.2 domain not found", true),
            ("451 4.4.3 domain cannot be looked up", true),
            ("450 4.7.1 greylisted", false),
            ("451 try later", false),
            ("452 4.3.1 out of disk", false),
            ("452 4.5.3 too many recipients", false),
            ("421 4.3.2 shutting down", false),
            ("550 5.4.5 daily limit", false),
            ("530 5.7.0 authentication required", false),
            ("354 what", false),
        ];
        for (text, expected) in cases {
            assert_eq!(concerns_recipient_only(&reply(text)), expected, "{text}");
        }
    }

    #[test]
    fn enhanced_codes() {
        let cases = [
            ("550 5.1.1 <bob@example.org> unknown", "550 5.1.1"),
            ("550 5.7.139", "550 5.7.139"),
            ("550 no such user", "550"),
            ("550 4.1.1 classes disagree", "550"),
            ("550 5.1 short", "550"),
            ("550 5.1.1.1 long", "550"),
            ("550 5.1.9999 large", "550"),
            ("550 5.x.1 odd", "550"),
            ("550", "550"),
        ];
        for (text, expected) in cases {
            assert_eq!(reply(text).codes(), expected);
        }
    }
}
