"""How days pass in the generated company: what reps, leads and customers do, and the accidents of a CRM."""

from __future__ import annotations

import heapq
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from connector.sandbox import words
from connector.sandbox.records import Deal, Lead, Quota, Rate, Spend

if TYPE_CHECKING:
    from connector.sandbox.company import Company

#: when, what (deal, lead, renewal, new deal, new lead), whose number
Event = tuple[datetime, str, int]

#: of new deals that do not come from leads or renewals
DIRECT: Final = 0.56
FIRST_RATES: Final = {"USD": Decimal("1.0850"), "GBP": Decimal("0.8550")}
#: incidents per new deal
INCIDENTS: Final = {"reassign": 0.08, "delete": 0.018, "merge deals": 0.008, "merge accounts": 0.006, "reopen": 0.012}


def pass_day(company: Company) -> None:
    """Everything up to the same hour of the next day, in order of time."""
    until = company.now + timedelta(days=1)
    _new_month(company, until)
    _schedule_arrivals(company, until)
    while company.agenda and company.agenda[0][0] <= until:
        at, kind, n = heapq.heappop(company.agenda)
        company.now = max(company.now, at)
        if kind == "deal":
            _work_deal(company, company.deals[n])
        elif kind == "lead":
            _work_lead(company, company.leads[n])
        elif kind == "renewal":
            _renew(company, company.deals[n])
        elif kind == "new lead":
            lead = company.create_lead()
            _later(company, "lead", lead.n, company.draw.uniform(2, 24))
        elif kind == "new deal":
            _open_direct_deal(company)
        else:
            _incident(company, kind)
    company.now = until


def _schedule_arrivals(company: Company, until: datetime) -> None:
    """Weekdays only, growing over the years, with a summer and a year-end dip."""
    if until.weekday() >= 5:
        return
    years = (company.now - company.start).days / 365.25
    busy = 1.4 * (0.8 + 0.18 * min(years, 4)) * (0.7 if company.now.month in (8, 12) else 1.05)
    rates = {"new deal": DIRECT * company.deals_per_day, "new lead": company.leads_per_day}
    rates |= {kind: share * company.deals_per_day for kind, share in INCIDENTS.items()}
    for kind, rate in rates.items():
        expected = rate * busy
        number = int(expected) + (company.draw.random() < expected % 1)
        for _ in range(number):
            at = datetime.combine(until.date(), time(8), until.tzinfo) + timedelta(seconds=company.draw.randrange(36_000))
            heapq.heappush(company.agenda, (at, kind, 0))


def _later(company: Company, kind: str, n: int, days: float) -> datetime:
    """Put something on the agenda, in working hours."""
    at = company.now + timedelta(days=days)
    at = datetime.combine(at.date(), time(8), at.tzinfo) + timedelta(seconds=company.draw.randrange(36_000))
    at = max(at + timedelta(days=(0, 0, 0, 0, 0, 2, 1)[at.weekday()]), company.now + timedelta(minutes=5))
    heapq.heappush(company.agenda, (at, kind, n))
    return at


# ── deals ─────────────────────────────────────────────────────────────────────────────────────────


def _open_direct_deal(company: Company) -> None:
    draw = company.draw
    if company.accounts and draw.random() < 0.35:
        account = company.accounts[draw.randrange(1, len(company.accounts) + 1)]
        if account.deleted_at:
            return
    else:
        country = draw.choice(list(words.COUNTRIES))
        segment = draw.choice(list(words.SEGMENTS))
        account = company.open_account(company.firm(segment), country, company.representative(country), segment)
    source = draw.choices(list(words.SOURCES), [share for share, _ in words.SOURCES.values()])[0]
    owner = company.owners[account.owner]
    seller = owner.n if owner.active else company.representative(account.country)
    product = draw.choice(list(company.products))
    deal = company.create_deal(None if draw.random() < 0.01 else account, seller, product, source)
    _next_step(company, deal)


def _renew(company: Company, won: Deal) -> None:
    account = company.accounts[won.account] if won.account else None
    if won.deleted_at or account is None or account.deleted_at:
        return
    owner = won.owner if company.owners[won.owner].active else company.representative(account.country)
    deal = company.create_deal(account, owner, won.product, won.lead_source, pipeline="renewal")
    _next_step(company, deal)


def _next_step(company: Company, deal: Deal) -> None:
    """When the rep will come back to the deal, and the activity planned until then."""
    draw = company.draw
    days = draw.lognormvariate(2.25, 0.7) * (5 if draw.random() < 0.03 else 1)
    at = _later(company, "deal", deal.n, days)
    if draw.random() < 0.55:
        company.plan(deal, None, company.now + (at - company.now) * draw.uniform(0.3, 0.95))


