"""How the sandbox's Salesforce answers a query: what a user may select, which rows there are, and how a record looks on the wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from connector.sandbox.company import Company
from connector.sandbox.salesforce_objects import Field, SObject, instant
from connector.sandbox.salesforce_settings import Setup
from connector.sandbox.server import Refusal, Response, reply
from connector.sandbox.soql import Query, SoqlError, parse


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked query: the object, and what gives each selected path."""

    object: SObject
    query: Query
    columns: tuple[tuple[str, str, Callable[[Any], Any]], ...]


def refusal(status: int, code: str, message: str) -> Refusal:
    return Refusal(error(status, code, message))


def error(status: int, code: str, message: str) -> Response:
    return reply([{"message": message, "errorCode": code}], status)


class Rows:
    """Queries over the objects the user may see; `seen` gives those, `every` also what relationships lead to."""

    def __init__(
        self, company: Company, setup: Setup, seen: Callable[[], Mapping[str, SObject]], every: Callable[[], Mapping[str, SObject]]
    ) -> None:
        self.company = company
        self.setup = setup
        self.seen = seen
        self.every = every

    def object(self, name: str, status: int = 400, code: str = "INVALID_TYPE") -> SObject:
        found = {each.casefold(): one for each, one in self.seen().items()}.get(name.casefold())
        if found is None:
            raise refusal(status, code, f"sObject type '{name}' is not supported.")
        hidden = self.setup.hidden_fields.get(found.name, frozenset())
        fields = {each: kind for each, kind in found.fields.items() if each not in hidden}
        if found.name == "Opportunity":
            fields |= {
                f"Extra_{number:03}__c": Field("string", lambda deal: deal.name) for number in range(1, self.setup.custom_fields + 1)
            }
        return replace(found, fields=fields)

    def parsed(self, text: str) -> Plan:
        try:
            query = parse(text, lambda inner: self._values(self.plan(inner)))
        except SoqlError as wrong:
            raise refusal(400, "MALFORMED_QUERY", f"\n{text}\n^\nERROR at Row:1:Column:1\n{wrong}") from wrong
        return self.plan(query)

    def plan(self, query: Query) -> Plan:
        thing = self.object(query.object)
        names = [path.casefold() for path in query.fields]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise refusal(400, "INVALID_FIELD", f"duplicate field selected: {query.fields[place]}")
            if query.group and name not in (path.casefold() for path in query.group):
                raise refusal(400, "MALFORMED_QUERY", f"Field must be grouped or aggregated: {query.fields[place]}")
        columns = tuple((path, *self._path(thing, path)) for path in query.fields)
        for path in (*query.asked, *query.group):
            self._path(thing, path)
        if query.nested:
            raise refusal(400, "MALFORMED_QUERY", "the sandbox has no child relationships in SELECT")
        return Plan(thing, query, columns)

    def _path(self, thing: SObject, path: str) -> tuple[str, Callable[[Any], Any]]:
        """Type and value of a field by path, through parents. Raises INVALID_FIELD."""
        name, _, rest = path.partition(".")
        if rest:
            parent = {each.casefold(): one for each, one in thing.parents.items()}.get(name.casefold())
            if parent is None or f"{name}Id".casefold() in self._hidden(thing):
                raise refusal(400, "INVALID_FIELD", f"Didn't understand relationship '{name}' in field path.")
            kind, inner = self._path(self.object(parent[0], code="INVALID_FIELD"), rest)
            step = parent[1]
            return kind, lambda row: None if (found := step(row)) is None else inner(found)
        found = {each.casefold(): kind for each, kind in thing.fields.items()}.get(name.casefold())
        if found is None:
            raise refusal(400, "INVALID_FIELD", f"No such column '{name}' on entity '{thing.name}'.")
        return found.type, found.value

    def _hidden(self, thing: SObject) -> set[str]:
        return {name.casefold() for name in self.setup.hidden_fields.get(thing.name, ())}

    def _values(self, plan: Plan) -> set[Any]:
        return {plan.columns[0][2](row) for row in self.select(plan, everything=False)}

    def select(self, plan: Plan, *, everything: bool) -> list[Any]:
        query, thing = plan.query, plan.object
        for path, sign, value in query.bounds:
            kind = self._path(thing, path)[0]
            if kind == "datetime" and isinstance(value, date) and not isinstance(value, datetime):
                raise refusal(400, "INVALID_FIELD", f"value of filter criterion for field '{path}' must be of type dateTime ({sign})")
        getters: dict[str, Callable[[Any], Any]] = {path: self._path(thing, path)[1] for path in query.asked}
        rows = []
        for row in thing.rows():
            if self._purged(row) or (not everything and (self.gone(row) or thing.archived(row))):
                continue
            if query.where is None or query.where(lambda path, row=row: getters[path](row)):  # type: ignore[misc]
                rows.append(row)
        if query.group:  # one row stands for each group
            rows = list({tuple(value(row) for _, _, value in plan.columns): row for row in rows}.values())
        for path, descending in reversed(query.order):
            rows.sort(key=lambda row, get=getters[path]: _sortable(get(row)), reverse=descending)  # type: ignore[misc]
        return rows[query.offset : None if query.limit is None else query.offset + query.limit]

    def gone(self, row: Any) -> bool:
        return _deleted_at(row) is not None

    def _purged(self, row: Any) -> bool:
        """Out of the recycle bin: no query sees it any more."""
        gone = _deleted_at(row)
        return gone is not None and self.company.now - gone > timedelta(days=self.setup.recycle_bin_days)

    def json(self, plan: Plan, row: Any, version: str) -> dict[str, Any]:
        thing = plan.object
        url = f"/services/data/v{version}/sobjects/{thing.name}/{thing.fields['Id'].value(row)}" if "Id" in thing.fields else ""
        record: dict[str, Any] = {"attributes": {"type": "AggregateResult"} if plan.query.group else {"type": thing.name, "url": url}}
        for path, _, value in plan.columns:
            parts = path.split(".")
            place, here, at = record, thing, row
            for name in parts[:-1]:
                kind, step = here.parents[name]
                here, at = self.every()[kind], step(at)
                if at is None:
                    place[name] = None
                    break
                place = place.setdefault(name, {"attributes": {"type": kind, "url": ""}})
            else:
                place[parts[-1]] = _wire(value(row))
        return record


def _deleted_at(row: Any) -> datetime | None:
    record = row[0] if isinstance(row, tuple) else row
    found: datetime | None = getattr(record, "deleted_at", None)
    return found


def _wire(value: Any) -> Any:
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, date):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


def _sortable(value: Any) -> tuple[bool, Any]:
    return value is not None, value
