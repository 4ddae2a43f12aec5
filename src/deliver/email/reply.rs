//! What a mail server's reply means for the message: pure functions over the reply and the moment it came in.
//!
//! The reply code alone does not tell: big providers answer "try again tomorrow" with a permanent code. The enhanced code
//! (RFC 3463) comes first, then the phase, then the basic code (RFC 5321).

use crate::model::Outcome;

/// How far the dialogue was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
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

/// What a reply that is not a success means for the message as a whole.
pub(super) fn outcome(phase: Phase, reply: &Reply) -> Outcome {
    if is_quota(reply) {
        return Outcome::Throttled { wait: None };
    }
    if reply.code / 100 != 5 {
        // 4yz says "later"; a positive reply out of place is a confused server, and no message was taken.
        return Outcome::Transient;
    }
    match phase {
        // A server in trouble greets with 554. `login` below is what tells wrong settings.
        Phase::Hello if !needs_login(reply) => Outcome::Transient,
        // Of the message itself, nothing was told yet but its size.
        Phase::Sender if is_size(reply) => Outcome::RefusedContent,
        Phase::Hello | Phase::Login | Phase::Sender | Phase::Recipient => Outcome::RefusedDestination,
        Phase::Content if needs_login(reply) || is_about_destination(reply) => Outcome::RefusedDestination,
        Phase::Content => Outcome::RefusedContent,
    }
}

/// Whether a refused RCPT speaks of this mailbox, so that the others can still have the message.
///
/// All permanent refusals do, even "relaying denied": if it holds for every recipient, none is left in the end. Of the
/// temporary ones only those about the mailbox (`4.2.2`, full) do: it may stay full for weeks. The others (greylisting, a
/// server out of disk) soon pass, and waiting with the whole message spares those already accepted a second copy.
pub(super) fn concerns_recipient_only(reply: &Reply) -> bool {
    match reply.code / 100 {
        5 => !is_quota(reply) && !needs_login(reply),
        4 => matches!(reply.enhanced(), Some((2, _))),
        _ => false,
    }
}

/// Sending limits that pass with time, whatever the code's first digit.
///
/// - Amazon SES, `454 Throttling failure`: <https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-smtp.html>
/// - Gmail, `550 5.4.5` daily limit: <https://support.google.com/a/answer/3726730>
/// - Exchange Online, `554 5.2.0 … SubmissionQuotaExceeded`
fn is_quota(reply: &Reply) -> bool {
    match reply.code {
        454 => reply.says("throttling failure"),
        550 => reply.enhanced() == Some((4, 5)),
        554 => reply.says("submissionquotaexceeded"),
        _ => false,
    }
}

/// Authentication required, too weak, or wrong: RFC 4954, section 6.
const fn needs_login(reply: &Reply) -> bool {
    matches!(reply.code, 530 | 534 | 535 | 538)
}

fn is_size(reply: &Reply) -> bool {
    reply.code == 552 || matches!(reply.enhanced(), Some((2 | 3, 3 | 4)))
}

/// After DATA: addresses (`x.1.z`), the mailbox's state (`x.2.0` to `x.2.2`), its route (`x.4.4`), policy (`x.7.z`); except
/// `x.7.1`, which is how content filters say no. Amazon SES tells two account faults in words.
fn is_about_destination(reply: &Reply) -> bool {
    let by_code = match reply.enhanced() {
        Some((1, _) | (2, 0..=2) | (4, 4)) => true,
        Some((7, detail)) => detail != 1,
        _ => false,
    };
    by_code || (reply.code == 554 && (reply.says("access denied") || reply.says("address is not verified")))
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
            (Content, "451 4.3.0 try again", "transient"),
            (Content, "454 Throttling failure: Daily message quota exceeded.", "throttled"),
            (Content, "550 5.4.5 Daily user sending limit exceeded", "throttled"),
            (Content, "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException", "throttled"),
            (Content, "554 Access denied: user is not authorised", "refused_destination"),
            (Content, "554 Message rejected: Email address is not verified.", "refused_destination"),
            (Content, "550 5.7.26 unauthenticated mail", "refused_destination"),
            (Content, "550 5.7.1 message refused as spam", "refused_content"),
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