def _work_deal(company: Company, deal: Deal) -> None:
    draw = company.draw
    stage = company.stage(deal.pipeline, deal.stage)
    if deal.deleted_at or stage.closed:
        return
    for n in deal.activities:
        activity = company.activities[n]
        if activity.done_at is None and activity.deleted_at is None and draw.random() < 0.85:
            company.finish(activity)
    stages = company.pipeline(deal.pipeline).stages
    place = stages.index(stage)
    chance = company.owners[deal.owner].skill * words.SOURCES[deal.lead_source][1] * (1.6 if deal.pipeline == "renewal" else 1)
    drawn = draw.random()
    if drawn < 0.15 / chance:
        company.move(deal, "lost")
        return
    if drawn > 0.95 and place > 0:
        company.move(deal, stages[place - 1].key)
    elif drawn > 0.85:
        factor = Decimal(str(round(draw.uniform(0.8, 1.3), 2)))
        company.edit(deal, amount=((deal.amount or Decimal(5_000)) * factor).quantize(Decimal("0.01")))
    elif drawn > 0.72:
        company.edit(deal, close_date=max(deal.close_date, company.now.date()) + timedelta(days=draw.randint(7, 45)))
    elif stages[place + 1].won:
        company.move(deal, "won")
        _later(company, "renewal", deal.n, 300 + draw.uniform(0, 60))
        return
    else:
        if draw.random() < 0.5:
            deal.next_step = draw.choice(words.NEXT_STEPS)
        company.move(deal, stages[place + 1].key)
    _next_step(company, deal)


def _incident(company: Company, kind: str) -> None:
    """What goes wrong or sideways: reassigned, deleted and merged records, deals that come back."""
    draw = company.draw
    deal = _some_deal(company, won_or_lost=kind == "reopen")
    if deal is None:
        return
    if kind == "reassign":
        account = company.accounts[deal.account] if deal.account else None
        company.give(deal, company.representative(account.country if account else "Germany"))
    elif kind == "delete":
        company.delete(deal)
    elif kind == "reopen" and company.status(deal) == "lost":
        company.move(deal, company.pipeline(deal.pipeline).open_stages()[-1].key)
        _next_step(company, deal)
    elif kind == "merge deals":
        other = _some_deal(company)
        if other and other is not deal:
            company.merge_deals(deal, other)
    elif kind == "merge accounts" and deal.account:
        other_account = company.accounts[draw.randrange(1, len(company.accounts) + 1)]
        if other_account.n != deal.account and other_account.deleted_at is None:
            company.merge_accounts(company.accounts[deal.account], other_account)


def _some_deal(company: Company, *, won_or_lost: bool = False) -> Deal | None:
    """A living deal among the recent ones, open unless said otherwise."""
    if not company.deals:
        return None
    newest = len(company.deals)
    for _ in range(20):
        deal = company.deals[company.draw.randint(max(1, newest - 400), newest)]
        if deal.deleted_at is None and (company.status(deal) != "open") == won_or_lost:
            return deal
    return None


# ── leads ─────────────────────────────────────────────────────────────────────────────────────────


def _work_lead(company: Company, lead: Lead) -> None:
    draw = company.draw
    for n in lead.activities:
        if company.activities[n].done_at is None:
            company.finish(company.activities[n])
    drawn = draw.random()
    if lead.deleted_at or lead.status in ("converted", "unqualified"):
        return
    if lead.status == "new":
        lead.status = "working"
        company.touch(lead)
        if draw.random() < 0.5:
            company.plan(None, lead, company.now + timedelta(days=draw.uniform(1, 9)))
        _later(company, "lead", lead.n, draw.uniform(3, 30))
    elif drawn < 0.12 + 0.003 * lead.score:
        _next_step(company, company.convert(lead))
    elif drawn < 0.75:
        lead.status = "unqualified"
        company.touch(lead)
    else:
        _later(company, "lead", lead.n, draw.uniform(5, 40))


# ── months ────────────────────────────────────────────────────────────────────────────────────────


def _new_month(company: Company, until: datetime) -> None:
    """On the first of a month: rates, quotas, last month's bills; a rep may leave at midsummer."""
    if not company.rates:
        for currency, units in FIRST_RATES.items():
            company.rates.append(Rate(company.number("rate"), currency, date(2000, 1, 1), units, company.now))
    month = until.date().replace(day=1)
    if company.quotas and company.quotas[-1].month >= month:
        return
    draw, now = company.draw, company.now
    for currency in FIRST_RATES:
        before = [rate.units for rate in company.rates if rate.currency == currency][-1]
        units = (before * Decimal(str(round(1 + draw.uniform(-0.015, 0.015), 4)))).quantize(Decimal("0.0001"))
        company.rates.append(Rate(company.number("rate"), currency, month, units, now))
    years = (now - company.start).days / 365.25
    sellers = [owner for owner in company.owners.values() if owner.manager and owner.active and owner.team != "Management"]
    for owner in sellers:
        amount = Decimal(round(company.deals_per_day * 14_000 * (1 + 0.1 * years) * owner.skill, -2))
        company.quotas.append(Quota(company.number("quota"), month, owner.n, amount, now))
    for category, base in words.SPEND.items():
        amount = Decimal(str(round(base * company.deals_per_day / 1.8 * draw.uniform(0.7, 1.3), 2)))
        company.spend.append(Spend(company.number("spend"), month, category, amount, now))
    if month.month == 6 and len(sellers) > 18:
        _leave(company, draw.choice([owner.n for owner in sellers if company.owners[owner.manager or 1].manager]))
    company.version += 1


def _leave(company: Company, n: int) -> None:
    """A rep leaves; the open deals go to the manager, the closed ones keep the name."""
    owner = company.owners[n]
    owner.active = False
    owner.modified_at = company.now
    for deal in company.deals.values():
        if deal.owner == n and deal.deleted_at is None and company.status(deal) == "open":
            company.give(deal, owner.manager or 1)
