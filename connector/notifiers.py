"""How a notice leaves the house: e-mail, Microsoft Teams, Slack, or a webhook of the admin's own.

Facts: Teams workflow webhooks take an Adaptive Card inside a message, at most 28 KB
(learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors); Slack's take blocks, a section at most 3,000 characters
(docs.slack.dev/messaging/sending-messages-using-incoming-webhooks); signatures follow standardwebhooks.com.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import smtplib
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from string import Formatter
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator
from requests import RequestException

from connector.api import Finding, Location, Model
from connector.errors import ConnectorError, nearest
from connector.http import Network, Session, host, unanswered, unsent

Event = Literal["failure", "recovery", "gate", "digest"]
#: what a template may name, and what it stands for
TEMPLATE_FIELDS: Final[Mapping[str, str]] = {
    "flow": "name of the flow",
    "event": "failure, recovery, gate or digest",
    "run": "id of the run",
    "at": "when it ended, in the flow's time zone",
    "reason": "what went wrong",
    "remedy": "what to do about it",
    "exit_code": "exit code of the run",
    "since": "when it first went wrong",
    "runs": "how many runs have failed so",
    "refreshed": "when the workbook was last refreshed",
    "figures": "the headline figures, one a line",
    "changes": "what changed in them since the last digest, one a line",
    "warnings": "warnings of the run, one a line",
}
LONGEST: Final = 2_900  # characters of text: a Slack section takes 3,000, a Teams message 28 KB
LONGEST_SUBJECT: Final = 140
SMTP_PORTS: Final = {"starttls": 587, "tls": 465, "none": 25}


class UndeliveredError(ConnectorError):
    """A notice did not get through; it is tried again."""


class UnsureError(ConnectorError):
    """A notice may or may not have got through: nobody answered after it was sent. It is not sent again."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A message, in words for people and in `fields` for machines. `id` names it for good, so that a receiver can tell a repeat."""

    id: str
    event: str
    subject: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def _template(text: str) -> str:
    """Named fields and nothing else: no attributes, indexes or conversions."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{error}; a brace of the text itself is written twice") from None
    for _, name, form, conversion in parts:
        if name is not None and name not in TEMPLATE_FIELDS:
            raise ValueError(f"no field {name!r}; {nearest(name, TEMPLATE_FIELDS)}")
        if form or conversion:
            raise ValueError(f"{{{name}}} takes no format")
    return text


Template = Annotated[str, AfterValidator(_template)]


class _Notifier(Model):
    """What every notifier has: what it tells, when, and in which words."""

    on: tuple[Event, ...] = Field(("failure", "recovery", "gate"), min_length=1, description="What to tell.")
    after_runs: int = Field(3, ge=1, description="Tell of `try later` (exit 75) once so many runs in a row have ended so …")
    after_hours: float = Field(20, ge=0, description="… or the first of them is so many hours ago.")
    remind_hours: float | None = Field(None, gt=0, description="Tell again when it still fails after so many hours.")
    digest: Literal["daily", "weekly"] = Field("weekly", description="How often a digest goes out, after the first refresh of the period.")
    subject: Template | None = Field(None, description="Subject of your own, with {fields}.")
    text: Template | None = Field(None, description="Text of your own, with {fields}.")
    timeout: float = Field(30, gt=0, description="Seconds to wait for an answer.")
    ca_bundle: Location | None = Field(None, description="File with the certificate authorities to trust.")

    def network(self) -> Network:
        return Network(timeout=self.timeout, max_wait=20, ca_bundle=self.ca_bundle)


class EmailNotifier(_Notifier):
    """A message through a mail server."""

    type: Literal["email"] = "email"
    host: str = Field(min_length=1, description="Mail server (SMTP).")
    port: int | None = Field(None, ge=1, le=65535, description="Its port: 587 with starttls, 465 with tls, 25 with none, unless given.")
    security: Literal["starttls", "tls", "none"] = Field("starttls", description="How the connection is encrypted.")
    user: str | None = Field(None, description="Sign in as.")
    password: SecretStr | None = Field(None, description="Password, or app password.")
    sender: str = Field(alias="from", pattern=r"^[^@\s]+@[^@\s]+$", description="Address it comes from.")
    to: tuple[Annotated[str, Field(pattern=r"^[^@\s,]+@[^@\s,]+$")], ...] = Field(min_length=1, description="Addresses it goes to.")

    @model_validator(mode="after")
    def _sign_in(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together")
        if self.password is not None and self.security == "none":
            raise ValueError("a password is never sent over an unencrypted connection; set security to starttls or tls")
        return self

    @property
    def target(self) -> str:
        return ", ".join(self.to)

    def identity(self) -> tuple[str, ...]:
        return (self.host, *self.to)

    def send(self, notice: Notice, session: Session, at: datetime) -> str:
        """See `Notifier.send`; the same notice has the same Message-ID, so that a mail system can tell a repeat."""
        message = EmailMessage()
        message["Subject"], message["From"], message["To"] = notice.subject, self.sender, ", ".join(self.to)
        message["Date"], message["Message-ID"] = format_datetime(at), f"<{notice.id}@{self.sender.partition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(notice.text)
        with self._server() as server:
            try:
                refused = server.send_message(message)
            except smtplib.SMTPServerDisconnected as error:
                raise UnsureError(f"{self.host}: the mail server hung up while it took the message") from error
            except smtplib.SMTPRecipientsRefused as error:
                raise UndeliveredError(f"{self.host}: refuses {', '.join(error.recipients)}", remedy="correct `to`") from error
            except smtplib.SMTPResponseException as error:
                raise UndeliveredError(f"{self.host}: refuses the message ({error.smtp_code})", remedy="correct `from`") from error
            except OSError as error:
                raise UnsureError(f"{self.host}: no answer after the message was sent ({type(error).__name__})") from error
        return f"{self.host} refuses {', '.join(sorted(refused))}" if refused else ""

    def check(self, session: Session) -> Iterator[Finding]:
        with self._server():
            yield Finding(self.host, ok=True, detail=f"{'signed in' if self.user else 'reachable'}; to {self.target}")

    @contextmanager
    def _server(self) -> Iterator[smtplib.SMTP]:
        """The mail server, signed in. Raises UndeliveredError."""
        port = self.port or SMTP_PORTS[self.security]
        place = f"{self.host}:{port}"
        try:
            if self.security == "tls":
                server: smtplib.SMTP = smtplib.SMTP_SSL(self.host, port, timeout=self.timeout, context=self._trust())
            else:
                server = smtplib.SMTP(self.host, port, timeout=self.timeout)
        except smtplib.SMTPException as error:
            raise UndeliveredError(f"{place}: does not answer as a mail server does", remedy="check `port` and `security`") from error
        except ssl.SSLCertVerificationError as error:
            raise UndeliveredError(f"{place}: {_UNTRUSTED}", remedy=_TRUST) from error
        except OSError as error:
            raise UndeliveredError(
                f"{place}: cannot be reached ({type(error).__name__})", remedy="check `host`, `port` and `security`"
            ) from error
        with server:
            self._sign_in_to(server, place)
            yield server

    def _sign_in_to(self, server: smtplib.SMTP, place: str) -> None:
        try:
            if self.security == "starttls":
                server.starttls(context=self._trust())
            if self.user is not None and self.password is not None:
                server.login(self.user, self.password.get_secret_value())
        except smtplib.SMTPAuthenticationError as error:
            raise UndeliveredError(f"{place}: refuses user and password ({error.smtp_code})", remedy="renew the password") from error
        except smtplib.SMTPNotSupportedError as error:
            raise UndeliveredError(f"{place}: does not offer what `security` or `user` need", remedy="try security: tls") from error
        except ssl.SSLCertVerificationError as error:
            raise UndeliveredError(f"{place}: {_UNTRUSTED}", remedy=_TRUST) from error
        except (smtplib.SMTPException, OSError) as error:
            raise UndeliveredError(f"{place}: signing in failed ({type(error).__name__})", remedy="check `security`") from error

    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_bundle)


_UNTRUSTED: Final = "the server's certificate is not trusted"
_TRUST: Final = "name the issuing authority's file in ca_bundle"


class _Webhook(_Notifier):
    """Something that takes a POST. Its address is a secret: whoever has it may write there."""

    url: SecretStr = Field(description="Address of the webhook; a secret.")
    proxy: str | None = Field(None, description="Proxy address, e.g. http://proxy.example:8080.")

    @model_validator(mode="after")
    def _address(self) -> Self:
        if urlsplit(self.url.get_secret_value()).scheme not in ("https", "http") or host(self.url.get_secret_value()) == "?":
            raise ValueError("url is not the address of a webhook; it begins with https://")
        return self

    def network(self) -> Network:
        return Network(timeout=self.timeout, max_wait=20, proxy=self.proxy, ca_bundle=self.ca_bundle)

    @property
    def target(self) -> str:
        return host(self.url.get_secret_value())

    def identity(self) -> tuple[str, ...]:
        return (self.url.get_secret_value(),)

    def send(self, notice: Notice, session: Session, at: datetime) -> str:
        body = json.dumps(self.payload(notice), ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", **self.headers_of(notice, body, at)}
        try:
            response = session.request("POST", self.url.get_secret_value(), data=body, headers=headers, allow_redirects=False)
        except RequestException as error:
            known = unanswered(self.target, error)
            raise (UndeliveredError if unsent(error) else UnsureError)(str(known), remedy=known.remedy) from None
        response.close()
        status = response.status_code
        if status in (502, 504):
            raise UnsureError(f"{self.target}: {status}, which does not say whether the message got through")
        if not 200 <= status < 300:
            raise UndeliveredError(f"{self.target}: refuses the message ({status})", remedy="check that the webhook still exists")
        return ""

    def check(self, session: Session) -> Iterator[Finding]:
        """Whether the host answers; asking the address itself might set something off."""
        address = urlsplit(self.url.get_secret_value())
        session.ask("HEAD", f"{address.scheme}://{address.netloc}/", where=self.target, allow_redirects=False).close()
        yield Finding(self.target, ok=True, detail="reachable; `connector check --notify` sends a test message")

    def payload(self, notice: Notice) -> dict[str, Any]:
        raise NotImplementedError

    def headers_of(self, notice: Notice, body: bytes, at: datetime) -> dict[str, str]:
        return {}


class TeamsNotifier(_Webhook):
    """A channel or chat of Microsoft Teams, through a workflow that starts when a webhook request is received."""

    type: Literal["teams"] = "teams"

    def payload(self, notice: Notice) -> dict[str, Any]:
        """Runs of text, which know no Markdown: what came out of a CRM cannot become a link."""
        title = {"type": "TextRun", "text": notice.subject, "weight": "bolder", "size": "medium"}
        lines = [line for line in notice.text.splitlines() if line.strip()]
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "msteams": {"width": "Full"},
            "body": [
                {"type": "RichTextBlock", "inlines": [title]},
                *({"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": line}]} for line in lines),
            ],
        }
        return {
            "type": "message",
            "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}],
        }


class SlackNotifier(_Webhook):
    """A channel of Slack, through an incoming webhook."""

    type: Literal["slack"] = "slack"

    def payload(self, notice: Notice) -> dict[str, Any]:
        fallback = notice.subject.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

        def plain(text: str) -> dict[str, Any]:
            return {"type": "plain_text", "text": text, "emoji": False}

        return {
            "text": fallback,
            "blocks": [{"type": "header", "text": plain(notice.subject)}, {"type": "section", "text": plain(notice.text)}],
        }


class WebhookNotifier(_Webhook):
    """Any address that takes JSON."""

    type: Literal["webhook"] = "webhook"
    headers: Mapping[str, SecretStr] = Field({}, description="Headers to send along, e.g. an API key.")
    signing_secret: SecretStr | None = Field(None, description="Sign each message as standardwebhooks.com describes.")

    @model_validator(mode="after")
    def _key(self) -> Self:
        self._signing_key()
        return self

    def payload(self, notice: Notice) -> dict[str, Any]:
        return {"id": notice.id, "event": notice.event, "subject": notice.subject, "text": notice.text, **notice.fields}

    def headers_of(self, notice: Notice, body: bytes, at: datetime) -> dict[str, str]:
        headers = {name: value.get_secret_value() for name, value in self.headers.items()}
        headers["webhook-id"], headers["webhook-timestamp"] = notice.id, str(int(at.timestamp()))
        key = self._signing_key()
        if key is not None:
            signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
            headers["webhook-signature"] = f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}"
        return headers

    def _signing_key(self) -> bytes | None:
        if self.signing_secret is None:
            return None
        text = self.signing_secret.get_secret_value()
        try:
            return base64.b64decode(text.removeprefix("whsec_"), validate=True) if text.startswith("whsec_") else text.encode()
        except binascii.Error:
            raise ValueError("signing_secret begins with whsec_, but what follows is not base64") from None


#: `send` delivers a notice once; it returns what is worth a warning. Raises UndeliveredError or UnsureError. `check` sends nothing.
Notifier = Annotated[EmailNotifier | TeamsNotifier | SlackNotifier | WebhookNotifier, Field(discriminator="type")]


def name_of(notifier: Notifier) -> str:
    """For state: the same target is the same notifier, whatever else is said of it. Not reversible."""
    return f"{notifier.type}:{hashlib.sha256(repr(notifier.identity()).encode()).hexdigest()[:16]}"


def written(template: str, fields: Mapping[str, Any], longest: int) -> str:
    """The template with its fields; what is too long for a message ends in an ellipsis."""
    text = template.format_map(dict.fromkeys(TEMPLATE_FIELDS, "") | {name: str(value) for name, value in fields.items()}).strip()
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
