"""Judges the messages in target/messages by what Python's registry has: schemas, vendors' own libraries, mail readers.

    validate.py MESSAGES SCRATCH RELAY

MESSAGES is target/messages, SCRATCH takes what the other half (browser.mjs) needs of mails, RELAY is the built binary: it
sends real messages to servers here, which read them with libraries that are not ours.
"""

import base64
import copy
import email
import email.policy
import email.utils
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
from importlib.resources import files as package_files
from urllib.parse import parse_qs, urlsplit

import jsonschema
from aiosmtpd.controller import Controller
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.serialize import create_serializer
from botocore.validate import ParamValidator
from google.apps.chat_v1 import Message as GoogleChatMessage
from google.protobuf import json_format
from slack_sdk.models.blocks import Block
from standardwebhooks import Webhook

HERE = pathlib.Path(__file__).parent
# The vendor's, and the runbooks' of the samples. Nothing else may ever be a link.
LINK_HOSTS = {"app.halosecurity.com", "wiki.example.org"}
# Whom the samples of the shape `mention` call; nobody else, and no other sample anybody.
SLACK_CALLS = "<!here> <!subteam^S0123ABCD>"
TEAMS_CALLS = [{"type": "mention", "text": "<at>Ada Example</at>", "mentioned": {"id": "ada@example.org", "name": "Ada Example"}}]
DISCORD_CALLS = {"parse": ["everyone"], "users": ["123456789012345678"], "roles": ["123456789012345678"]}
KNOWN_SHAPES = {"single", "digest", "plain", "late", "test", "notice", "mention"}
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


def is_mention(where):
    return where.endswith(".mention.json")


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
    # Who is called stands in a section of its own, and in the text for phones.
    calls = [text for _, text in strings(document) if re.search(r"<[!@#]", text)]
    first_line = document["text"].split("\n")[0]
    if sorted(calls) != (sorted([f"{first_line}\n{SLACK_CALLS}", SLACK_CALLS]) if is_mention(where) else []):
        problem(where, f"calls {calls}")
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
    if set(card.get("msteams", {})) - {"width", "entities"}:
        problem(where, "msteams has members that no sample asks for")
    if card.get("msteams", {}).get("entities", []) != (TEAMS_CALLS if is_mention(where) else []):
        problem(where, f"calls {card['msteams'].get('entities')}")
    # Values stand in TextRun; who is called stands in the one TextBlock that there may be.
    marked = [element.get("text") for element in card.get("body", []) if element["type"] == "TextBlock"]
    if marked != (["<at>Ada Example</at>"] if is_mention(where) else []):
        problem(where, f"a TextBlock has {marked}")


def discord(where, document):
    check_links(where, document, {"url", "icon_url", "proxy_url"})
    if document.get("allowed_mentions") != (DISCORD_CALLS if is_mention(where) else {"parse": []}):
        problem(where, f"may call {document.get('allowed_mentions')}")
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
    text = document.get("text", "")
    left = TELEGRAM_TAG.sub("", text)
    if re.search(r"[<>]|&(?!amp;|lt;|gt;|quot;)", left):
        problem(where, f"markup that Telegram does not take, or a value that was not escaped: {left[:200]!r}")
    for match in TELEGRAM_TAG.finditer(text):
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
    """By their names."""
    mails = {path.stem: read_mail(f"{directory.name}/{path.name}", path.read_bytes()) for path in sorted(directory.glob("*.eml"))}
    # The browser judges the HTML of these.
    (scratch / "mails.json").write_text(json.dumps(list(mails.values())))
    return mails


# ---- Mail by HTTP APIs -----------------------------------------------------------------------------------------------
#
# mail_api.mjs has the services' own clients. Here: limits, Amazon's library, and that a request says what the mail of the same
# name says that goes by SMTP, whose HTML the browser judges.

SES_SEND = ServiceModel(Loader().load_service_model("sesv2", "service-2")).operation_model("SendEmail")
# As tests/messages/requests.rs has them.
SES_KEYS = Credentials("AKIDEXAMPLE", "SG.not-a-real-key", "TOKEN/EXAMPLE==")
SENDER = ("Halo: relay", "halo-relay@example.org")
RECIPIENTS = [("", "compliance@example.org"), ("On call, team 2", "oncall@example.org")]


