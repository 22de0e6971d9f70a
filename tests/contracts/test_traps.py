"""Every trap the contracts number has a test named after it, for each source it may catch."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
#: contract, where its list begins and ends, and for whom: the module and class of the tests
LISTS = {
    "salesforce": ("crm-apis.md", "### 1.11 Traps", "### 1.12", ["sources/test_salesforce.py:TestTrap"]),
    "hubspot": ("crm-apis.md", "### 2.10 Traps", "### 2.11", ["sources/test_hubspot.py:TestTrap"]),
    "rules for salesforce": ("crm-apis.md", "## 0. Cross-CRM", "### 0.1", ["sources/test_salesforce.py:TestRule"]),
    "rules for hubspot": ("crm-apis.md", "## 0. Cross-CRM", "### 0.1", ["sources/test_hubspot.py:TestRule"]),
    "tableau": ("tableau.md", "## 2. Traps", "Recommended", ["sources/test_tableau_traps.py:", "sinks/test_tableau_sink.py:"]),
}


def numbered(text):
    """1, 2, 3 … as far as a list counts without a gap: other numbers with a point behind them are part of its sentences."""
    count = 0
    for number in re.findall(r"(?<!\S)(\d+)\. ", text):
        count += int(number) == count + 1
    return range(1, count + 1)


def named(places):
    """The numbers in the names of tests: test_04_…, test_11_12_…, test_trap_4_…."""
    found = set()
    for place in places:
        module, _, group = place.partition(":")
        body = ast.parse((TESTS / module).read_text(encoding="utf-8")).body
        if group:
            body = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == group).body
        for node in body:
            if isinstance(node, ast.FunctionDef) and (match := re.match(r"test_(?:trap_)?((?:\d+_)+)", node.name)):
                found.update(map(int, match[1].strip("_").split("_")))
    return found


@pytest.mark.parametrize("which", LISTS)
def test_every_trap_has_a_test_named_after_it(shared, which):
    file, start, end, places = LISTS[which]
    text = (shared / "contracts" / file).read_text(encoding="utf-8")
    traps = numbered(text[text.index(start) :].split(end)[0].split("\n", 1)[1])
    assert len(traps) >= 14
    assert set(traps) - named(places) == set()
