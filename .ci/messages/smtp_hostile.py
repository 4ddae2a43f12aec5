#!/usr/bin/env python3
"""Hostile events through the built relay into real mail servers: each must arrive as one well-formed mail.

Servers: Postfix, set to take a bare LF as the end of a line (so that smuggling works, which is shown first), and aiosmtpd.
Needs root and an installed Postfix, and aiosmtpd. Exit 1 if a mail is lost, doubled, or holds what it should not.

    target/message-checks/python/bin/python .ci/messages/smtp_hostile.py --relay target/debug/halo-relay
"""

import argparse
import email
import email.policy
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from aiosmtpd.controller import Controller

TOKEN = "0123456789abcdef0123456789abcdef"
PATIENCE = 90
SMUGGLED = "MAIL FROM:<evil@example.org>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\nSubject: smuggled\r\n\r\nx"
HOSTILE = [
    "plain",
    "a\r\n.\r\n" + SMUGGLED + "\r\n.\r\n",
    "a\n.\n" + SMUGGLED.replace("\r\n", "\n") + "\n.\n",
    "a\r.\r" + SMUGGLED + "\r.\r",
    "a\n.\r\n" + SMUGGLED + "\r\n.\n",
    "x\r\nBcc: evil@example.org\r\nSubject: other\r\n\r\nbody",
    "nul \0 esc \x1b nel \x85 ls \u2028 rlo \u202e",
    "=?utf-8?q?=0D=0ABcc:_evil@example.org?=",
    "\U0001f980" * 4000,
    "x" * 60000,
    "<script>alert(1)</script> ${x} {{x}} \"'`",
    ".",
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, ready):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = ready()
        if found:
            return found
        time.sleep(0.1)
    raise SystemExit(f"FAILED: no {what} within {PATIENCE} s")


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


class Postfix:
    """A Postfix of its own beside any other: own directories, own port, mail into a Maildir."""

    name = "postfix"

    def __init__(self, home):
        self.port = free_port()
        self.conf, queue, data = (home / part for part in ("conf", "queue", "data"))
        self.mails = home / "mails"
        for directory in (self.conf, queue, data, self.mails):
            directory.mkdir(parents=True)
            directory.chmod(0o755)
        shutil.chown(data, "postfix")
        shutil.chown(self.mails, "nobody", "nogroup")
        uid = self.mails.stat().st_uid
        (self.conf / "main.cf").write_text(
            f"compatibility_level = 3.6\nqueue_directory = {queue}\ndata_directory = {data}\n"
            "myhostname = mail.example.org\nmydestination =\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n"
            "mynetworks = 127.0.0.0/8\nsmtpd_forbid_bare_newline = no\nsmtpd_forbid_unauth_pipelining = no\n"
            "virtual_mailbox_domains = example.org\nvirtual_mailbox_maps = static:all/\n"
            f"virtual_mailbox_base = {self.mails}\nvirtual_uid_maps = static:{uid}\nvirtual_gid_maps = static:65534\n"
            "virtual_minimum_uid = 1\ndefault_transport = error:none\nrelay_transport = error:none\n"
            f"maillog_file_prefixes = {home}\nmaillog_file = {home}/log\nalias_maps =\nalias_database =\n"
        )
        services = pathlib.Path("/usr/share/postfix/master.cf.dist")
        services = services if services.exists() else pathlib.Path("/etc/postfix/master.cf")
        lines = []
        for line in services.read_text().splitlines():
            words = line.split()
            if len(words) >= 8 and not line.startswith(("#", " ")):
                if words[0] == "smtp" and words[1] == "inet":
                    words[0] = f"127.0.0.1:{self.port}"
                words[4] = "n"
                lines.append(" ".join(words))
        (self.conf / "master.cf").write_text("\n".join(lines) + "\npostlog unix-dgram n - n - 1 postlogd\n")
        self.log = home / "log"

    def __enter__(self):
        subprocess.run(["postfix", "-c", self.conf, "start"], check=True, capture_output=True)
        wait_for("Postfix", lambda: listens(self.port))
        return self

    def __exit__(self, *_):
        subprocess.run(["postfix", "-c", self.conf, "stop"], check=False, capture_output=True)

    def received(self):
        return [path.read_bytes() for path in sorted(self.mails.glob("all/new/*"))]

    def prove_smuggling(self):
        """Without this, an empty finding would prove nothing."""
        talk = ["EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.org>", "DATA"]
        body = "Subject: outer\r\n\r\nx\n.\n" + SMUGGLED.replace("\r\n", "\n") + "\r\n.\r\n"
        with socket.create_connection(("127.0.0.1", self.port), 10) as peer:
            peer.settimeout(10)
            peer.recv(4096)
            for line in talk:
                peer.sendall(line.encode() + b"\r\n")
                peer.recv(4096)
            peer.sendall(body.encode())
            wait_for("smuggled mail: this Postfix takes no bare LF", lambda: len(self.received()) >= 2)
        for path in self.mails.glob("all/new/*"):
            path.unlink()


class Aiosmtpd:
    """Refuses what is not strict: AUTH unused, 8-bit and long lines told apart by the check of each mail."""

    name = "aiosmtpd"

    def __init__(self):
        self.mails = []

    def __enter__(self):
        received = self.mails

        class Handler:
            async def handle_DATA(self, server, session, envelope):
                received.append(envelope.original_content)
                return "250 taken"

        self.port = free_port()
        self.controller = Controller(Handler(), hostname="127.0.0.1", port=self.port)
        self.controller.start()
        return self

    def __exit__(self, *_):
        self.controller.stop()

    def received(self):
        return list(self.mails)


