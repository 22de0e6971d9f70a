"""Logs to stderr as text or JSON lines, with every secret of the configuration blacked out."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

from pydantic import BaseModel, SecretStr

LOG: Final = logging.getLogger("connector")
HIDDEN: Final = "***"


class Redaction(logging.Filter):
    """Knows the secrets of this process and takes them out of any text.

    Secrets shorter than four characters are not searched for: blacking out every "a" would say more than it hides.
    """

    def __init__(self) -> None:
        super().__init__()
        self.secrets: set[str] = set()

    def learn(self, secrets: Iterable[str]) -> None:
        self.secrets.update(secret for secret in secrets if len(secret) >= 4)

    def clean(self, text: str) -> str:
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return text

    def clean_tree(self, node: Any) -> Any:
        match node:
            case str():
                return self.clean(node)
            case Mapping():
                return {key: self.clean_tree(value) for key, value in node.items()}
            case list() | tuple():
                return [self.clean_tree(value) for value in node]
            case _:
                return node

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.clean(record.getMessage()), None
        return True


REDACTION: Final = Redaction()


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if hasattr(record, "flow"):
            line["flow"] = record.flow
        if record.exc_info:
            line["traceback"] = REDACTION.clean(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


class Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        label = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        trace = f"\n{REDACTION.clean(self.formatException(record.exc_info))}" if record.exc_info else ""
        flow = f"{record.flow}: " if hasattr(record, "flow") else ""
        return f"{label}{flow}{record.getMessage()}{trace}"


def configure(style: Literal["text", "json"], level: str, stream: TextIO | None = None) -> None:
    """Send our log to `stream` (stderr); call once per process."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if style == "json" else Text())
    handler.addFilter(REDACTION)
    LOG.handlers[:] = [handler]
    LOG.setLevel(level.upper())
    LOG.propagate = False


def secrets_of(model: BaseModel) -> Iterable[str]:
    """Every secret value anywhere in a configuration."""
    for name in type(model).model_fields:
        yield from _secrets(getattr(model, name))


def _secrets(value: Any) -> Iterable[str]:
    match value:
        case SecretStr():
            secret = value.get_secret_value()
            yield secret
            path = secret.partition("://")[2].partition("/")[2]
            if len(path) >= 16:  # a webhook: what libraries say of an address is its path
                yield path
        case BaseModel():
            yield from secrets_of(value)
        case Mapping():
            for child in value.values():
                yield from _secrets(child)
        case list() | tuple():
            for child in value:
                yield from _secrets(child)
        case _:
            return
