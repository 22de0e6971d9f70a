"""What a run takes over from a source that tells less than before, or more."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connector.api import Entity, Page
from connector.engine import DuckDB
from connector.http import Session
from connector.intake import Intake, Named, unreadable


class Told:
    """A source that gives what it is told to."""

    def __init__(self, entity, *pages):
        self.entity, self.pages, self.asked = entity, pages, []

    def read(self, entity, since):
        self.asked.append(since.watermark)
        yield from self.pages


@pytest.fixture
def take(tmp_path):
    """Takes one entity, run after run: the entity and its rows afterwards, None without a file."""
    marks, folders = {}, []
    moments = (datetime(2026, 3, 1, tzinfo=UTC) + timedelta(hours=number) for number in range(99))

    def run(entity, *pages, fields=None):
        folder = tmp_path / f"run-{len(folders)}"
        source = Told(entity, *pages)
        intake = Intake(
            engine=DuckDB(folders=[tmp_path]),
            folder=folder,
            name=folder.name,
            previous=dict(marks),
            previous_folder=folders[-1] if folders else None,
            zone=ZoneInfo("UTC"),
            fields=fields or {},
            full=False,
            full_refresh=timedelta(days=7),
            progress=lambda *_: None,
            now=lambda: next(moments),
        )
        taken = intake.take(Named("crm", source, Session(), "same"), entity)
        marks["crm", entity.name] = taken.mark
        folders.append(folder)
        file = Path(folder, "sources", "crm", f"{entity.name}.parquet")
        return taken, source, pq.read_table(file) if file.is_file() else None

    return run


VIEW = Entity("stage_detail", "Tableau Sales/Stage")
NOTHING = Page(pa.RecordBatch.from_pylist([], pa.schema([])), total=0)


def test_a_table_that_comes_without_rows_and_columns_keeps_its_columns(take):
    take(VIEW, Page([{"Stage": "Won", "Deals": 3}]))
    taken, _, rows = take(VIEW, NOTHING)
    assert (rows.column_names, rows.num_rows, taken.seen) == (["Stage", "Deals"], 0, True)
    assert taken.report["deleted"] == 1
    _, _, rows = take(VIEW, Page([{"Stage": "Won", "Deals": 4}]))
    assert rows.to_pylist() == [{"Stage": "Won", "Deals": 4}]


def test_a_table_whose_columns_nobody_has_seen_is_said_to_be_empty(take):
    taken, _, rows = take(VIEW, NOTHING)
    assert (rows, taken.seen) == (None, False)
    assert taken.warnings == (
        "crm.stage_detail: Tableau Sales/Stage: empty, and its columns have never been seen: what there is of it at the targets stays",
    )
    assert take(VIEW, Page([{"Stage": "Won"}]))[2].num_rows == 1


def test_dates_of_columns_that_an_empty_read_does_not_show_are_no_fault(take):
    assert take(replace(VIEW, dates={"Day": "iso"}), NOTHING)[0].seen is False


def deals(*reads):
    return Entity("deals", "Opportunity", {"deal_id": "Id", "amount": "Amount"}, incremental=True, reads=reads)


def test_a_field_that_becomes_readable_is_read_of_all_records(take):
    """Those that did not change would lack it."""
    records = [{"Id": "1", "Amount": 5}]
    take(deals("Id"), Page(records, watermark="w1"))
    assert take(deals("Id"), Page(records, watermark="w2"))[1].asked == ["w1"]
    assert take(deals("Amount", "Id"), Page(records, watermark="w3"))[1].asked == [None]


def test_a_mapped_field_that_cannot_be_read_is_named_in_every_run(take):
    for page in (Page([{"Id": "1", "Amount": 5}], watermark="w1"), Page(watermark="w2")):
        taken, _, _ = take(deals("Amount", "Id"), page, fields={"lost_reason": "Loss_Reason__c"})
        assert (
            "crm.deals: model.fields: deals.lost_reason: Opportunity has no 'Loss_Reason__c' that can be read; it stays empty"
            in taken.warnings
        )


@pytest.mark.parametrize("written", ["AMOUNT", "Amount * 2", "coalesce(Amount, 0)"])
def test_expressions_and_other_capitals_are_no_unreadable_fields(written):
    assert unreadable("crm", deals("Amount", "Id"), {"amount": written}) == []