def post(port, number, text):
    event = {
        "event_id": f"hostile-{number}", "key": "website-cert-expiring", "subject": text, "target": text[:2000],
        "timestamp": "2026-11-23 09:41:00", "issuer": text, "domain": text, "host": text,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/hooks/halo", json.dumps(event).encode(),
        {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 202, answer.status


def faults_of(raw):
    text = raw.replace(b"\r\n", b"\n")
    for line in text.split(b"\n"):
        if len(line) > 998 or b"\r" in line or b"\0" in line:
            yield f"a line of {len(line)} octets, or with a bare CR or NUL"
    if any(byte > 127 for byte in text):
        yield "8-bit octets"
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    if mail.defects or any(part.defects for part in mail.walk()):
        yield f"defects: {mail.defects}"
    for name in ("From", "To", "Subject", "Message-ID", "Date", "Auto-Submitted", "List-Id", "MIME-Version"):
        if len(mail.get_all(name, [])) != 1:
            yield f"{name} stands there {len(mail.get_all(name, []))} times"
    if mail["Bcc"] or mail["Cc"]:
        yield "a header that is not ours"
    if str(mail["From"]) != "Halo relay <relay@example.org>" or str(mail["To"]) != "oncall@example.org":
        yield f"from {mail['From']} to {mail['To']}"
    if mail["Subject"] and any(ord(letter) < 32 for letter in str(mail["Subject"])):
        yield "a control character in the subject"
    if [part.get_content_type() for part in mail.walk()] != ["multipart/alternative", "text/plain", "text/html"]:
        yield "other parts than text and HTML"


def prove_sight():
    """A judge that finds nothing wrong with what is wrong is blind."""
    good = (
        b"From: Halo relay <relay@example.org>\r\nTo: oncall@example.org\r\nSubject: x\r\nMessage-ID: <x@example.org>\r\n"
        b"Date: Mon, 23 Nov 2026 09:42:00 +0000\r\nAuto-Submitted: auto-generated\r\nList-Id: <x.example.org>\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/alternative; boundary="b"\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nx\r\n'
        b"--b\r\nContent-Type: text/html\r\n\r\n<p>x</p>\r\n--b--\r\n"
    )
    if found := list(faults_of(good)):
        raise SystemExit(f"FAILED: a good mail is taken for a bad one: {found}")
    changes = [
        (b"Subject: x", b"Subject: x\r\nBcc: evil@example.org"), (b"Subject: x", b"Subject: x\r\nSubject: y"), (b"\nx\r", b"\nx\ry\r"), (b"\nx\r", b"\n\xe9\r"),
        (b"\nx\r", b"\n" + b"x" * 999 + b"\r"), (b"oncall@", b"evil@"), (b"text/html", b"text/plain"), (b"--b--", b""), (b"Subject: x", b"Subject: =?utf-8?q?a=0D=0AB?="),
    ]
    for before, after in changes:
        if not list(faults_of(good.replace(before, after, 1))):
            raise SystemExit(f"FAILED: {after[:60]!r} was not found: this check is blind")


def run(relay, server):
    with tempfile.TemporaryDirectory() as home:
        home = pathlib.Path(home)
        port = free_port()
        (home / "rules.yaml").write_text(
            f"sources: {{ push: {{ type: webhook, listen: '127.0.0.1:{port}', token: {{ env: HOOK }} }} }}\n"
            "destinations:\n"
            f"  mail: {{ type: email, smtp: {{ host: 127.0.0.1, port: {server.port}, tls: none }},\n"
            "          from: Halo relay <relay@example.org>, to: oncall@example.org }\n"
            "rules: []\nunrouted: { send: [mail] }\n"
        )
        command = [relay, "run", "-c", home / "rules.yaml", "--state-dir", home / "state"]
        with open(home / "log", "wb") as log:
            process = subprocess.Popen(command, env={"HOOK": TOKEN, "PATH": "/usr/bin:/bin"}, stderr=log, stdout=log)
        try:
            wait_for("relay", lambda: listens(port))
            for number, text in enumerate(HOSTILE):
                post(port, number, text)
            wait_for(f"{len(HOSTILE)} mails at {server.name}", lambda: len(server.received()) >= len(HOSTILE))
            time.sleep(2)  # for one too many
        finally:
            process.terminate()
            process.wait(30)
            if process.returncode != 0:
                print((home / "log").read_text()[-2000:])
    mails = server.received()
    faults = [fault for raw in mails for fault in faults_of(raw)]
    ids = {email.message_from_bytes(raw)["Message-ID"] for raw in mails}
    if len(mails) != len(HOSTILE) or len(ids) != len(HOSTILE):
        faults.append(f"{len(mails)} mails with {len(ids)} ids of {len(HOSTILE)} events")
    print(f"{server.name}: {len(mails)} mails of {len(HOSTILE)} hostile events, {len(faults)} faults")
    for fault in faults:
        print(f"  FAULT {fault}")
    return not faults


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--relay", required=True, type=pathlib.Path)
    relay = options.parse_args().relay.resolve()
    prove_sight()
    with tempfile.TemporaryDirectory() as home:
        pathlib.Path(home).chmod(0o755)
        with Postfix(pathlib.Path(home)) as postfix:
            postfix.prove_smuggling()
            good = run(relay, postfix)
    with Aiosmtpd() as aiosmtpd_server:
        good &= run(relay, aiosmtpd_server)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
