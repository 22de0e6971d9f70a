"""The standard workbook: what a sales lead finds in it, and what stays when it is refreshed."""

from __future__ import annotations

import datetime as dt
import re
import shutil
import subprocess
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import openpyxl
import pyarrow as pa
import pytest
from openpyxl.utils import range_boundaries

from connector.api import Output, Run
from connector.errors import ConfigError
from sinks.excel import standard as standard_module
from sinks.excel.refresh import Options, create, refresh
from sinks.excel.standard import standard, words

NOON = dt.datetime(2026, 3, 10, 12, tzinfo=dt.UTC)
LABELS = {
    "zh": {"kpis": "关键指标", "deals": "商机", "revenue": "收入", "win_rate": "赢单率", "definitions": "定义"},
    "en": {"kpis": "Headline figures", "deals": "Deals", "revenue": "Revenue", "win_rate": "Win rate", "definitions": "Definitions"},
}
MONEY = ("revenue", "value", "weighted_value", "quota", "amount_reporting", "average_deal_size")
UNITS = {
    **dict.fromkeys(MONEY, "money"),
    "win_rate": "percent",
    "revenue_growth": "percent",
    "days_over": "days",
    "url": "url",
    "days_overdue": "days",
}


def table_of(name, rows, key=(), locale="en", types=None):
    """An Output as the flow hands it over: labels in its language, units and currency."""
    types = types or {}
    columns = {column: pa.array([row[column] for row in rows], types.get(column)) for column in rows[0]}
    fields = []
    for column, values in columns.items():
        meta = {"label": LABELS[locale].get(column, column.replace("_", " ").capitalize()), "unit": UNITS.get(column, "")}
        if meta["unit"] == "money":
            meta["currency"] = "EUR"
        if name == "kpis" and column in ("value", "previous", "change"):
            meta |= {"unit_by": "unit", "currency": "EUR"}
        fields.append(pa.field(column, values.type, metadata=meta))
    table = pa.table(list(columns.values()), schema=pa.schema(fields))
    return Output(
        name, table.schema, table.num_rows, table.to_reader, key=key, title=LABELS[locale].get(name, name.replace("_", " ").capitalize())
    )


def kpi(metric, unit, value, previous, period="trailing_90_days", label=None):
    change = None if value is None or previous is None else value - previous
    end = dt.date(2026, 3, 10)
    return {
        "metric": metric,
        "label": label or metric.replace("_", " ").capitalize(),
        "period": period,
        "period_start": end - dt.timedelta(days=89),
        "period_end": end,
        "value": value,
        "previous": previous,
        "change": change,
        "change_pct": None if change is None or not previous else change / previous,
        "unit": unit,
    }


KPI_TYPES = {
    **dict.fromkeys(("value", "previous", "change", "change_pct"), pa.float64()),
    "period_start": pa.date32(),
    "period_end": pa.date32(),
}


def kpis(revenue=120_000.0, locale="en"):
    said = LABELS[locale]
    return [
        kpi("revenue", "money", revenue, 100_000.0, label=said["revenue"]),
        kpi("win_rate", "percent", 0.42, 0.4, label=said["win_rate"]),
        kpi("sales_cycle_days", "days", 66.0, 60.0),
        kpi("average_deal_size", "money", 12_000.0, 12_500.0),
        kpi("lead_conversion_rate", "percent", None, None),
        kpi("open_value", "money", 900_000.0, 450_000.0),
        kpi("open_deals", "count", 30.0, 28.0),
        kpi("coverage", "ratio", 1.9, None, period="this_quarter"),
    ]


