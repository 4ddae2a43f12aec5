//! One message as its channel would show it, as a page in one file: what `render --html` writes.
//!
//! It is the inbox's page with the message in it, so that both draw alike. The page asks the network for nothing and runs no
//! script but its own, which its policy names by its hash. The message stands in it as data: no letter of it can end that.

use serde_json::{Value, json};

use super::inbox::{PAGE, script_source};
use super::mail::Letter;
use crate::model::{Channel, DestinationName, Message, Timestamp};

/// What would leave for the destination.
#[derive(Clone, Debug)]
pub enum Payload {
    Json(Value),
    /// The whole mail, headers and all.
    Mail(Vec<u8>),
}

/// The page.
pub fn page(
    channel: Channel,
    destination: &DestinationName,
    message: &Message,
    payload: &Payload,
    now: Timestamp,
) -> String {
    let (bytes, content) = match payload {
        Payload::Mail(mail) => (mail.len(), json!(Letter::read(mail))),
        Payload::Json(body) if channel == Channel::Webhook => {
            let headers = json!({"content-type": "application/json", "webhook-id": message.id.as_str()});
            (body.to_string().len(), json!({"headers": headers, "body": body}))
        }
        Payload::Json(body) => (body.to_string().len(), body.clone()),
    };
    let shown = json!({"channel": channel.name(), "destination": destination.as_str(), "at": now.to_string(), "bytes": bytes, "content": content});
    // Inside of a script element only `<` can begin its end.
    let data = shown.to_string().replace('<', "\\u003c");
    let policy = format!(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src {}; style-src 'unsafe-inline'; \
         img-src data:; base-uri 'none'; form-action 'none'\">",
        script_source(),
    );
    let page = PAGE.replacen("<head>", &format!("<head>\n{policy}"), 1);
    page.replacen("<script>", &format!("<script type=\"application/json\" id=\"message\">{data}</script>\n<script>"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Content, DeliveryId};

    #[test]
    fn a_message_stays_data() {
        let hostile = "</script><script>alert(1)</script><!-- \u{2028}";
        let body = json!({"text": hostile});
        let message =
            Message { id: DeliveryId::new("a", 1), content: Content::Json(body.clone()), thread: None, reply_to: None };
        let name = DestinationName::from(hostile);
        let page = page(Channel::Slack, &name, &message, &Payload::Json(body), Timestamp::default());
        assert_eq!(page.matches("<script").count(), 2);
        assert_eq!(page.matches("</script").count(), 2);
        assert!(!page.contains("alert(1)<") && !page.contains("<!--"));
        let data = page.split_once("id=\"message\">").unwrap().1.split_once("</script>").unwrap().0;
        let shown: Value = serde_json::from_str(data).unwrap();
        assert_eq!((&shown["content"]["text"], &shown["destination"]), (&json!(hostile), &json!(hostile)));
        let policy = page.find("Content-Security-Policy").unwrap();
        assert!(policy < page.find("<style>").unwrap() && page.contains(&format!("script-src {};", script_source())));
        assert!(!page[..page.find("<style>").unwrap()].contains("connect-src"));
    }

    #[test]
    fn a_mail_is_read_as_its_receiver_reads_it() {
        let mail =
            b"From: Relay <a@example.org>\r\nTo: b@example.org\r\nSubject: =?utf-8?q?a_=C2=B7_b?=\r\n\r\ntext\r\n"
                .to_vec();
        let content = Content::Mail { subject: "other".to_owned(), text: String::new(), html: None };
        let message = Message { id: DeliveryId::new("a", 1), content, thread: None, reply_to: None };
        let page =
            page(Channel::Email, &DestinationName::from("x"), &message, &Payload::Mail(mail), Timestamp::default());
        assert!(page.contains("\"subject\":\"a · b\"") && page.contains("\"from\":\"Relay \\u003ca@example.org>\""));
    }
}