def people(*lists):
    """Names and addresses as RFC 5322 reads them."""
    return email.utils.getaddresses(lists)


def sendgrid(_where, request):
    body = json.loads(request["body"])
    person = lambda person: (person.get("name", ""), person["email"])
    parts = {part["type"]: part["value"] for part in body["content"]}
    to = [person(one) for one in body["personalizations"][0]["to"]]
    return body, [person(body["from"])], to, body["subject"], parts.get("text/plain"), parts.get("text/html")


def postmark(_where, request):
    body = json.loads(request["body"])
    return body, people(body["From"]), people(body["To"]), body["Subject"], body.get("TextBody"), body.get("HtmlBody")


def resend(_where, request):
    body = json.loads(request["body"])
    return body, people(body["from"]), people(*body["to"]), body["subject"], body.get("text"), body.get("html")


def mailgun(_where, request):
    form = parse_qs(request["body"], keep_blank_values=True, strict_parsing=True, errors="strict")
    one = lambda name: form.get(name, [None])[0]
    return form, people(one("from")), people(*form["to"]), one("subject"), one("text"), one("html")


def ses(where, request):
    body = json.loads(request["body"])
    report = ParamValidator().validate(body, SES_SEND.input_shape)
    if report.has_errors():
        problem(where, f"botocore: {report.generate_report()}")
        return None
    mail = base64.b64decode(body["Content"]["Raw"]["Data"], validate=True)
    given = copy.deepcopy(body)
    given["Content"]["Raw"]["Data"] = mail
    theirs = create_serializer("rest-json").serialize_to_request(given, SES_SEND)
    if (theirs["method"], theirs["url_path"], json.loads(theirs["body"])) != (request["method"], request["target"], body):
        problem(where, f"botocore sends {theirs['method']} {theirs['url_path']} {theirs['body'][:200]!r}")
    judge_ses_signature(where, request)
    to = [("", address) for address in body["Destination"]["ToAddresses"]]
    if to != [("", address) for _, address in RECIPIENTS]:
        problem(where, f"goes to {to}")
    read = read_mail(where, mail)
    message = email.message_from_bytes(mail, policy=email.policy.default)
    person = lambda name: [(address.display_name, address.addr_spec) for address in message[name].addresses]
    return body, person("from"), person("to"), read["subject"], read["text"], read["html"]


def judge_ses_signature(where, request):
    """Amazon's library signs what the relay says that it signed, at the relay's time."""
    headers, authorization = request["headers"], request["headers"]["authorization"]
    signed = re.search(r"SignedHeaders=([a-z0-9;-]+)", authorization).group(1).split(";")
    if not {"host", "x-amz-date", "x-amz-security-token"} <= set(signed):
        problem(where, f"only {signed} are signed")
    theirs = AWSRequest(method=request["method"], url=f"http://{headers['host']}{request['target']}", data=request["body"].encode())
    for name in signed:
        theirs.headers[name] = headers[name]
    theirs.context["timestamp"] = headers["x-amz-date"]
    auth = SigV4Auth(SES_KEYS, "ses", "eu-west-1")
    signature = auth.signature(auth.string_to_sign(theirs, auth.canonical_request(theirs)), theirs)
    if authorization != f"AWS4-HMAC-SHA256 Credential={auth.scope(theirs)}, SignedHeaders={';'.join(signed)}, Signature={signature}":
        problem(where, f"signed as {authorization}, by botocore as {signature}")


MAIL_APIS = {"email-mailgun": mailgun, "email-postmark": postmark, "email-resend": resend, "email-sendgrid": sendgrid, "email-ses": ses}


def judge_request(service, where, request, mail):
    """`mail`: of the same message by SMTP, as `read_mail` gives it."""
    try:
        read = MAIL_APIS[service](where, request)
    except (KeyError, ValueError) as error:
        problem(where, f"cannot be read: {error!r}")
        return
    if read is None:
        return
    document, sender, to, *texts = read
    if service != "email-ses":
        for error in SCHEMAS[service].iter_errors(document):
            problem(where, f"schema: /{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}")
    if sender != [SENDER] or to != RECIPIENTS:
        problem(where, f"from {sender} to {to}")
    # Mail ends with a line's end, whatever its text does.
    plain = lambda text: text and text.replace("\r\n", "\n").rstrip("\n")
    for name, text in zip(("subject", "text", "html"), texts):
        if plain(text) != plain(mail[name]):
            problem(where, f"another {name} than by SMTP: {text!r:.200} for {mail[name]!r:.200}")


