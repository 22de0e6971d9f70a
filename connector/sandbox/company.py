"""One generated sales team: the same people, deals and history behind every look-alike of the sandbox.

A company is made by living: `Company.generate` starts with owners and products and lets days pass (life.py), so that history,
stamps and totals agree. Everything is drawn from seeded generators; the same seed and days give the same company on any machine.
Stamps are whole seconds in UTC, because not every CRM keeps more. The home currency is EUR.

`advance` lets days pass; the verbs below it (`create_deal`, `move`, `edit`, `delete`, `merge_deals`, …) are single events for tests.
"""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final

from connector.sandbox import export, life, words
from connector.sandbox.records import (
    Account,
    Activity,
    Change,
    Contact,
    Deal,
    Lead,
    Line,
    Owner,
    Pipeline,
    Product,
    Quota,
    Rate,
    Role,
    Spend,
    Stage,
)

NOW: Final = datetime(2026, 11, 20, 17, 0, tzinfo=UTC)
DAYS: Final = 820
HOME: Final = "EUR"
CENT: Final = Decimal("0.01")


def _pipelines(at: datetime) -> list[Pipeline]:
    def stages(*rows: tuple[str, str, str, str]) -> list[Stage]:
        closed = (("won", "Closed Won", "1", "Closed"), ("lost", "Closed Lost", "0", "Omitted"))
        return [
            Stage(key, label, label, order, Decimal(chance), key == "won", key == "lost", forecast)
            for order, (key, label, chance, forecast) in enumerate((*rows, *closed), start=1)
        ]

    new = stages(
        ("qualification", "Qualification", "0.1", "Pipeline"),
        ("discovery", "Discovery", "0.25", "Pipeline"),
        ("proposal", "Proposal", "0.5", "Best Case"),
        ("negotiation", "Negotiation", "0.75", "Commit"),
    )
    renewal = stages(
        ("review", "Renewal Review", "0.5", "Pipeline"),
        ("offer", "Renewal Offer", "0.7", "Best Case"),
        ("verbal", "Verbal Commitment", "0.9", "Commit"),
    )
    return [Pipeline(1, "new", "New Business", new, at), Pipeline(2, "renewal", "Renewals", renewal, at)]


