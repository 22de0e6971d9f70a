"""A full read that broke off goes on where it was, with what changed since."""

import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from connector.api import Page
from connector.errors import TransientError
from connector.resume import PlaceLostError, Step, Unfinished, read_everything

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Service:
    """Ten pages of three records; breaks where told, and knows what changed."""

    def __init__(self):
        self.records = {number: {"id": str(number), "value": Decimal(number) / 4} for number in range(30)}
        self.breaks_at = None
        self.forgets = False
        self.asked = []
        self.changes = []

    def steps(self, place):
        if place is not None and self.forgets:
            raise PlaceLostError("gone")
        for page in range(place or 0, 10):
            if page == self.breaks_at:
                raise TransientError("broken")
            self.asked.append(page)
            rows = [self.records[number] for number in range(page * 3, page * 3 + 3) if number in self.records]
            yield Step(rows, page + 1 if page < 9 else None, total=30)

    def changed(self, started):
        self.asked.append(f"changes since {started}")
        return self.changes


def read(service, folder, started="T1", now=NOW, identity="same"):
    unfinished = Unfinished(folder, "deals", identity, now)
    pages = read_everything(unfinished, started, steps=service.steps, changes=service.changed, key=lambda record: record["id"])
    found = {}
    for page in pages:
        found.update({record["id"]: record["value"] for record in page.records})
    return found


@pytest.fixture
def broken(tmp_path):
    """A service whose read broke at the sixth page."""
    service = Service()
    service.breaks_at = 5
    with pytest.raises(TransientError):
        read(service, tmp_path, started="T0")
    service.breaks_at = None
    service.asked.clear()
    return service


def test_an_undisturbed_read_leaves_nothing_behind(tmp_path):
    service = Service()
    assert len(read(service, tmp_path)) == 30
    assert list((tmp_path / "unfinished").glob("*")) == []


def test_without_a_folder_nothing_is_kept():
    assert len(read(Service(), None)) == 30


def test_goes_on_at_its_place(broken, tmp_path):
    assert read(broken, tmp_path) == {record["id"]: record["value"] for record in broken.records.values()}
    assert broken.asked == ["changes since T0", 5, 6, 7, 8, 9]


def test_may_break_again_and_again(broken, tmp_path):
    for page in (6, 8, 8):
        broken.breaks_at = page
        with pytest.raises(TransientError):
            read(broken, tmp_path, started="T1")
    broken.breaks_at = None
    broken.asked.clear()
    assert len(read(broken, tmp_path)) == 30
    assert broken.asked == ["changes since T0", 8, 9], "changes are those since the very first page"


def test_what_changed_since_wins_over_what_was_kept(broken, tmp_path):
    broken.changes = [Page([{"id": "4", "value": "new"}]), Page(removed=("7",))]
    found = read(broken, tmp_path)
    assert found["4"] == "new"
    assert "7" not in found
    assert len(found) == 29


def test_a_lost_place_starts_over(broken, tmp_path):
    broken.forgets = True
    assert len(read(broken, tmp_path)) == 30
    assert broken.asked[1:] == list(range(10))


def test_starts_over_when_nobody_knows_what_changed_since(broken, tmp_path):
    def unknown(started):
        raise PlaceLostError("deletes are no longer known")

    broken.records[2]["value"] = Decimal(99)
    broken.changed = unknown
    assert read(broken, tmp_path)["2"] == Decimal(99), "a kept page would hold the old value"
    assert broken.asked == list(range(10))


@pytest.mark.parametrize("page", [1, 3, 5], ids=["first", "middle", "last"])
@pytest.mark.parametrize("damage", [lambda text: b"", lambda text: text[:-9], lambda text: b"x" + text], ids=["empty", "cut", "garbled"])
def test_a_damaged_page_starts_over(broken, tmp_path, page, damage):
    (folder,) = (tmp_path / "unfinished").iterdir()
    file = folder / f"{page:06}.json.gz"
    file.write_bytes(damage(file.read_bytes()))
    assert len(read(broken, tmp_path)) == 30
    assert [asked for asked in broken.asked if asked != "changes since T0"] == list(range(10))


def test_pages_of_another_read_are_not_taken(broken, tmp_path):
    assert len(read(broken, tmp_path, identity="other")) == 30
    assert broken.asked == list(range(10))


def test_pages_older_than_a_day_are_forgotten(broken, tmp_path):
    old = (NOW - timedelta(hours=30)).timestamp()
    for file in tmp_path.rglob("*.gz"):
        os.utime(file, (old, old))
    assert len(read(broken, tmp_path)) == 30
    assert broken.asked == list(range(10))


def test_values_survive_as_they_are(broken, tmp_path):
    assert isinstance(read(broken, tmp_path)["1"], Decimal)


def test_a_half_written_page_does_not_count(broken, tmp_path):
    (folder,) = (tmp_path / "unfinished").iterdir()
    (folder / "000099.json.partial").write_bytes(b"half")
    assert len(read(broken, tmp_path)) == 30
