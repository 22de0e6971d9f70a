"""What HubSpot's search understands: operators, and how values compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from connector.sandbox.hubspot_objects import Kind
from connector.sandbox.server import Refusal, Response, reply


def error(status: int, category: str, message: str, **more: Any) -> Response:
    """A refusal as HubSpot words it."""
    body = {"status": "error", "message": message, "correlationId": "5a2d0b1c-0000-4000-8000-000000000000", "category": category, **more}
    return reply(body, status)


def matches(kind: Kind, one: Mapping[str, Any]) -> Callable[[Any], bool]:
    name, operator = one["propertyName"], one["operator"]
    if name not in kind.properties:
        raise Refusal(
            error(
                400,
                "VALIDATION_ERROR",
                "There was a problem with the request.",
                errors=[{"message": f"no property {name}", "code": "INVALID_PARAMETER"}],
            )
        )
    get = kind.properties[name].value

    def read(value: Any) -> Any:
        return comparable(kind, name, value)

    if operator in ("HAS_PROPERTY", "NOT_HAS_PROPERTY"):
        return lambda record: (get(record) is not None) == (operator == "HAS_PROPERTY")
    if operator in ("IN", "NOT_IN"):
        values = {read(value) for value in one["values"]}
        return lambda record: (read(get(record)) in values) == (operator == "IN")
    if operator == "BETWEEN":
        low, high = read(one["value"]), read(one["highValue"])
        return lambda record: get(record) is not None and low <= read(get(record)) <= high
    value = read(one.get("value"))
    tests: dict[str, Callable[[Any], bool]] = {
        "EQ": lambda found: bool(found == value),
        "NEQ": lambda found: bool(found != value),
        "GT": lambda found: bool(found > value),
        "GTE": lambda found: bool(found >= value),
        "LT": lambda found: bool(found < value),
        "LTE": lambda found: bool(found <= value),
        "CONTAINS_TOKEN": lambda found: str(value[1]).strip("*").casefold() in str(found[1]).casefold(),
    }
    if operator not in tests:
        raise Refusal(error(400, "VALIDATION_ERROR", f"Invalid operator {operator}"))
    test = tests[operator]
    return lambda record: get(record) is not None and test(read(get(record)))


def comparable(kind: Kind, name: str, value: Any) -> tuple[bool, Any]:
    """Numbers as numbers, instants as milliseconds; null first."""
    if value is None:
        return False, 0
    what = kind.properties[name].type
    if what == "number":
        return True, float(value)
    if what == "datetime":
        return True, int(value) if str(value).isdigit() else int(datetime.fromisoformat(str(value)).timestamp() * 1000)
    return True, str(value).casefold()