def company(locale="en", *, later=False, kpi_rows=None, without=()):
    """A small team's tables; `later` after another month, with pipeline movement and no stalled deals left."""
    months = [dt.date(2025, 12, 1), dt.date(2026, 1, 1), dt.date(2026, 2, 1), *([dt.date(2026, 3, 1)] if later else [])]
    stages = [("Discovery", 500_000.0, 20), ("Proposal", 300_000.0, 8), ("Negotiation", 100_000.0, 2)]
    rows = {
        "kpis": kpi_rows or kpis(150_000.0 if later else 120_000.0, locale),
        "deals": [
            {"deal_id": f"D{at}", "name": f"=Deal {at}", "is_open": at % 2, "expected_close_date": dt.date(2026, 1 + at % 6, 5),
             "amount_reporting": Decimal(at * 1000), "url": None if at % 3 else f"https://crm.example/deals/D{at}?a=1&b=2"}
            for at in range(1, 41 if later else 31)
        ],
        "by_owner": [
            {"owner": f"Rep {at:02}", "won": at, "lost": 20 - at, "revenue": at * 1000.0, "win_rate": at / 20} for at in range(1, 13)
        ],
        "by_month": [
            {"month": f"{day:%Y-%m}", "period_start": day, "revenue": 1000.0 * day.month, "revenue_growth": 0.1} for day in months
        ],
        "pipeline_balance": [
            {"pipeline": None, "stage": stage, "value": value, "deals": deals, "verdict": verdict}
            for (stage, value, deals), verdict in zip(stages, ("crowded", "healthy", "thin"), strict=True)
        ],
        "forecast": [
            {"month": "2026-03", "forecast_category": "closed", "value": 50_000.0, "weighted_value": 50_000.0, "quota": 90_000.0},
            {"month": "2026-03", "forecast_category": "Commit", "value": 60_000.0, "weighted_value": 30_000.0, "quota": None},
            {"month": "2026-04", "forecast_category": "closed", "value": 0.0, "weighted_value": 0.0, "quota": 95_000.0},
            {"month": "2031-01", "forecast_category": "Commit", "value": 1.0, "weighted_value": 1.0, "quota": None},
        ],
        "stalled_deals": [
            {"deal_id": "D1", "pipeline": None, "stage": "Discovery", "amount_reporting": Decimal(40_000), "days_over": 12.5},
            {"deal_id": "D3", "pipeline": None, "stage": "Proposal", "amount_reporting": Decimal(9_000), "days_over": 3.0},
        ],
        "follow_ups": [{"reason": "overdue_activity", "deal_id": "D1", "due_date": dt.date(2026, 1, 9), "days_overdue": 60}],
        "data_quality": [{"finding": "won_without_amount", "severity": "warning", "table": "deals", "rows": 3}],
        "definitions": [{"name": "win_rate", "label": "Win rate", "definition": "Share of closed deals that were won. " * 6, "formula": "won ÷ closed"}],
    }  # fmt: skip
    keys = {"kpis": ("metric", "period"), "deals": ("deal_id",), "by_owner": ("owner",), "by_month": ("month",), "definitions": ("name",)}
    types = {"pipeline": pa.string(), "quota": pa.float64(), "url": pa.string(), "amount_reporting": pa.decimal128(18, 4)}
    if later:
        moved = dict.fromkeys(("reopened", "decreased", "pulled_in", "pushed_out", "removed", "currency_effect"), 0.0)
        rows["pipeline_movement"] = [
            {"period_start": dt.date(2026, 3, 10), "period_end": dt.date(2026, 4, 9), "stage": "Discovery", "opening": 900_000.0, "new": 200_000.0,
             "increased": 10_000.0, "won": -150_000.0, "lost": -60_000.0, **moved, "closing": 900_000.0}
        ]  # fmt: skip
    tables = {
        name: table_of(name, given, keys.get(name, ()), locale, KPI_TYPES if name == "kpis" else types)
        for name, given in rows.items()
        if name not in without
    }
    if later:
        tables["stalled_deals"] = emptied(tables["stalled_deals"])
    return tables


def emptied(table):
    nothing = table.schema.empty_table()
    return replace(table, rows=0, open=nothing.to_reader)


def the_run(at=NOON, run_id="r1", locale="en"):
    facts = {"sources": [{"source": "crm", "entity": "deals"}]}
    return Run("sales", run_id, at, locale=locale, currency="EUR", facts=facts)