def judge_requests(directory, mails):
    count = 0
    for path in sorted(directory.glob("*.json")):
        judge_request(directory.name, f"{directory.name}/{path.name}", json.loads(path.read_text()), mails[path.stem])
        count += 1
    return count


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


EVIL = "https://evil.example/"
FIELD = {"title": "x", "value": "x"}
CARD_V2 = {"cardId": "x", "card": {"header": {"title": "x"}}}
BUTTON = {"buttonList": {"buttons": [{"text": "x", "onClick": {"openLink": {"url": EVIL}}}]}}

# For each a good message, and changes that each make it a bad one.
BAD_PRESETS = {
    "webhook": (
        {
            "type": "website-cert-expiring", "shape": "event", "timestamp": "2026-11-23T09:41:00Z", "data": {}, "severity": "high", "headline": "x", "rule": "x",
            "link": None, "runbook": None, "late": None, "delay": None, "detour": None, "delivery": {"id": "hr_1", "code": "x", "may_repeat": False}, "test": False,
        },
        [{"shape": "other"}, {"severity": "worst"}, {"link": EVIL}, {"timestamp": "now"}, {"test": "no"}, {"delivery": {}}, {"shape": "digest"}, {"detour": {"from": "x"}}],
    ),
    "discord": (
        {"content": "x", "allowed_mentions": {"parse": []}},
        [
            {"allowed_mentions": {"parse": ["everyone"]}}, {"content": "x" * 2_001}, {"content": ""}, {"tts": True}, {"embeds": [{"title": "x" * 257}]},
            {"embeds": [{"title": "x"}] * 11}, {"embeds": [{"url": EVIL}]}, {"embeds": [{"description": "x" * 4_096}] * 2}, {"embeds": [{"fields": [{"name": "", "value": "x"}]}]},
        ],
    ),
    "google_chat": (
        {"text": "x", "cardsV2": [CARD_V2]},
        [
            {"texts": "x"}, {"text": 1}, {"text": "x" * 32_001}, {"cardsV2": [{"cardId": "x", "card": {"head": {}}}]},
            {"cardsV2": [{"cardId": "x", "card": {"sections": [{"widgets": [{"nonsense": {}}]}]}}]}, {"cardsV2": [{"cardId": "x", "card": {"sections": [{"widgets": [BUTTON]}]}}]},
        ],
    ),
    "telegram": (
        {"text": 'x <b>x</b> &lt; <a href="https://app.halosecurity.com/?a=1&amp;b=2">x</a>', "parse_mode": "HTML"},
        [
            {"text": ""}, {"text": "x" * 4_097}, {"text": "<script>x"}, {"text": "a < b"}, {"text": "a & b"}, {"text": "&nbsp;"}, {"text": "<img src='x'>"}, {"parse_mode": "MarkdownV2"},
            {"text": f'<a href="{EVIL}">x</a>'}, {"text": '<a href="tg://user?id=1">x</a>'}, {"link_preview_options": {"is_disabled": False}}, {"reply_markup": {}},
        ],
    ),
    "mattermost": (
        {"text": "x", "attachments": [{"fallback": "x", "color": "#ff0000", "title": "x", "fields": [FIELD]}]},
        [
            {"text": ""}, {"text": "x" * 16_384}, {"blocks": []}, {"attachments": [{"color": "red"}]}, {"attachments": [{"title_link": EVIL}]}, {"attachments": [{"actions": []}]},
            {"attachments": [{"fields": [{"title": "x"}]}]},
        ],
    ),
    "rocket_chat": (
        {"text": "x", "attachments": [{"color": "#ff0000", "title": "x", "fields": [FIELD]}]},
        [
            {"text": ""}, {"text": "x" * 5_001}, {"parseUrls": True}, {"attachments": [{"color": "red"}]}, {"attachments": [{"title_link": EVIL}]}, {"attachments": [{"image_url": "x"}]},
            {"attachments": [{"fields": [{"value": "x"}]}]}, {"blocks": []},
        ],
    ),
    "zulip": (
        {"type": "stream", "to": "x", "topic": "x", "content": "x"},
        [{"topic": ""}, {"topic": "x" * 61}, {"content": ""}, {"content": "x" * 10_001}, {"type": "private"}, {"to": 1}, {"read_by_sender": True}],
    ),
    "pagerduty": (
        {"event_action": "trigger", "dedup_key": "x", "payload": {"summary": "x", "source": "x", "severity": "error"}},
        [
            {"event_action": "open"}, {"dedup_key": "x" * 256}, {"payload": {"summary": "x", "source": "x", "severity": "high"}}, {"payload": {"summary": "x" * 1_025, "source": "x", "severity": "error"}},
            {"payload": {"summary": "x", "severity": "error"}}, {"links": [{"href": EVIL}]}, {"links": [{"text": "x"}]}, {"client_url": EVIL}, {"images": [{"src": "x"}]}, {"service": "x"},
        ],
    ),
    "opsgenie": (
        {"message": "x", "alias": "x", "priority": "P1", "details": {"x": "x"}, "tags": ["x"]},
        [
            {"message": ""}, {"message": "x" * 131}, {"alias": "x" * 513}, {"priority": "high"}, {"details": {"x": 1}}, {"tags": ["x"] * 21}, {"tags": ["x" * 51]},
            {"description": "x" * 15_001}, {"visibleTo": []},
        ],
    ),
    "ntfy": (
        {"topic": "x", "message": "x", "title": "x", "priority": 4, "tags": ["x"], "click": "https://app.halosecurity.com/"},
        [
            {"message": ""}, {"message": "x" * 4_097}, {"priority": 6}, {"priority": "high"}, {"tags": "x"}, {"click": EVIL}, {"markdown": True}, {"attach": "x"},
            {"actions": [{"action": "http", "label": "x", "url": "https://app.halosecurity.com/"}]}, {"actions": [{"action": "view", "label": "x", "url": EVIL}]},
        ],
    ),
}