class Company:
    """The state of the team at `now`, and the verbs that change it. Records are found by number: `deals[17]`.

    Deleted and merged records stay, with `deleted_at`; `version` grows with every change.
    """

    def __init__(self, seed: int, start: datetime, *, deals_per_day: float, leads_per_day: float) -> None:
        self.seed = seed
        self.start = start
        self.now = start
        self.version = 0
        self.pipelines = _pipelines(start)
        self.owners: dict[int, Owner] = {}
        self.accounts: dict[int, Account] = {}
        self.contacts: dict[int, Contact] = {}
        self.products: dict[int, Product] = {}
        self.deals: dict[int, Deal] = {}
        self.leads: dict[int, Lead] = {}
        self.activities: dict[int, Activity] = {}
        self.spend: list[Spend] = []
        self.quotas: list[Quota] = []
        self.rates: list[Rate] = []
        self.customers: set[int] = set()
        self.absorbed: dict[int, list[int]] = {}  # deal -> the deals merged into it
        self.deals_per_day = deals_per_day
        self.leads_per_day = leads_per_day
        self.agenda: list[life.Event] = []
        self._numbers: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._people: dict[int, list[int]] = {}
        self._deals_of: dict[int, list[int]] = {}
        self._stages = {(pipeline.key, stage.key): stage for pipeline in self.pipelines for stage in pipeline.stages}
        self.draw = random.Random(f"{seed} at the start")  # noqa: S311  nothing secret is drawn
        self._hire()
        self._list_products()

    @classmethod
    def generate(cls, seed: int = 7, *, now: datetime = NOW, deals: int = 1_500, days: int = DAYS) -> Company:
        """A company that has worked for `days` up to `now` and made about so many deals (leads, activities in proportion)."""
        company = cls(seed, now - timedelta(days=days), deals_per_day=deals / days, leads_per_day=0.8 * deals / days)
        company.advance(days, seed)
        return company

    # ── reading ───────────────────────────────────────────────────────────────────────────────────

    def stage(self, pipeline: str, stage: str) -> Stage:
        return self._stages[pipeline, stage]

    def pipeline(self, key: str) -> Pipeline:
        return next(pipeline for pipeline in self.pipelines if pipeline.key == key)

    def status(self, deal: Deal) -> str:
        stage = self.stage(deal.pipeline, deal.stage)
        return "won" if stage.won else "lost" if stage.lost else "open"

    def next_activity_at(self, deal: Deal) -> datetime | None:
        planned = (self.activities[n] for n in deal.activities)
        return min((one.due_at for one in planned if one.done_at is None and one.deleted_at is None), default=None)

    def rate(self, currency: str, day: date) -> Decimal:
        """Into the home currency, as valid on a day."""
        if currency == HOME:
            return Decimal(1)
        return max((one for one in self.rates if one.currency == currency and one.valid_from <= day), key=lambda one: one.valid_from).rate

    # ── time ──────────────────────────────────────────────────────────────────────────────────────

    def tick(self, seconds: float = 60) -> datetime:
        """Let a little time pass in which nothing happens."""
        self.now += timedelta(seconds=seconds)
        return self.now

    def advance(self, days: int, seed: int = 1) -> None:
        """Let days pass: leads come, deals are created, move, are edited, won, lost, reopened, deleted and merged."""
        self.draw = random.Random(f"{self.seed} {seed} {self.now.isoformat()}")  # noqa: S311  nothing secret is drawn
        for _ in range(days):
            life.pass_day(self)

    # ── single events ─────────────────────────────────────────────────────────────────────────────

    def create_deal(self, account: Account | None, owner: int, product: int, lead_source: str, *, pipeline: str = "new") -> Deal:
        draw = self.draw
        line = self.pipeline(pipeline)
        stage = line.open_stages()[0]
        thing = self.products[product]
        currency = words.COUNTRIES[account.country][0] if account else HOME
        quantity = max(1, round(draw.lognormvariate(0.4, 0.7)))
        deal = Deal(
            n=self.number("deal"),
            name=self._unique(f"{account.name if account else 'Unnamed prospect'} – {thing.name}"),
            pipeline=pipeline,
            stage=stage.key,
            amount=None,
            currency=currency,
            owner=owner,
            account=account.n if account else None,
            contact=self.draw.choice(self._people[account.n]) if account else None,
            product=product,
            lead_source=lead_source,
            existing=pipeline == "renewal" or bool(account and account.n in self.customers),
            close_date=(self.now + timedelta(days=20 + draw.lognormvariate(3.4, 0.5))).date(),
            created_at=self.now,
            modified_at=self.now,
            stage_entered_at=self.now,
            probability=stage.probability,
            forecast=stage.forecast,
            next_step=draw.choice(words.NEXT_STEPS) if draw.random() < 0.7 else None,
        )
        self.deals[deal.n] = deal
        if account:
            self._deals_of.setdefault(account.n, []).append(deal.n)
        if draw.random() < 0.97:
            self._add_line(deal, thing, quantity)
            if draw.random() < 0.25:
                self._add_line(deal, draw.choice(list(self.products.values())), 1)
            deal.amount = sum((one.amount for one in deal.lines), Decimal(0))
        for contact in self._people.get(deal.account or 0, ()):
            if contact == deal.contact or deal.n % 2 == 0:
                self.involve(deal, contact)
        self._record(deal)
        return deal

    def move(self, deal: Deal, stage: str, *, pipeline: str | None = None) -> None:
        """Into any stage: forward, back, won, lost, reopened, or of another pipeline."""
        target = self.stage(pipeline or deal.pipeline, stage)
        deal.pipeline = pipeline or deal.pipeline
        deal.stage = stage
        deal.stage_entered_at = self.now
        deal.probability = target.probability
        deal.forecast = target.forecast
        deal.closed_at = self.now if target.closed else None
        deal.lost_reason = self.draw.choice(words.LOST_REASONS) if target.lost else None
        if target.won:
            deal.close_date = self.now.date()
            if deal.account:
                self.customers.add(deal.account)
        self._record(deal)

    def edit(self, deal: Deal, *, amount: Decimal | None = None, close_date: date | None = None, next_step: str | None = None) -> None:
        if amount is not None:
            self._reprice(deal, amount)
        if close_date is not None:
            deal.close_date = close_date
        if next_step is not None:
            deal.next_step = next_step
            self.touch(deal)
        if amount is not None or close_date is not None:
            self._record(deal)

    def give(self, deal: Deal, owner: int) -> None:
        deal.owner = owner
        self.touch(deal)

    def delete(self, record: Deal | Account | Contact | Lead | Activity | Line | Role) -> None:
        """Into the recycle bin; a deal takes its lines, roles and activities along."""
        record.deleted_at = record.modified_at = self.now
        self.version += 1
        if isinstance(record, Deal):
            for part in self._parts(record):
                if part.deleted_at is None:
                    part.deleted_at = part.modified_at = self.now

    def restore(self, deal: Deal) -> None:
        """Out of the recycle bin, with what went along."""
        gone = deal.deleted_at
        deal.deleted_at = None
        self.touch(deal)
        for part in self._parts(deal):
            if part.deleted_at == gone:
                part.deleted_at = None
                part.modified_at = self.now

    def involve(self, deal: Deal, contact: int) -> Role:
        """A contact takes part in a deal; that of the deal itself is the primary one. The deal's stamp stays, nothing is drawn."""
        number = self.number("role")
        role = Role(number, deal.n, contact, words.ROLES[number % len(words.ROLES)], contact == deal.contact, self.now, self.now)
        deal.roles.append(role)
        self.version += 1
        return role

    def merge_deals(self, winner: Deal, loser: Deal) -> None:
        loser.merged_into = winner.n
        self.absorbed.setdefault(winner.n, []).extend([loser.n, *self.absorbed.pop(loser.n, [])])
        self.delete(loser)
        self.touch(winner)

    def merge_accounts(self, winner: Account, loser: Account) -> None:
        """The loser goes; its deals and contacts move to the winner."""
        loser.merged_into = winner.n
        self.delete(loser)
        winner.modified_at = self.now
        deals, people = self._deals_of.pop(loser.n, []), self._people.pop(loser.n, [])
        children: list[Deal | Contact] = [*(self.deals[n] for n in deals), *(self.contacts[n] for n in people)]
        for record in children:
            if record.deleted_at is None:
                record.account = winner.n
                record.modified_at = self.now
        self._deals_of.setdefault(winner.n, []).extend(deals)
        self._people.setdefault(winner.n, []).extend(people)
        if loser.n in self.customers:
            self.customers.add(winner.n)

    def rename_account(self, account: Account, name: str) -> None:
        """Deals keep their stamps: a parent's change does not touch its children."""
        account.name = name
        account.modified_at = self.now
        self.version += 1

    def rename_stage(self, pipeline: str, stage: str, label: str) -> None:
        self.stage(pipeline, stage).label = label
        self.pipeline(pipeline).modified_at = self.now
        self.version += 1

    def edit_rate(self, rate: Rate, units: Decimal) -> None:
        """No deal's stamp moves."""
        rate.units = units
        rate.modified_at = self.now
        self.version += 1

    def touch_all(self, deals: list[Deal]) -> None:
        """What a workflow or an import does: many records under one stamp."""
        for deal in deals:
            self.touch(deal)

    def plan(self, deal: Deal | None, lead: Lead | None, due_at: datetime) -> Activity:
        kind = self.draw.choice(list(words.SUBJECTS))
        owner = deal.owner if deal else lead.owner if lead else 1
        activity = Activity(
            n=self.number("activity"),
            kind=kind,
            subject=self.draw.choice(words.SUBJECTS[kind]),
            deal=deal.n if deal else None,
            lead=lead.n if lead else None,
            owner=owner,
            due_at=due_at.replace(microsecond=0),
            created_at=self.now,
            modified_at=self.now,
        )
        self.activities[activity.n] = activity
        self.version += 1
        if deal:
            deal.activities.append(activity.n)
            self.touch(deal)
        if lead:
            lead.activities.append(activity.n)
        return activity

    def finish(self, activity: Activity) -> None:
        activity.done_at = activity.modified_at = self.now
        self.version += 1
        if activity.deal:
            deal = self.deals[activity.deal]
            deal.last_activity_at = self.now
            self.touch(deal)

    def create_lead(self) -> Lead:
        draw = self.draw
        product = draw.choice(list(self.products.values()))
        country = draw.choice(list(words.COUNTRIES))
        source = draw.choices(list(words.SOURCES), [share for share, _ in words.SOURCES.values()])[0]
        bant = [draw.random() < 0.5 if draw.random() < 0.8 else None for _ in range(4)]
        lead = Lead(
            n=self.number("lead"),
            first=draw.choice(words.FIRST_NAMES),
            last=draw.choice(words.LAST_NAMES),
            company=self.firm(draw.choice(list(words.SEGMENTS))),
            owner=self.representative(country),
            status="new",
            lead_source=source,
            product=product.n,
            country=country,
            value=(product.price * draw.randint(1, 4)).quantize(CENT) if draw.random() < 0.9 else None,
            budget=bant[0],
            authority=bant[1],
            need=bant[2],
            timing=bant[3],
            score=min(100, 12 * sum(map(bool, bant)) + round(30 * words.SOURCES[source][1]) + draw.randint(0, 12)),
            created_at=self.now,
            modified_at=self.now,
        )
        self.leads[lead.n] = lead
        self.version += 1
        return lead

    def convert(self, lead: Lead) -> Deal:
        """The lead becomes an account with a contact and a deal."""
        account = self.open_account(lead.company, lead.country, lead.owner)
        deal = self.create_deal(account, lead.owner, lead.product, lead.lead_source)
        lead.status = "converted"
        lead.converted_at = lead.modified_at = self.now
        lead.account, lead.contact, lead.deal = account.n, deal.contact, deal.n
        return deal

    def write_csv(self, folder: Path) -> dict[str, int]:
        """The export a CRM would give: deals.csv, stage_history.csv, leads.csv … into `folder`; rows per file. Same company, same bytes."""
        return export.write_csv(self, folder)

    # ── what the verbs are made of ────────────────────────────────────────────────────────────────

    def number(self, kind: str) -> int:
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return self._numbers[kind]

    def representative(self, country: str) -> int:
        """Somebody who sells there and still works here."""
        team = words.COUNTRIES[country][1]
        return self.draw.choice([one.n for one in self.owners.values() if one.team == team and one.manager and one.active])

    def firm(self, segment: str) -> str:
        draw = self.draw
        start, end = draw.choice(words.FIRM_STARTS), draw.choice(words.FIRM_ENDS)
        return self._unique(f"{start}{end} {draw.choice(words.SEGMENTS[segment])}")

    def open_account(self, name: str, country: str, owner: int, segment: str | None = None) -> Account:
        """A new account with one or two contacts."""
        draw = self.draw
        account = Account(
            self.number("account"), name, segment or draw.choice(list(words.SEGMENTS)), country, owner, self.now, self.now
        )  # fmt: skip
        self.accounts[account.n] = account
        for _ in range(draw.randint(1, 2)):
            contact = Contact(
                self.number("contact"), draw.choice(words.FIRST_NAMES), draw.choice(words.LAST_NAMES), account.n, self.now, self.now
            )
            self.contacts[contact.n] = contact
            self._people.setdefault(account.n, []).append(contact.n)
        self.version += 1
        return account

    def touch(self, record: Deal | Account | Lead | Activity | Line | Role) -> None:
        record.modified_at = self.now
        self.version += 1

    def _parts(self, deal: Deal) -> list[Line | Role | Activity]:
        return [*deal.lines, *deal.roles, *(self.activities[n] for n in deal.activities)]

    def _unique(self, name: str) -> str:
        self._names[name] = self._names.get(name, 0) + 1
        return name if self._names[name] == 1 else f"{name} #{self._names[name]}"

    def _record(self, deal: Deal) -> None:
        """Write the history row that follows a change of stage, amount or close date."""
        self.touch(deal)
        deal.history.append(
            Change(self.number("change"), self.now, deal.pipeline, deal.stage, deal.amount, deal.close_date, deal.owner)
        )  # fmt: skip

    def _add_line(self, deal: Deal, product: Product, quantity: int) -> None:
        discount = self.draw.choice((0, 0, 5, 7.5, 10, 12.5))
        units = {rate.currency: rate.units for rate in self.rates}.get(deal.currency, Decimal(1))
        amount = (product.price * quantity * units * Decimal(str(100 - discount)) / 100).quantize(CENT)
        deal.lines.append(Line(self.number("line"), deal.n, product.n, quantity, amount, self.now, self.now))

    def _reprice(self, deal: Deal, amount: Decimal) -> None:
        """The last line takes the difference, so that lines add up to the deal."""
        deal.amount = amount
        lines = [line for line in deal.lines if line.deleted_at is None]
        if lines:
            lines[-1].amount += amount - sum((line.amount for line in lines), Decimal(0))
            self.touch(lines[-1])

    def _hire(self) -> None:
        draw = self.draw
        names = [(first, draw.choice(words.LAST_NAMES)) for first in draw.sample(words.FIRST_NAMES, 25)]
        head = self._owner(*names.pop(), "Management", "Global", None)
        for team, region in words.TEAMS.items():
            lead = self._owner(*names.pop(), team, region, head.n)
            for _ in range(5):
                self._owner(*names.pop(), team, region, lead.n)

    def _owner(self, first: str, last: str, team: str, region: str, manager: int | None) -> Owner:
        skill = round(self.draw.uniform(0.75, 1.3), 3)
        owner = Owner(self.number("owner"), first, last, team, region, manager, skill, True, self.start, self.start)
        self.owners[owner.n] = owner
        return owner

    def _list_products(self) -> None:
        for category, items in words.PRODUCTS.items():
            for name, price in items:
                n = self.number("product")
                self.products[n] = Product(n, name, category, Decimal(price), self.start, self.start)
