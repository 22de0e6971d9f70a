"""The records of the generated company: what a CRM would hold, in nobody's format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from itertools import pairwise


@dataclass(slots=True)
class Owner:
    n: int
    first: str
    last: str
    team: str
    region: str
    manager: int | None
    skill: float
    active: bool
    created_at: datetime
    modified_at: datetime

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}"

    @property
    def email(self) -> str:
        plain = "".join(c for c in f"{self.first}.{self.last}".lower() if c.isascii() and (c.isalnum() or c == "."))
        return f"{plain}.{self.n}@sandbox.example"


@dataclass(slots=True)
class Stage:
    """`key` never changes; `name` is what a CRM's programs call the stage, `label` what people see and may rename."""

    key: str
    name: str
    label: str
    order: int
    probability: Decimal
    won: bool = False
    lost: bool = False
    forecast: str = "Pipeline"

    @property
    def closed(self) -> bool:
        return self.won or self.lost


@dataclass(slots=True)
class Pipeline:
    n: int
    key: str
    label: str
    stages: list[Stage]
    modified_at: datetime

    def stage(self, key: str) -> Stage:
        return next(stage for stage in self.stages if stage.key == key)

    def open_stages(self) -> list[Stage]:
        return [stage for stage in self.stages if not stage.closed]


@dataclass(slots=True)
class Account:
    n: int
    name: str
    segment: str
    country: str
    owner: int
    created_at: datetime
    modified_at: datetime
    deleted_at: datetime | None = None
    merged_into: int | None = None


@dataclass(slots=True)
class Contact:
    n: int
    first: str
    last: str
    account: int
    created_at: datetime
    modified_at: datetime
    deleted_at: datetime | None = None

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}"

    @property
    def email(self) -> str:
        return f"contact{self.n}@customer{self.account}.example"


@dataclass(slots=True)
class Product:
    n: int
    name: str
    category: str
    price: Decimal
    created_at: datetime
    modified_at: datetime


@dataclass(slots=True)
class Change:
    """The state of a deal after one change of stage, amount or planned close date."""

    n: int
    at: datetime
    pipeline: str
    stage: str
    amount: Decimal | None
    close_date: date
    by: int


@dataclass(slots=True)
class Line:
    n: int
    deal: int
    product: int
    quantity: int
    amount: Decimal
    created_at: datetime
    modified_at: datetime
    deleted_at: datetime | None = None


@dataclass(slots=True)
class Role:
    """The part a contact has in a deal."""

    n: int
    deal: int
    contact: int
    name: str
    primary: bool
    created_at: datetime
    modified_at: datetime
    deleted_at: datetime | None = None


@dataclass(slots=True)
class Deal:
    """An opportunity. `close_date` is what the rep plans; `closed_at` is when it really was won or lost."""

    n: int
    name: str
    pipeline: str
    stage: str
    amount: Decimal | None
    currency: str
    owner: int
    account: int | None
    contact: int | None
    product: int
    lead_source: str
    existing: bool
    close_date: date
    created_at: datetime
    modified_at: datetime
    stage_entered_at: datetime
    probability: Decimal
    forecast: str
    closed_at: datetime | None = None
    next_step: str | None = None
    lost_reason: str | None = None
    last_activity_at: datetime | None = None
    history: list[Change] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    roles: list[Role] = field(default_factory=list)
    activities: list[int] = field(default_factory=list)
    deleted_at: datetime | None = None
    merged_into: int | None = None

    def entries(self) -> Iterator[Change]:
        """The changes that entered a stage."""
        if self.history:
            yield self.history[0]
        for before, after in pairwise(self.history):
            if (before.pipeline, before.stage) != (after.pipeline, after.stage):
                yield after


@dataclass(slots=True)
class Lead:
    n: int
    first: str
    last: str
    company: str
    owner: int
    status: str
    lead_source: str
    product: int
    country: str
    value: Decimal | None
    budget: bool | None
    authority: bool | None
    need: bool | None
    timing: bool | None
    score: int
    created_at: datetime
    modified_at: datetime
    converted_at: datetime | None = None
    deal: int | None = None
    account: int | None = None
    contact: int | None = None
    activities: list[int] = field(default_factory=list)
    deleted_at: datetime | None = None

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}"


@dataclass(slots=True)
class Activity:
    n: int
    kind: str
    subject: str
    deal: int | None
    lead: int | None
    owner: int
    due_at: datetime
    created_at: datetime
    modified_at: datetime
    done_at: datetime | None = None
    deleted_at: datetime | None = None


@dataclass(slots=True)
class Spend:
    n: int
    month: date
    category: str
    amount: Decimal
    modified_at: datetime


@dataclass(slots=True)
class Quota:
    n: int
    month: date
    owner: int
    amount: Decimal
    modified_at: datetime


@dataclass(slots=True)
class Rate:
    """`units` of the currency buy one unit of the home currency from `valid_from` on."""

    n: int
    currency: str
    valid_from: date
    units: Decimal
    modified_at: datetime

    @property
    def rate(self) -> Decimal:
        """Multiplies an amount into the home currency."""
        return (1 / self.units).quantize(Decimal("0.000000000001"))