# For each service texts of a request's body, and what to put in their place.
BAD_BODIES = {
    "email-mailgun": [("subject=", "subject=x&subject="), ("o%3Atracking=no", "o%3Atracking=yes"), ("&text=", "&texts="), ("compliance%40", "evil%40"), ("h%3AAuto-Submitted=auto-generated", "h%3AAuto-Submitted=a%0D%0ABcc%3A+evil")],
    "email-postmark": [('"TrackOpens":false', '"TrackOpens":true'), ('"X-PM-KeepID"', '"X-PM-Keep"'), ('\\"On call, team 2\\" ', "On call, team 2 "), ('"TextBody":"', '"TextBody":"x'), ('"auto-generated"', '"a\\r\\nBcc: evil"')],
    "email-resend": [('"subject":"', '"subject":"a\\r\\nBcc: evil'), ("compliance@", "evil@"), ('"html":"', '"html":"x'), ('"text":', '"test":')],
    "email-sendgrid": [('"enable_text":false', '"enable_text":true'), ('"Auto-Submitted"', '"Reply-To"'), ('"type":"text/plain"', '"type":"text/html"'), ("compliance@", "evil@"), ('"value":"', '"value":"x')],
    "email-ses": [('"Raw":', '"Row":'), ('"Data":"', '"Date":"'), ("oncall@", "evil@"), ('"Destination"', '"Destinations"')],
}