def build(path, tables=None, run=None, before=None, locale=None):
    run = run or the_run()
    jobs = standard(company() if tables is None else tables, run, locale)
    options = Options(timezone=run.timezone, at=run.at, facts=run.facts)
    return create(path, jobs, options) if before is None else refresh(before, path, jobs, options)


MONTH_LATER = dt.datetime(2026, 4, 9, 12, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    path = tmp_path_factory.mktemp("standard") / "first.xlsx"
    build(path)
    return path


def band(book, name):
    """A band of headline figures: heading → (value, change, previous)."""
    for sheet in book:
        if name in sheet.tables:
            left, top, right, bottom = range_boundaries(sheet.tables[name].ref)
            columns = sheet.iter_cols(left, right, top, bottom)
            return {cells[0].value: tuple(cell.value for cell in cells[1:]) for cells in columns}
    return None


def charts(parts):
    """Of each chart its part, title, alternative text, place and references."""
    drawing = parts["xl/drawings/drawing1.xml"].decode()
    links = dict(re.findall(r'Id="(\w+)"[^>]*Target="\.\./charts/(chart\d+\.xml)"', parts["xl/drawings/_rels/drawing1.xml.rels"].decode()))
    found = []
    for anchor in re.findall(r"<xdr:twoCellAnchor.*?</xdr:twoCellAnchor>", drawing):
        part = "xl/charts/" + links[re.search(r'r:id="(\w+)"', anchor)[1]]
        corners = [int(number) for number in re.findall(r"<xdr:(?:row|col)>(\d+)<", anchor)]
        xml = parts[part].decode()
        found.append(
            {
                "part": part,
                "title": re.search(r"<a:t>(.*?)</a:t>", xml)[1],
                "alt": re.search(r'descr="(.*?)"', anchor)[1],
                "place": corners,
                "refs": re.findall(r"<c:f>(.*?)</c:f>", xml),
            }
        )
    return found


# ── what is in it ──


def test_sheets_stand_in_the_order_people_read_them(first, findings):
    assert openpyxl.load_workbook(first).sheetnames == [
        "Overview", "Headline figures", "Deals", "By owner", "By month", "Pipeline balance", "Forecast", "Stalled deals", "Follow ups",
        "Chart data", "Definitions", "Data quality", "About",
    ]  # fmt: skip
    assert findings(first) == []


def test_the_same_tables_give_the_same_bytes(first, tmp_path):
    build(tmp_path / "again.xlsx")
    assert (tmp_path / "again.xlsx").read_bytes() == first.read_bytes()


def test_headline_figures_stand_with_change_and_previous_value(first):
    book = openpyxl.load_workbook(first)
    results, pipeline = band(book, "Headlines"), band(book, "PipelineToday")
    assert results["Revenue"] == (120_000, pytest.approx(0.2), 100_000)
    assert results["Win rate"] == (0.42, pytest.approx(2.0), 0.4), "a percentage changes by points"
    assert list(results) == ["Revenue", "Win rate", "Average deal size", "Sales cycle"], "a figure without a value gets no place"
    assert pipeline["Open value"] == (900_000, 1.0, 450_000)
    assert pipeline["Coverage this quarter"] == (1.9, None, None)
    sheet = book["Overview"]
    assert [sheet.cell(8, column).number_format for column in (2, 3, 5)] == ['"€"#,##0;\\-"€"#,##0', "0.0%", '#,##0" days"']
    assert sheet["B9"].number_format.startswith('"▲ "#,##0.0%;"▼ "')
    assert sheet["B10"].value == 100_000
    assert sheet["B10"].number_format.startswith('"was "')


def test_less_is_better_turns_the_colours(first):
    """Revenue (B) is green when it grows, the sales cycle (E) when it falls; the arrow says it without colour."""
    rules = openpyxl.load_workbook(first)["Overview"].conditional_formatting
    green = {}
    for area in rules:
        for rule in area.rules:
            if rule.dxf.font.color.rgb == "FF2E7D4F":
                green.update(dict.fromkeys(str(area.sqref).split(), rule.operator))
    assert green["B9"] == green["C9"] == "greaterThan"
    assert green["E9"] == "lessThan"


def test_charts_stand_on_table_ranges_and_say_what_they_show(first, parts):
    found = charts(parts(first))
    assert [chart["title"] for chart in found] == [
        "Open pipeline by stage", "Revenue by month, with growth", "Win rate by owner", "Forecast against quota", "Stalled value by stage",
    ]  # fmt: skip
    assert all(len(chart["alt"]) > 40 for chart in found)
    assert found[0]["refs"] == ["'Chart data'!$B$3", "'Chart data'!$A$4:$A$6", "'Chart data'!$B$4:$B$6"]
    sheet = openpyxl.load_workbook(first)["Chart data"]
    assert sheet.tables["ChartFunnel"].ref == "A3:C6"
    assert [sheet[cell].value for cell in ("A4", "B4", "A6", "B6")] == ["Discovery · 20", 500_000, "Negotiation · 2", 100_000]


def test_charts_do_not_overlap(first, parts):
    places = [chart["place"] for chart in charts(parts(first))]
    for at, (left, top, right, bottom) in enumerate(places):
        assert top >= 16, "below the figures"
        for other in places[at + 1 :]:
            assert other[0] >= right or other[2] <= left or other[1] >= bottom or other[3] <= top


def test_chart_tables_hold_what_the_charts_need(first, cells):
    rows = cells(first, "Chart data")
    columns = {rows[2][at]: [row[at] for row in rows[3:] if row[at] is not None] for at in range(len(rows[2])) if rows[2][at]}
    assert len(columns["Owner"]) == 10, "the ten owners with the most closed deals"
    assert columns["Win rate"] == sorted(columns["Win rate"], reverse=True)
    assert columns["Won"] == [50_000, 0]
    assert columns["Open, weighted"] == [30_000, 0]
    assert columns["Quota"] == [90_000, 95_000], "months far away are left out"
    assert columns["Stalled"] == [40_000, 9_000, 0]
    assert columns["Within limit"] == [460_000, 291_000, 100_000]


def test_the_running_month_has_no_growth_yet(tmp_path, cells):
    build(tmp_path / "march.xlsx", company(later=True))
    rows = cells(tmp_path / "march.xlsx", "Chart data")
    assert [row[6] for row in rows[3:7]] == [0.1, 0.1, 0.1, None]


def test_sheets_are_set_up_to_be_read_and_printed(first):
    book = openpyxl.load_workbook(first)
    for sheet in book.worksheets:
        assert sheet.page_setup.orientation == "landscape"
        assert sheet.sheet_properties.pageSetUpPr.fitToPage
    deals = book["Deals"]
    assert deals.print_title_rows == "$1:$1"
    assert "&P" in deals.oddFooter.right.text
    assert deals.freeze_panes == "A2"
    assert deals.tables["Deals"].autoFilter is not None
    assert deals["B2"].value == "=Deal 1"
    assert deals["B2"].data_type == "s"
    assert [deals.cell(1, column).value for column in range(1, 7)][-1] == "Is open", "technical columns come last"


def test_kpis_are_formatted_by_the_unit_of_their_row(first):
    sheet = openpyxl.load_workbook(first)["Headline figures"]
    heads = [cell.value for cell in sheet[1]]
    value, unit = heads.index("Value") + 1, heads.index("Unit") + 1
    formats = {sheet.cell(row, unit).value: sheet.cell(row, value).number_format for row in range(2, sheet.max_row + 1)}
    assert formats == {"money": '"€"#,##0.00;\\-"€"#,##0.00', "percent": "0.0%", "days": "#,##0.0", "count": "#,##0", "ratio": "0.00"}


def test_formats_point_out_what_matters(first):
    book = openpyxl.load_workbook(first)
    crowded = [rule.formula for area in book["Pipeline balance"].conditional_formatting for rule in area.rules]
    assert crowded == [['"Crowded"'], ['"Thin"'], ['"Healthy"']]
    assert {str(area.sqref) for area in book["Follow ups"].conditional_formatting} == {"D2"}
    assert [rule.type for area in book["Stalled deals"].conditional_formatting for rule in area.rules] == ["dataBar"]


def test_records_open_in_the_crm_with_a_click(first, tmp_path, parts, findings):
    def links(path):
        return {cell.coordinate: cell.hyperlink.target for row in openpyxl.load_workbook(path)["Deals"] for cell in row if cell.hyperlink}

    assert links(first) == {f"E{at + 1}": f"https://crm.example/deals/D{at}?a=1&b=2" for at in range(3, 31, 3)}
    build(tmp_path / "later.xlsx", company(later=True), the_run(MONTH_LATER), before=first)
    assert len(links(tmp_path / "later.xlsx")) == 13
    fewer = company(later=True)
    kept = fewer["deals"].open().read_all().slice(5, 4)
    fewer["deals"] = replace(fewer["deals"], rows=4, open=kept.to_reader)
    build(tmp_path / "fewer.xlsx", fewer, the_run(MONTH_LATER + dt.timedelta(days=1)), before=tmp_path / "later.xlsx")
    assert links(tmp_path / "fewer.xlsx") == {"E2": "https://crm.example/deals/D6?a=1&b=2", "E5": "https://crm.example/deals/D9?a=1&b=2"}
    assert findings(tmp_path / "fewer.xlsx") == []
    relations = [text for name, text in parts(tmp_path / "fewer.xlsx").items() if name.endswith("sheet3.xml.rels")]
    assert relations[0].count(b"hyperlink") == 2, "links that are gone leave nothing behind"


def test_an_address_that_is_none_stays_a_text(tmp_path):
    tables = company()
    rows = [
        {"deal_id": "D1", "name": "A", "is_open": 1, "expected_close_date": None, "amount_reporting": None, "url": url}
        for url in ("javascript:alert(1)", "https://a b", "=x")
    ]
    tables["deals"] = table_of("deals", rows, types={"expected_close_date": pa.date32(), "amount_reporting": pa.decimal128(18, 4)})
    build(tmp_path / "odd.xlsx", tables)
    cells = [row[4] for row in openpyxl.load_workbook(tmp_path / "odd.xlsx")["Deals"].iter_rows(min_row=2)]
    assert [cell.value for cell in cells] == ["javascript:alert(1)", "https://a b", "=x"]
    assert not any(cell.hyperlink for cell in cells)


def test_every_language_has_the_same_words():
    def shape(said):
        return {name: shape(inner) for name, inner in said.items()} if isinstance(said, dict) else None

    assert shape(dict(words("zh"))) == shape(dict(words("en")))


def test_about_says_when_from_where_and_how_much(first, cells):
    facts = dict(cells(first, "About")[1:])
    assert facts["Flow"] == "sales"
    assert facts["Run"] == "r1"
    assert facts["Data as of"] == "2026-03-10 12:00 UTC"
    assert facts["Source crm"] == "deals"
    assert facts["Rows in Deals"] == "30"


def test_long_texts_wrap_in_rows_that_are_high_enough(first):
    sheet = openpyxl.load_workbook(first)["Definitions"]
    assert sheet["B2"].alignment.wrap_text
    assert sheet.row_dimensions[2].height >= 4 * 12


# ── languages and small flows ──


def test_chinese(tmp_path, findings, cells):
    build(tmp_path / "zh.xlsx", company("zh"), the_run(locale="zh"))
    book = openpyxl.load_workbook(tmp_path / "zh.xlsx")
    assert book.sheetnames[:3] == ["概览", "关键指标", "商机"]
    assert book.sheetnames[-1] == "关于"
    assert band(book, "Headlines")["收入"][0] == 120_000
    assert book["概览"]["B3"].value == "数据截至"
    assert findings(tmp_path / "zh.xlsx") == []
    assert dict(cells(tmp_path / "zh.xlsx", "关于")[1:])["商机行数"] == "30"


@pytest.mark.parametrize(
    ("locale", "said"),
    [
        ("en", ("Last 90 days", "Overdue activity", "Crowded", "Warning", "Closed")),
        ("zh", ("近 90 天", "活动已逾期", "拥挤", "警告", "已成交")),
    ],
)
def test_sheets_show_words_where_the_tables_hold_codes(tmp_path, locale, said):
    tables = company(locale)
    build(tmp_path / "words.xlsx", tables, the_run(locale=locale))
    book = openpyxl.load_workbook(tmp_path / "words.xlsx")

    def column(name, heading):
        sheet = next(sheet for sheet in book if sheet.tables and name in sheet.tables)
        place = [cell.value for cell in sheet[1]].index(heading)
        return [row[place] for row in sheet.iter_rows(min_row=2, values_only=True)]

    assert column("Kpis", "Period")[0] == said[0]
    assert column("FollowUps", "Reason") == [said[1]]
    assert column("PipelineBalance", "Verdict")[0] == said[2]
    assert column("DataQuality", "Severity") == [said[3]]
    assert column("Forecast", "Forecast category") == [said[4], "Commit", said[4], "Commit"], "the CRM's own words stay"
    assert tables["kpis"].open().read_all()["period"][0].as_py() == "trailing_90_days"


def test_a_further_language_is_one_more_file(tmp_path, monkeypatch):
    english = (Path(standard_module.__file__).parent / "locale" / "en.json").read_text("utf-8")
    (tmp_path / "locale").mkdir()
    (tmp_path / "locale" / "de.json").write_text(
        english.replace('"Overview"', '"Überblick"').replace('"Last 90 days"', '"Letzte 90 Tage"'), "utf-8"
    )
    monkeypatch.setattr(standard_module, "files", lambda _package: tmp_path)
    words.cache_clear()
    try:
        build(tmp_path / "de.xlsx", locale="de_AT")
    finally:
        words.cache_clear()
    book = openpyxl.load_workbook(tmp_path / "de.xlsx")
    assert book.sheetnames[0] == "Überblick"
    assert "Letzte 90 Tage" in [cell.value for cell in book["Headline figures"]["B"]]


def test_a_language_nobody_has_written_yet():
    with pytest.raises(ConfigError, match="no words for locale 'xx'"):
        standard(company(), the_run(), "xx")


def test_a_flow_without_deals_gets_its_tables_and_the_overview_once_there_is_something_to_show(tmp_path, findings):
    plain = {
        "spend": table_of("spend", [{"category": "Ads", "amount": 5}]),
        "kpis": table_of("kpis", [kpi("open_deals", "count", 0.0, 0.0)], types=KPI_TYPES),
    }
    build(tmp_path / "a.xlsx", plain)
    assert openpyxl.load_workbook(tmp_path / "a.xlsx").sheetnames == ["Headline figures", "Spend", "About"]
    assert findings(tmp_path / "a.xlsx") == []
    build(tmp_path / "b.xlsx", {**plain, **company()}, before=tmp_path / "a.xlsx")
    assert "Overview" in openpyxl.load_workbook(tmp_path / "b.xlsx").sheetnames
    assert findings(tmp_path / "b.xlsx") == []


def test_a_chart_without_rows_is_left_out_and_the_grid_closes_up(tmp_path, parts):
    build(tmp_path / "small.xlsx", company(without=("by_owner", "forecast")))
    found = charts(parts(tmp_path / "small.xlsx"))
    assert [chart["title"] for chart in found] == ["Open pipeline by stage", "Revenue by month, with growth", "Stalled value by stage"]
    assert {chart["place"][1] for chart in found} == {17}, "three charts make one row"


def test_without_values_the_funnel_counts_deals(tmp_path, parts):
    tables = company()
    balance = [{"pipeline": None, "stage": "Discovery", "value": None, "deals": 7, "verdict": "healthy"}]
    tables["pipeline_balance"] = table_of("pipeline_balance", balance, types={"pipeline": pa.string(), "value": pa.float64()})
    build(tmp_path / "counts.xlsx", tables)
    assert "'Chart data'!$C$4:$C$4" in charts(parts(tmp_path / "counts.xlsx"))[0]["refs"]


# ── refreshed ──


def test_nothing_new_writes_nothing_whatever_the_clock_says(first, tmp_path):
    changes = build(tmp_path / "again.xlsx", run=the_run(NOON + dt.timedelta(days=1), "r2"), before=first)
    assert changes.unchanged
    assert not (tmp_path / "again.xlsx").exists()


def test_a_month_later_everything_follows(first, tmp_path, parts, findings, cells):
    build(tmp_path / "later.xlsx", company(later=True), the_run(MONTH_LATER, "r2"), before=first)
    before, after = parts(first), parts(tmp_path / "later.xlsx")
    assert findings(tmp_path / "later.xlsx") == []
    book = openpyxl.load_workbook(tmp_path / "later.xlsx")
    assert band(book, "Headlines")["Revenue"] == (150_000, 0.5, 100_000)
    assert book["Overview"]["B4"].value == dt.datetime(2026, 4, 9, 12)
    shown = {chart["title"]: chart for chart in charts(after)}
    assert "'Chart data'!$F$4:$F$7" in shown["Revenue by month, with growth"]["refs"], "the chart follows the new month"
    assert shown["Pipeline movement, last 90 days"]["place"][:2] != shown["Stalled value by stage"]["place"][:2]
    assert "Pipeline movement" in book.sheetnames
    assert dict(cells(tmp_path / "later.xlsx", "About")[1:])["Run"] == "r2"
    assert before["xl/charts/chart1.xml"] == after["xl/charts/chart1.xml"], "what did not change is not touched"
    unchanged = [name for name in before if before[name] == after.get(name)]
    assert {"xl/theme/theme1.xml", "xl/charts/chart3.xml"} <= set(unchanged)


def test_the_movement_adds_up_from_start_to_now(tmp_path, cells):
    build(tmp_path / "later.xlsx", company(later=True), the_run(MONTH_LATER))
    rows = cells(tmp_path / "later.xlsx", "Chart data")
    left = rows[2].index("Movement")
    steps = [row[left : left + 5] for row in rows[3:] if row[left]]
    assert [step[0] for step in steps] == [
        "Start · €900K",
        "New · +€200K",
        "Increased · +€10K",
        "Won · −€150K",
        "Lost · −€60K",
        "Now · €900K",
    ]
    assert steps[1][1:] == (900_000, None, 200_000, None)
    assert steps[3][1:] == (960_000, None, None, 150_000)
    assert steps[5][2] == 900_000


def test_a_table_that_loses_its_rows_loses_them_in_the_workbook(first, tmp_path):
    build(tmp_path / "later.xlsx", company(later=True), the_run(MONTH_LATER), before=first)
    sheet = openpyxl.load_workbook(tmp_path / "later.xlsx")["Stalled deals"]
    assert sheet.tables["StalledDeals"].ref == "A1:E2"
    assert [cell.value for cell in sheet[2]] == [None] * 5


def test_what_a_colleague_added_stays(first, tmp_path):
    mine = tmp_path / "mine.xlsx"
    book = openpyxl.load_workbook(first)
    book["Overview"]["B50"] = "Call Acme on Monday"
    book["Overview"]["B2"] = "Team North"
    book.create_sheet("Notes")["A1"] = "=SUM(Deals[Amount reporting])"
    book.save(mine)
    build(tmp_path / "later.xlsx", company(later=True), the_run(MONTH_LATER), before=mine)
    after = openpyxl.load_workbook(tmp_path / "later.xlsx")
    assert after["Overview"]["B50"].value == "Call Acme on Monday"
    assert after["Overview"]["B2"].value == "Team North"
    assert after["Notes"]["A1"].value == "=SUM(Deals[Amount reporting])"
    assert band(after, "Headlines")["Revenue"][0] == 150_000
    assert after["Overview"]["B8"].number_format == '"€"#,##0;\\-"€"#,##0', "figures keep their formats"
    assert after["Overview"]["E8"].number_format == '#,##0" days"'


def test_a_pivot_over_our_table_is_kept_and_refreshes_when_the_file_is_opened(first, tmp_path, parts, edit):
    main, kind = "http://schemas.openxmlformats.org/spreadsheetml/2006/main", "application/vnd.openxmlformats-officedocument.spreadsheetml"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    source = '<cacheSource type="worksheet"><worksheetSource name="Deals"/></cacheSource><cacheFields count="0"/>'
    related = (
        f'<Relationship Id="rId900" Type="{office}/pivotCacheDefinition" Target="pivotCache/pivotCacheDefinition1.xml"/></Relationships>'
    )
    typed = f'<Override PartName="/xl/pivotCache/pivotCacheDefinition1.xml" ContentType="{kind}.pivotCacheDefinition+xml"/></Types>'
    mine = edit(
        first,
        {
            "xl/pivotCache/pivotCacheDefinition1.xml": f'<pivotCacheDefinition xmlns="{main}">{source}</pivotCacheDefinition>'.encode(),
            "xl/pivotTables/pivotTable1.xml": b"<as-my-colleague-left-it/>",
            "xl/_rels/workbook.xml.rels": lambda xml: xml.replace(b"</Relationships>", related.encode()),
            "[Content_Types].xml": lambda xml: xml.replace(b"</Types>", typed.encode()),
        },
        to=tmp_path / "pivot.xlsx",
    )
    build(tmp_path / "later.xlsx", company(later=True), the_run(MONTH_LATER), before=mine)
    after = parts(tmp_path / "later.xlsx")
    assert b'refreshOnLoad="1"' in after["xl/pivotCache/pivotCacheDefinition1.xml"]
    assert source.encode() in after["xl/pivotCache/pivotCacheDefinition1.xml"]
    assert after["xl/pivotTables/pivotTable1.xml"] == b"<as-my-colleague-left-it/>"


def test_a_chart_somebody_deleted_stays_away(first, tmp_path, parts, edit):
    one_less = tmp_path / "less.xlsx"
    shutil.copy(first, one_less)
    edit(one_less, {"xl/drawings/drawing1.xml": lambda xml: re.sub(rb"<xdr:twoCellAnchor.*?</xdr:twoCellAnchor>", b"", xml, count=1)})
    build(tmp_path / "later.xlsx", company(later=True), the_run(MONTH_LATER), before=one_less)
    titles = [chart["title"] for chart in charts(parts(tmp_path / "later.xlsx"))]
    assert "Open pipeline by stage" not in titles
    assert "Pipeline movement, last 90 days" in titles


# ── opened by another program ──


@pytest.mark.parametrize("locale", ["en", "zh"])
def test_microsofts_validator_finds_nothing(introduced, tmp_path, locale):
    build(tmp_path / "first.xlsx", company(locale), the_run(locale=locale), locale=locale)
    assert introduced(tmp_path / "first.xlsx") == set()
    month_later = the_run(MONTH_LATER, "r2", locale)
    build(tmp_path / "later.xlsx", company(locale, later=True), month_later, tmp_path / "first.xlsx", locale)
    assert introduced(tmp_path / "later.xlsx") == set()


@pytest.mark.skipif(
    shutil.which("soffice") is None or shutil.which("pdftotext") is None, reason="LibreOffice or pdftotext is not installed"
)
def test_libreoffice_shows_it_without_cut_numbers(first, tmp_path):
    home = f"-env:UserInstallation=file://{tmp_path}/office"
    subprocess.run(
        ["soffice", home, "--headless", "--convert-to", "pdf", "--outdir", str(tmp_path), str(first)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    text = subprocess.run(["pdftotext", "-layout", str(tmp_path / "first.pdf"), "-"], check=True, capture_output=True, text=True).stdout
    assert "###" not in text
    assert "▲ 20.0%" in text
    for title in ("Open pipeline by stage", "Win rate by owner", "Forecast against quota"):
        assert title in text
