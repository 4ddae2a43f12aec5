"""Judges the messages in target/messages by what Python's registry has: schemas, vendors' own libraries, mail readers.

    validate.py MESSAGES SCRATCH RELAY

MESSAGES is target/messages, SCRATCH takes what the other half (browser.mjs) needs of mails, RELAY is the built binary: it
sends real messages to servers here, which read them with libraries that are not ours.
"""

import email
import email.policy
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
from importlib.resources import files as package_files
from urllib.parse import urlsplit

import jsonschema
from aiosmtpd.controller import Controller
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from google.apps.chat_v1 import Message as GoogleChatMessage
from google.protobuf import json_format
from slack_sdk.models.blocks import Block
from standardwebhooks import Webhook

HERE = pathlib.Path(__file__).parent
# The vendor's, and the runbooks' of the samples. Nothing else may ever be a link.
LINK_HOSTS = {"app.halosecurity.com", "wiki.example.org"}
KNOWN_SHAPES = {"single", "digest", "plain", "late", "test", "notice"}
HOSTILE_SHAPES = {"hostile", "hostile-late", "hostile-digest", "hostile-notice", "hostile-plain"}

problems = []


def problem(where, what):
    problems.append(f"{where}: {what}")


def strings(value, path=""):
    """Every text of a JSON document, with its path."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield from strings(member, f"{path}/{name}")
    elif isinstance(value, list):
        for at, member in enumerate(value):
            yield from strings(member, f"{path}/{at}")
    elif isinstance(value, str):
        yield path, value


def is_own_link(url):
    parts = urlsplit(url)
    return parts.scheme == "https" and parts.hostname in LINK_HOSTS and not parts.username


def check_links(where, document, members):
    """Addresses may stand in these members alone, and nowhere but at the vendor's and the runbooks' hosts."""
    for path, text in strings(document):
        name = path.rsplit("/", 1)[-1]
        if name in members and not is_own_link(text):
            problem(where, f"{path} links to {text!r}")


# ---- Chat ------------------------------------------------------------------------------------------------------------


def slack(where, document):
    check_links(where, document, {"url", "image_url", "title_link"})
    blocks = document.get("blocks", [])
    ids = [block["block_id"] for block in blocks if "block_id" in block]
    if len(ids) != len(set(ids)):
        problem(where, "two blocks have one block_id")
    # Not documented, but measured by others: more than about 13,200 characters in all blocks are refused.
    size = sum(len(text) for path, text in strings(blocks) if path.endswith(("/text", "/url")))
    if size > 13_000:
        problem(where, f"{size} characters in all blocks")
    # Slack's own library as a second opinion.
    parsed = Block.parse_all(blocks)
    if len(parsed) != len(blocks) or None in parsed:
        problem(where, "slack_sdk does not know a block")
    for block in parsed:
        try:
            block.validate_json()
        except Exception as error:  # the library raises its own kinds
            problem(where, f"slack_sdk: {error}")


CARD = json.loads((package_files("adaptive_cards") / "schemas" / "schema-1.4.json").read_text())
CARD.pop("id", None)
CARD_SCHEMA = jsonschema.Draft6Validator(CARD)


def teams(where, document):
    card = document.get("attachments", [{}])[0].get("content", {})
    envelope = {
        "type": "message",
        "attachments": [
            {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
        ],
    }
    if document != envelope:
        problem(where, "the envelope is not the one that the flow's template reads")
    size = len(json.dumps(document, ensure_ascii=False).encode())
    if size > 27_000:
        problem(where, f"{size} bytes; Teams takes about 28 KB")
    check_links(where, document, {"url"})
    # Microsoft's own member, which its schema does not know.
    rest = {name: member for name, member in card.items() if name != "msteams"}
    for error in CARD_SCHEMA.iter_errors(rest):
        problem(where, f"Adaptive Card schema 1.4: /{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}")
    if set(card.get("msteams", {})) - {"width"}:
        problem(where, "msteams has members that no sample asks for, such as entities")


def discord(where, document):
    check_links(where, document, {"url", "icon_url", "proxy_url"})
    total = 0
    for embed in document.get("embeds", []):
        fields = embed.get("fields", [])
        texts = [embed.get("title"), embed.get("description"), embed.get("footer", {}).get("text"), embed.get("author", {}).get("name")]
        texts += [text for field in fields for text in (field.get("name"), field.get("value"))]
        total += sum(len(text or "") for text in texts)
    if total > 6_000:
        problem(where, f"{total} characters in all embeds; Discord takes 6,000")


def google_chat(where, document):
    try:
        GoogleChatMessage.from_json(json.dumps(document), ignore_unknown_fields=False)
    except json_format.ParseError as error:
        problem(where, f"google-apps-chat: {error}")
    check_links(where, document, {"url", "iconUrl", "imageUrl"})
    if len(json.dumps(document, ensure_ascii=False).encode()) > 32_000:
        problem(where, "more than 32,000 bytes")


TELEGRAM_TAG = re.compile(r"<(?:/?(?:b|i|u|s|code|pre|blockquote|a)|a href=\"([^\"<>]*)\")>")


def telegram(where, document):
    if document.get("parse_mode") != "HTML":
        return
    left = TELEGRAM_TAG.sub("", document["text"])
    if re.search(r"[<>]|&(?!amp;|lt;|gt;|quot;)", left):
        problem(where, f"markup that Telegram does not take, or a value that was not escaped: {left[:200]!r}")
    for match in TELEGRAM_TAG.finditer(document["text"]):
        url = match.group(1)
        if url is not None and not is_own_link(url.replace("&amp;", "&")):
            problem(where, f"links to {url!r}")


def links_only(where, document):
    check_links(where, document, {"url", "href", "click", "title_link", "client_url"})


def webhook(where, document):
    """The body is for machines; the schema says it all."""


# What JSON schemas cannot say. A channel without an entry here and without a schema is an error.
RULES = {
    "slack": slack,
    "slack-bot": slack,
    "teams": teams,
    "webhook": webhook,
    "discord": discord,
    "google_chat": google_chat,
    "telegram": telegram,
    "mattermost": links_only,
    "rocket_chat": links_only,
    "zulip": links_only,
    "pagerduty": links_only,
    "opsgenie": links_only,
    "ntfy": links_only,
}


def ses(where, document):
    """The request body of SESv2's SendEmail, by Amazon's own service model."""
    service = ServiceModel(Loader().load_service_model("sesv2", "service-2"))
    report = ParamValidator().validate(document, service.operation_model("SendEmail").input_shape)
    if report.has_errors():
        problem(where, f"botocore: {report.generate_report()}")


RULES["email-ses"] = ses

SCHEMAS = {path.stem: jsonschema.Draft202012Validator(json.loads(path.read_text())) for path in (HERE / "schemas").glob("*.json")}
SCHEMAS["slack-bot"] = SCHEMAS["slack"]


def judge_json(directory):
    channel = directory.name
    if channel not in RULES and channel not in SCHEMAS:
        problem(channel, "nothing here can judge it: add a schema to .ci/messages/schemas, or a rule to validate.py")
        return 0
    count = 0
    for path in sorted(directory.glob("*.json")):
        where, count = f"{channel}/{path.name}", count + 1
        try:
            document = json.loads(path.read_text())
        except ValueError as error:
            problem(where, f"no JSON: {error}")
            continue
        judge_document(channel, where, document)
    return count


def judge_document(channel, where, document):
    rule, schema = RULES.get(channel), SCHEMAS.get(channel)
    for error in schema.iter_errors(document) if schema else ():
        problem(where, f"schema: /{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}")
    if rule:
        rule(where, document)


# ---- Mail ------------------------------------------------------------------------------------------------------------


def read_mail(where, raw):
    """What a mail reader that is not ours makes of it. Returns subject, text and HTML."""
    for line in raw.split(b"\r\n"):
        if len(line) > 998 or b"\r" in line or b"\n" in line or b"\0" in line or any(byte > 126 for byte in line):
            problem(where, f"a line that mail cannot carry: {line[:80]!r}")
    mail = email.message_from_bytes(raw, policy=email.policy.SMTP)
    for part in mail.walk():
        for defect in part.defects:
            problem(where, f"defect: {defect!r}")
    for name, value in mail.items():
        for defect in getattr(value, "defects", ()):
            problem(where, f"header {name}: {defect!r}")
    names = [name.lower() for name in mail.keys()]
    for name in ("date", "from", "to", "subject", "message-id", "mime-version", "auto-submitted"):
        if names.count(name) != 1:
            problem(where, f"{names.count(name)} headers {name}")
    for name in ("bcc", "cc", "reply-to", "sender", "return-path"):
        if name in names:
            problem(where, f"there is a header {name}")
    if not mail["message-id"].startswith("<hr_"):
        problem(where, f"Message-ID {mail['message-id']}")
    kinds = [part.get_content_type() for part in mail.walk() if not part.is_multipart()]
    if kinds not in (["text/plain"], ["text/plain", "text/html"]):
        problem(where, f"parts {kinds}")
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    text, html = text.get_content(), html and html.get_content()
    subject = str(mail["subject"])
    if not subject or len(subject) > 220 or any(ord(letter) < 32 for letter in subject):
        problem(where, f"subject {subject!r}")
    for url in re.findall(r"[a-z][a-z0-9+.-]*://[^\s>)\]]*", text, re.IGNORECASE):
        if not url.startswith(("hxxp", "HXXP")) and not is_own_link(url):
            problem(where, f"the text has the address {url!r}")
    return {"where": where, "subject": subject, "text": text, "html": html}


def judge_mails(directory, scratch):
    mails = [read_mail(f"{directory.name}/{path.name}", path.read_bytes()) for path in sorted(directory.glob("*.eml"))]
    # The browser judges the HTML of these.
    (scratch / "mails.json").write_text(json.dumps(mails))
    return len(mails)


# ---- What the relay really sends -------------------------------------------------------------------------------------

SECRET = "whsec_eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg="


class Receiver(http.server.BaseHTTPRequestHandler):
    seen = {}

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        Receiver.seen[self.path] = (dict((name.lower(), value) for name, value in self.headers.items()), body)
        status, answer = {"/slack": (200, b"ok"), "/teams": (202, b"")}.get(self.path, (204, b""))
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class MailServer(Controller):
    """At any free port: aiosmtpd asks the port that it was told whether it listens."""

    def _trigger_server(self):
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


class Mailbox:
    def __init__(self):
        self.mails = []

    async def handle_DATA(self, _server, _session, envelope):
        self.mails.append(envelope)
        return "250 taken"


def judge_wire(relay, scratch):
    """One test message over each built-in channel, from the real binary to servers that are not ours."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    box = Mailbox()
    mail_server = MailServer(box, hostname="127.0.0.1", port=0)
    mail_server.start()
    http_port = server.server_address[1]
    rules = scratch / "rules.yaml"
    rules.write_text(f"""
sources: {{ push: {{ type: webhook, listen: "127.0.0.1:0", token: "not-a-secret-but-long-enough" }} }}
destinations:
  slack: {{ type: slack, url: "http://127.0.0.1:{http_port}/slack" }}
  teams: {{ type: teams, url: "http://127.0.0.1:{http_port}/teams" }}
  webhook: {{ type: webhook, url: "http://127.0.0.1:{http_port}/webhook", secret: "{SECRET}" }}
  email: {{ type: email, smtp: {{ host: 127.0.0.1, port: {mail_server.port}, tls: none }}, from: Halo relay <relay@example.org>, to: [a@example.org, b@example.org] }}
rules:
  - {{ name: certificates, when: {{ key: "*" }}, severity: high, send: [slack, teams, webhook, email] }}
unrouted: {{ drop: "not of interest here" }}
""")
    for name in ("slack", "teams", "webhook", "email"):
        ran = subprocess.run([relay, "-c", rules, "send-test", name], capture_output=True, text=True, timeout=60)
        if ran.returncode != 0:
            problem(f"wire/{name}", f"send-test: {ran.stdout}{ran.stderr}")
    for name in ("slack", "teams", "webhook"):
        if f"/{name}" not in Receiver.seen:
            problem(f"wire/{name}", "nothing arrived")
            continue
        headers, body = Receiver.seen[f"/{name}"]
        document = json.loads(body)
        if not headers["content-type"].startswith("application/json"):
            problem(f"wire/{name}", f"content type {headers['content-type']}")
        judge_document(name, f"wire/{name}", document)
        if name == "webhook":
            judge_signature(headers, body)
    if len(box.mails) != 1:
        problem("wire/email", f"{len(box.mails)} mails arrived")
    for envelope in box.mails:
        if envelope.mail_from != "relay@example.org" or envelope.rcpt_tos != ["a@example.org", "b@example.org"]:
            problem("wire/email", f"envelope {envelope.mail_from} {envelope.rcpt_tos}")
        read_mail("wire/email", envelope.original_content)
    mail_server.stop()
    server.shutdown()
    return 4