def judge_request_judges(messages, mails):
    name = "issue-add.single"
    for service, changes in BAD_BODIES.items():
        good = json.loads((messages / service / f"{name}.json").read_text())
        for before, after in changes:
            if before not in good["body"]:
                sys.exit(f"{service}: no {before} to change: this check cannot show that it sees")
            bad = good | {"body": good["body"].replace(before, after, 1)}
            must_find(f"{service}: {after}", lambda: judge_request(service, "bad", bad, mails[name]))
    if set(BAD_BODIES) != set(MAIL_APIS):
        sys.exit("BAD_BODIES does not have all services")
    # What is well-formed and yet another than was signed.
    for change in ({"body": good["body"] + " "}, {"target": "/v2/email"}, {"headers": good["headers"] | {"x-amz-date": "20261123T094201Z"}}):
        must_find(f"email-ses: {change}"[:100], lambda: judge_request("email-ses", "bad", good | change, mails[name]))


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
        good | {"text": f"x\n{SLACK_CALLS}"},
    ]
    for document in bad_slack:
        must_find(f"Slack: {json.dumps(document)[:100]}", lambda: judge_document("slack", "bad", document))
    twice = good | {"blocks": [{"type": "header", "block_id": "a", "text": text}] * 2}
    must_find("Slack: one block_id twice", lambda: judge_document("slack", "bad", twice))

    def card(**members):
        content = {"type": "AdaptiveCard", "version": "1.4", "body": []} | members
        attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": content}
        return {"type": "message", "attachments": [attachment]}

    def run(**members):
        return {"type": "RichTextBlock", "inlines": [{"type": "TextRun"} | members]}

    bad_teams = [
        card() | {"summary": "x"},
        card(body=[{"type": "TextBlock", "text": "x"}]),
        card(body=[run()]),
        card(body=[run(text="x", color="mauve")]),
        card(body=[{"type": "Nonsense"}]),
        card(body=[run(text="x" * 28_000)]),
        card(actions=[{"type": "Action.OpenUrl", "title": "x", "url": "https://evil.example"}]),
        card(msteams={"entities": TEAMS_CALLS}),
    ]
    for document in bad_teams:
        must_find(f"Teams: {json.dumps(document)[:100]}", lambda: judge_document("teams", "bad", document))
    for channel, (good, changes) in BAD_PRESETS.items():
        judge_document(channel, "good", good)
        if problems:
            sys.exit(f"a good message is taken for a bad one: {problems}")
        for change in changes:
            must_find(f"{channel}: {json.dumps(change)[:100]}", lambda: judge_document(channel, "bad", {**good, **change}))
        for name in sorted(set(SCHEMAS[channel].schema.get("required", ())) if channel in SCHEMAS else ()):
            without = {member: value for member, value in good.items() if member != name}
            must_find(f"{channel}: no {name}", lambda: judge_document(channel, "bad", without))
    without_rules = set(RULES) - set(BAD_PRESETS) - {"slack", "slack-bot", "teams"}
    if without_rules:
        sys.exit(f"nothing shows that the judges of {sorted(without_rules)} can see: add to BAD_PRESETS")
    mail = b"Date: Mon, 23 Nov 2026 09:42:00 +0000\r\nFrom: a@b.c\r\nTo: a@b.c\r\nSubject: x\r\nMessage-ID: <hr_1@b.c>\r\nMIME-Version: 1.0\r\nAuto-Submitted: auto-generated\r\n"
    for rest in (b"Bcc: x@evil.example\r\n\r\nx\r\n", b"\r\nx\n.\nx\r\n", b"\r\nhttps://evil.example\r\n", b"Subject: y\r\n\r\nx\r\n"):
        must_find(f"mail: {rest!r}", lambda: read_mail("bad", mail + rest))
    if read_mail("good", mail + b"\r\nx\r\n")["subject"] != "x" or problems:
        sys.exit(f"a good mail is taken for a bad one: {problems}")


# ---- All of it -------------------------------------------------------------------------------------------------------


def judge_completeness(messages):
    """Every channel that has templates has messages, and every channel has the same ones."""
    there = {path.name for path in messages.iterdir()}
    expected = {path.name for path in (HERE.parent.parent / "templates").iterdir() if path.is_dir()} | {"slack-bot"} | set(MAIL_APIS)
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
    mails = judge_mails(messages / "email", scratch)
    judge_request_judges(messages, mails)
    for directory in sorted(messages.iterdir()):
        if directory.name == "email":
            count = len(mails)
        else:
            count = judge_requests(directory, mails) if directory.name in MAIL_APIS else judge_json(directory)
        print(f"{directory.name}: {count} messages")
    print(f"sent for real: {judge_wire(relay.resolve(), scratch)} messages")
    for line in problems[:60]:
        print(line, file=sys.stderr)
    if problems:
        sys.exit(f"{len(problems)} problems")


main()
