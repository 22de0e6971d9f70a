"""A mail server and a webhook receiver on loopback, which remember what they were sent."""

import base64
import json
import socketserver
import threading
from contextlib import contextmanager
from email import message_from_bytes, policy

import pytest

from connector.sandbox.server import Response, Service, reply, serve


class Inbox(Service):
    """Takes any POST below /hook; answers 202 as Power Automate does."""

    name = "inbox"

    def __init__(self):
        self.got = []

    def routes(self):
        yield "POST", r"/hook/.*", self.take

    def take(self, request):
        self.got.append((request.path, dict(request.headers), json.loads(request.body)))
        return reply({}, 202)

    def refuse(self, status, message):
        return Response(status, b"no")


class MailServer(socketserver.ThreadingTCPServer):
    """Speaks enough SMTP for a client that signs in over STARTTLS; `says` overrules answers by command."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, tls=None, password=None):
        self.tls, self.password = tls, password
        self.mails, self.says, self.signed_in = [], {}, []
        super().__init__(("127.0.0.1", 0), Talk)

    @property
    def port(self):
        return self.server_address[1]


class Talk(socketserver.StreamRequestHandler):
    server: MailServer

    def say(self, line):
        self.wfile.write(f"{line}\r\n".encode())

    def finish(self):
        super().finish()
        self.connection.close()

    def handle(self):
        office, to, sender = self.server, [], None
        self.say("220 here")
        while line := self.rfile.readline().decode().strip():
            verb, _, rest = line.partition(" ")
            verb = verb.upper()
            if verb in office.says:
                answer = office.says[verb]
                if answer is None:
                    return
                self.say(answer)
            elif verb == "EHLO":
                offers = (["STARTTLS"] if office.tls else []) + (["AUTH PLAIN LOGIN"] if office.password else [])
                for offer in ["here", *offers]:
                    self.say(f"250-{offer}")
                self.say("250 8BITMIME")
            elif verb == "STARTTLS":
                self.say("220 go")
                self.connection = office.tls.wrap_socket(self.connection, server_side=True)
                self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
            elif verb == "AUTH":
                given = base64.b64decode(rest.split()[-1]).split(b"\0")[-1].decode()
                office.signed_in.append(given == office.password)
                self.say("235 welcome" if given == office.password else "535 no")
            elif verb == "MAIL":
                sender = rest
                self.say("250 ok")
            elif verb == "RCPT":
                if "nobody" in rest:
                    self.say("550 no such user")
                else:
                    to.append(rest)
                    self.say("250 ok")
            elif verb == "DATA":
                self.say("354 go on")
                lines = []
                while (one := self.rfile.readline()) not in (b".\r\n", b""):
                    lines.append(one)
                office.mails.append((sender, to, message_from_bytes(b"".join(lines), policy=policy.default)))
                if "." in office.says:
                    return
                self.say("250 taken")
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 ok")


@contextmanager
def mail_server(tls=None, password=None):
    with MailServer(tls, password) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def inbox():
    """A webhook receiver that listens; `inbox.running.faults` breaks it, `inbox.got` is what arrived."""
    inbox = Inbox()
    with serve(inbox) as inbox.running:
        yield inbox
        assert inbox.running.violations == []


@pytest.fixture(name="mail_server")
def _mail_server():
    return mail_server