def judge_signature(headers, body):
    try:
        Webhook(SECRET).verify(body, headers)
    except Exception as error:
        problem("wire/webhook", f"standardwebhooks refuses the signature: {error!r}")
    for change in ({"webhook-id": "other"}, {"webhook-signature": "v1,AAAA"}):
        try:
            Webhook(SECRET).verify(body, headers | change)
            problem("wire/webhook", f"standardwebhooks accepts a message with {change}: this check is blind")
        except Exception:
            pass


# ---- Whether the judges can see --------------------------------------------------------------------------------------


def must_find(what, judge):
    before = len(problems)
    judge()
    if len(problems) == before:
        sys.exit(f"{what} was not found: this check is blind")
    del problems[before:]


def judge_judges():
    good = {"text": "x", "unfurl_links": False, "unfurl_media": False}
    text = {"type": "plain_text", "text": "x"}
    bad_slack = [
        {"text": "x"},
        good | {"blocks": [{"type": "header", "text": text}] * 51},
        good | {"blocks": [{"type": "header", "text": text | {"text": "x" * 151}}]},
        good | {"blocks": [{"type": "header", "text": text | {"type": "mrkdwn"}}]},
        good | {"blocks": [{"type": "section", "fields": [text] * 11}]},
        good | {"blocks": [{"type": "section", "text": text | {"text": ""}}]},
        good | {"blocks": [{"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": [{"type": "user", "user_id": "U1"}]}]}]},
        good | {"blocks": [{"type": "header", "text": text, "disabled": True}]},
        good | {"link_names": True},
    ]
    for document in bad_slack:
        must_find(f"Slack: {json.dumps(document)[:100]}", lambda: judge_document("slack", "bad", document))
    twice = good | {"blocks": [{"type": "header", "block_id": "a", "text": text}] * 2}
    must_find("Slack: one block_id twice", lambda: judge_document("slack", "bad", twice))

    def card(**members):
        content = {"type": "AdaptiveCard", "version": "1.4", "body": []} | members
        attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": content}
        return {"type": "message", "attachments": [attachment]}

    bad_teams = [
        card() | {"summary": "x"},
        card(body=[{"type": "TextBlock"}]),
        card(body=[{"type": "TextBlock", "text": "x", "color": "mauve"}]),
        card(body=[{"type": "Nonsense"}]),
        card(body=[{"type": "TextBlock", "text": "x" * 28_000}]),
        card(actions=[{"type": "Action.OpenUrl", "title": "x", "url": "https://evil.example"}]),
        card(msteams={"entities": []}),
    ]
    for document in bad_teams:
        must_find(f"Teams: {json.dumps(document)[:100]}", lambda: judge_document("teams", "bad", document))
    mail = b"Date: Mon, 23 Nov 2026 09:42:00 +0000\r\nFrom: a@b.c\r\nTo: a@b.c\r\nSubject: x\r\nMessage-ID: <hr_1@b.c>\r\nMIME-Version: 1.0\r\nAuto-Submitted: auto-generated\r\n"
    for rest in (b"Bcc: x@evil.example\r\n\r\nx\r\n", b"\r\nx\n.\nx\r\n", b"\r\nhttps://evil.example\r\n", b"Subject: y\r\n\r\nx\r\n"):
        must_find(f"mail: {rest!r}", lambda: read_mail("bad", mail + rest))
    if read_mail("good", mail + b"\r\nx\r\n")["subject"] != "x" or problems:
        sys.exit(f"a good mail is taken for a bad one: {problems}")


