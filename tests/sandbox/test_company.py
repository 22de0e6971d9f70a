"""The generated company: deterministic, consistent in itself, and alive."""

import csv
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from connector.sandbox.company import Company


@pytest.fixture(scope="module")
def company() -> Company:
    return Company.generate()


def fresh() -> Company:
    return Company.generate(seed=3, deals=200, days=300)


def test_has_the_size_of_a_real_team(company):
    assert len(company.owners) == 25
    assert 1_300 <= len(company.deals) <= 1_700
    assert sum(len(list(deal.entries())) for deal in company.deals.values()) >= 4_000
    assert 1_000 <= len(company.leads) <= 1_400
    assert len(company.activities) >= 3_000
    assert {deal.currency for deal in company.deals.values()} == {"EUR", "USD", "GBP"}
    assert {deal.pipeline for deal in company.deals.values()} == {"new", "renewal"}


def test_has_every_kind_of_deal(company):
    kinds = Counter(company.status(deal) for deal in company.deals.values())
    assert min(kinds["open"], kinds["won"], kinds["lost"]) > 50
    assert any(deal.deleted_at for deal in company.deals.values())
    assert any(deal.merged_into for deal in company.deals.values())
    assert any(deal.amount is None for deal in company.deals.values())
    assert any(account.merged_into for account in company.accounts.values())
    moved_back = [
        deal
        for deal in company.deals.values()
        for before, after in pairwise(deal.history)
        if before.pipeline == after.pipeline
        and company.stage(after.pipeline, after.stage).order < company.stage(before.pipeline, before.stage).order
    ]
    assert moved_back
    assert {owner.active for owner in company.owners.values()} == {True, False}


def test_has_activities_done_overdue_and_planned(company):
    open_ones = [one for one in company.activities.values() if one.done_at is None and one.deleted_at is None]
    assert any(one.due_at < company.now for one in open_ones)
    assert any(one.due_at > company.now for one in open_ones)
    assert any(one.done_at for one in company.activities.values())


def test_the_past_is_past_and_in_order(company):
    for deal in company.deals.values():
        stamps = [change.at for change in deal.history]
        assert stamps == sorted(stamps)
        assert stamps[0] == deal.created_at
        assert stamps[-1] <= deal.modified_at <= company.now
        assert (deal.history[-1].stage, deal.history[-1].amount) == (deal.stage, deal.amount)
        assert deal.modified_at.microsecond == 0
        if deal.closed_at:
            assert deal.closed_at >= deal.created_at


def test_lines_add_up_to_the_deal(company):
    for deal in company.deals.values():
        if deal.lines and not deal.deleted_at:
            assert sum(line.amount for line in deal.lines) == deal.amount


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        fresh().write_csv(tmp_path / folder)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    other = Company.generate(seed=4, deals=200, days=300)
    assert [deal.name for deal in other.deals.values()] != [deal.name for deal in fresh().deals.values()]


def test_the_export_leaves_out_what_was_deleted(tmp_path):
    company = fresh()
    gone = next(deal for deal in company.deals.values() if not deal.deleted_at)
    company.delete(gone)
    counts = company.write_csv(tmp_path)
    with (tmp_path / "deals.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert counts["deals.csv"] == len(rows) == sum(deal.deleted_at is None for deal in company.deals.values())
    assert gone.name not in {row["name"] for row in rows}
    assert len({row["name"] for row in rows}) == len(rows)


def test_time_moves_deals_and_leaves_stamps():
    company = fresh()
    before = company.now
    state = {n: (deal.stage, deal.owner, deal.amount, deal.close_date, deal.deleted_at) for n, deal in company.deals.items()}
    company.advance(21, seed=1)
    assert company.now == before + timedelta(days=21)
    assert len(company.deals) > len(state)
    for n, old in state.items():
        deal = company.deals[n]
        if old != (deal.stage, deal.owner, deal.amount, deal.close_date, deal.deleted_at):
            assert deal.modified_at >= before
    assert any(company.deals[n].stage != old[0] for n, old in state.items())


def test_another_seed_gives_another_future():
    one, two = fresh(), fresh()
    one.advance(14, seed=1)
    two.advance(14, seed=2)
    assert [deal.stage for deal in one.deals.values()] != [deal.stage for deal in two.deals.values()]


class TestEvents:
    def test_repricing_keeps_lines_and_history_in_step(self):
        company = fresh()
        deal = next(deal for deal in company.deals.values() if deal.lines and not deal.deleted_at)
        rows = len(deal.history)
        company.tick()
        company.edit(deal, amount=Decimal("1234.56"))
        assert sum(line.amount for line in deal.lines) == deal.amount == deal.history[-1].amount
        assert len(deal.history) == rows + 1
        assert deal.modified_at == company.now

    def test_a_change_of_amount_is_no_stage_entry(self):
        company = fresh()
        deal = next(iter(company.deals.values()))
        entries = len(list(deal.entries()))
        company.edit(deal, amount=Decimal(10))
        assert len(list(deal.entries())) == entries

    def test_deleting_takes_parts_along_and_restoring_brings_them_back(self):
        company = fresh()
        deal = next(deal for deal in company.deals.values() if deal.lines and deal.activities and not deal.deleted_at)
        company.tick()
        company.delete(deal)
        assert all(line.deleted_at == company.now for line in deal.lines)
        company.tick()
        company.restore(deal)
        assert deal.deleted_at is None
        assert all(line.deleted_at is None and line.modified_at == company.now for line in deal.lines)

    def test_a_merged_account_hands_over_its_deals(self):
        company = fresh()
        loser, winner = (one for one, _ in zip((a for a in company.accounts.values() if not a.deleted_at), range(2), strict=False))
        deals = [deal for deal in company.deals.values() if deal.account == loser.n and not deal.deleted_at]
        company.tick()
        company.merge_accounts(winner, loser)
        assert all(deal.account == winner.n and deal.modified_at == company.now for deal in deals)
        assert loser.merged_into == winner.n

    def test_renaming_and_rates_leave_deals_alone(self):
        company = fresh()
        stamps = [deal.modified_at for deal in company.deals.values()]
        company.tick()
        company.rename_stage("new", "proposal", "Offer")
        company.edit_rate(company.rates[-1], Decimal("1.2"))
        assert [deal.modified_at for deal in company.deals.values()] == stamps
        assert company.stage("new", "proposal").label == "Offer"

    def test_a_reopened_deal_is_open_again(self):
        company = fresh()
        deal = next(deal for deal in company.deals.values() if company.status(deal) == "lost" and not deal.deleted_at)
        company.move(deal, company.pipeline(deal.pipeline).open_stages()[-1].key)
        assert company.status(deal) == "open"
        assert deal.closed_at is None
        assert deal.lost_reason is None


def test_rates_are_the_inverse_of_units(company):
    rate = next(one for one in company.rates if one.currency == "USD")
    assert abs(rate.rate * rate.units - 1) < Decimal("1e-7")
    assert company.rate("EUR", company.now.date()) == 1
