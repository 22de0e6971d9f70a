"""What HubSpot's search understands: operators, and how values compare; and how it words a refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from connector.sandbox.hubspot_objects import Kind
from connector.sandbox.server import Refusal, Request, Response, reply

MOST_GROUPS, MOST_FILTERS, MOST_RESULTS = 5, 10, 200


def error(status: int, category: str, message: str, **more: Any) -> Response:
    """A refusal as HubSpot words it."""
    body = {"status": "error", "message": message, "correlationId": "5a2d0b1c-0000-4000-8000-000000000000", "category": category, **more}
    return reply(body, status)


def invalid(what: str) -> Refusal:
    """The refusal of a request that makes no sense."""
    errors = [{"message": what, "code": "INVALID_PARAMETER"}]
    return Refusal(error(400, "VALIDATION_ERROR", "There was a problem with the request.", errors=errors))


def number(value: Any, name: str, otherwise: int) -> int:
    """A whole number of a request. Raises Refusal."""
    if value in (None, ""):
        return otherwise
    try:
        return int(value)
    except (TypeError, ValueError):
        raise invalid(f"{name} must be a number") from None


def json_of(request: Request) -> dict[str, Any]:
    """The body, an object. Raises Refusal."""
    try:
        body = request.json()
    except ValueError:
        raise invalid("the body is not JSON") from None
    if not isinstance(body, dict):
        raise invalid("the body must be an object")
    return body


def ids_of(body: Mapping[str, Any], most: int) -> list[Mapping[str, Any]]:
    """The `inputs` of a batch, each with an id. Raises Refusal."""
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(one, dict) and "id" in one for one in inputs):
        raise invalid("inputs must be a list of ids")
    if len(inputs) > most:
        raise invalid(f"at most {most} inputs")
    return inputs


def groups_of(body: Mapping[str, Any]) -> list[list[Mapping[str, Any]]]:
    """The groups of filters of a search. Raises Refusal."""
    groups = body.get("filterGroups", [])
    if not isinstance(groups, list) or not all(isinstance(group, dict) and isinstance(group.get("filters"), list) for group in groups):
        raise invalid("filterGroups must be a list of groups with filters")
    if len(groups) > MOST_GROUPS or any(len(group["filters"]) > MOST_FILTERS for group in groups):
        raise invalid("too many filters")
    return [group["filters"] for group in groups]


def sorts_of(kind: Kind, body: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Property and whether it descends. Raises Refusal."""
    found = []
    for sort in body.get("sorts") or []:
        name = sort if isinstance(sort, str) else sort.get("propertyName")
        if name not in kind.properties:
            raise invalid(f"no property {name}")
        found.append((name, not isinstance(sort, str) and sort.get("direction") == "DESCENDING"))
    return found


def matches(kind: Kind, one: Mapping[str, Any]) -> Callable[[Any], bool]:
    """Whether a record meets a filter. Raises Refusal."""
    name, operator = str(one.get("propertyName")), str(one.get("operator"))
    if name not in kind.properties:
        raise invalid(f"no property {name}")
    get = kind.properties[name].value

    def read(value: Any) -> Any:
        return comparable(kind, name, value)

    def given(key: str) -> Any:
        if key not in one:
            raise invalid(f"{operator} needs {key}")
        try:
            return [read(value) for value in one[key]] if key == "values" else read(one[key])
        except (TypeError, ValueError):
            raise invalid(f"{name}: {key} is not of the property's type") from None

    if operator in ("HAS_PROPERTY", "NOT_HAS_PROPERTY"):
        return lambda record: (get(record) is not None) == (operator == "HAS_PROPERTY")
    if operator in ("IN", "NOT_IN"):
        values = set(given("values"))
        return lambda record: (read(get(record)) in values) == (operator == "IN")
    if operator == "BETWEEN":
        low, high = given("value"), given("highValue")
        return lambda record: get(record) is not None and low <= read(get(record)) <= high
    tests: dict[str, Callable[[Any, Any], bool]] = {
        "EQ": lambda found, value: bool(found == value),
        "NEQ": lambda found, value: bool(found != value),
        "GT": lambda found, value: bool(found > value),
        "GTE": lambda found, value: bool(found >= value),
        "LT": lambda found, value: bool(found < value),
        "LTE": lambda found, value: bool(found <= value),
        "CONTAINS_TOKEN": lambda found, value: str(value[1]).strip("*").casefold() in str(found[1]).casefold(),
    }
    if operator not in tests:
        raise invalid(f"no operator {operator}")
    test, value = tests[operator], given("value")
    return lambda record: get(record) is not None and test(read(get(record)), value)


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