# ---- All of it -------------------------------------------------------------------------------------------------------


def judge_completeness(messages):
    """Every channel that has templates has messages, and every channel has the same ones."""
    there = {path.name for path in messages.iterdir()}
    expected = {path.name for path in (HERE.parent.parent / "templates").iterdir() if path.is_dir()} | {"slack-bot"}
    for channel in sorted(expected - there):
        problem(channel, "has templates, but tests/messages writes no message of it: add it to `destinations()` there")
    stems = {channel: {path.stem for path in (messages / channel).iterdir()} for channel in there}
    everything = set().union(*stems.values())
    shapes = {stem.rsplit(".", 1)[-1] for stem in everything}
    for shape in sorted((KNOWN_SHAPES | HOSTILE_SHAPES) - shapes):
        problem("messages", f"none has the shape {shape}")
    for channel in sorted(there):
        if missing := everything - stems[channel]:
            problem(channel, f"{len(missing)} messages of other channels are missing here, such as {min(missing)}")


def main():
    messages, scratch, relay = map(pathlib.Path, sys.argv[1:])
    os.environ.pop("HALO_RELAY_CONFIG", None)
    judge_judges()
    judge_completeness(messages)
    for directory in sorted(messages.iterdir()):
        count = judge_mails(directory, scratch) if directory.name == "email" else judge_json(directory)
        print(f"{directory.name}: {count} messages")
    print(f"sent for real: {judge_wire(relay.resolve(), scratch)} messages")
    for line in problems[:60]:
        print(line, file=sys.stderr)
    if problems:
        sys.exit(f"{len(problems)} problems")


main()
