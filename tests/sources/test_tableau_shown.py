"""What a sheet shows, read as a person would: empty views, filters, totals, measures in every language, dates and ids."""

import contextlib
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from pydantic import ValidationError

from connector.api import Since
from connector.engine import DuckDB
from connector.errors import SourceError
from connector.http import Session
from connector.normalise import normalise
from connector.sandbox.server import serve
from connector.sandbox.tableau import Column, Datasource, Project, Shown, Site, Tableau, View, Workbook
from sources.tableau import TableauConfig, TableauSource

PAT = {"name": "connector", "secret": "sandbox-secret"}
ERROR = b'<tsResponse xmlns="http://tableau.com/api"><error code="%d"><summary>s</summary><detail>d</detail></error></tsResponse>'
XML = {"Content-Type": "application/xml;charset=utf-8"}


@contextlib.contextmanager
def sheet(shown, **how):
    """A running Tableau with the one sheet Book/View, which shows a text or is a View."""
    view = shown if isinstance(shown, View) else View("View", raw=shown if isinstance(shown, bytes) else "\r\n".join(shown).encode())
    project = Project("Sales")
    book = Workbook("Book", project)
    book.add(view)
    tableau = Tableau(Site(projects=[project], workbooks=[book]), strict=True, **how)
    with serve(tableau) as running:
        running.view = view
        yield running
        assert running.violations == []
        assert tableau.sessions == {}


def source_of(running, **spec):
    config = TableauConfig(
        base_url=running.url("tableau"), site="sales", token=PAT, max_wait=60, views=[{"view": "Book/View", "table": "t", **spec}]
    )
    return TableauSource(config, Session(config.network(), sleep=running.clock.sleep, now=running.clock.now, jitter=lambda: 0))


def pages(running, **spec):
    source = source_of(running, **spec)
    return list(source.read(source.entities()[0], Since()))


def rows(found):
    return [row for page in found for row in (page.records.to_pylist() if isinstance(page.records, pa.RecordBatch) else list(page.records))]


def shown(text, **spec):
    """The rows of a sheet that shows this text, and the warnings."""
    with sheet(text) as running:
        found = pages(running, **spec)
    return [tuple(row.values()) for row in rows(found)], found[0].warnings


def stored(text, folder, **spec):
    """The table as the flow stores it, and the warnings."""
    with sheet(text) as running:
        source = source_of(running, **spec)
        (entity,) = source.entities()
        with normalise(entity, source.read(entity, Since()), engine=DuckDB(folders=[folder]), scratch=folder) as result:
            return pa.Table.from_batches(result.batches(), result.schema), result.warnings


def made(columns, data):
    """A sheet of made-up data; `columns` are captions with the way they are shown."""
    source = Datasource("Made", Project("Sales"), tuple(Column(each.caption) for each in columns), lambda: data)
    return View("View", source, tuple(columns))


# ── nothing to show ───────────────────────────────────────────────────────────────────────────────


class TestEmpty:
    @pytest.mark.parametrize("body", [b"", b"\r\n", b"\r\n\r\n", b"Stage,Deals\r\n", b"Stage,Deals\r\n\r\n", b"Stage,Deals\r\n,\r\n"])
    def test_an_answer_without_a_filled_cell_is_one_empty_page_that_says_so(self, body):
        with sheet(body) as running:
            (page,) = pages(running)
        assert (len(page.records), page.total) == (0, 0)
        assert page.warnings == ("Tableau view 'Book/View': the view is empty",)

    def test_so_is_the_refusal_that_means_there_is_nothing(self):
        with sheet(b"A\r\n1\r\n") as running:
            running.faults.add("/data", status=400, body=ERROR % 400130, headers=XML)
            (page,) = pages(running)
        assert (len(page.records), page.total, page.warnings) == (0, 0, ("Tableau view 'Book/View': the view is empty",))

    def test_deals_keep_everything_that_is_said_of_their_columns(self, tmp_path):
        """`where`, `key`, `dates` and expressions name columns that an empty answer does not have."""
        table, warnings = stored(
            b"",
            tmp_path,
            table="deals",
            fields={"deal_id": "Deal ID", "stage": "Stage", "amount": "cast(Amount as double) * 2", "created_at": "Created"},
            where="\"Region\" = 'EMEA' and Owner is not null",
            key=["Deal ID"],
            dates={"Created": "day-first"},
        )
        assert table.num_rows == 0
        assert any("is empty" in warning for warning in warnings)

    def test_cells_without_a_header_are_an_error(self):
        with pytest.raises(SourceError, match="the first line has no column names"):
            shown(b"\r\nWon,3\r\n")


# ── filters ───────────────────────────────────────────────────────────────────────────────────────


class TestFilters:
    @pytest.mark.parametrize("values", ["", "  ", [], ["EMEA", ""]])
    @pytest.mark.parametrize("mode", ["view", "crosstab", "vds"])
    def test_a_filter_without_a_value_would_clear_the_sheets_own(self, mode, values):
        with pytest.raises(ValidationError, match="'Region' has no value: Tableau would give every row"):
            TableauConfig(
                server="https://t.example.com",
                token=PAT,
                views=[{"view": "a/b", "table": "t", "mode": mode, "filters": {"Region": values}}],
            )

    @pytest.mark.parametrize("mode", ["view", "crosstab"])
    def test_a_row_with_another_text_is_an_error_and_not_a_second_question(self, mode):
        """A second question with a value that nothing has would be answered with nothing, and prove the wrong thing."""
        view = made([Shown("Region"), Shown("N", "SUM")], [{"Region": name, "N": 1} for name in ("EMEA", "APAC")])
        with sheet(view, ignore_filters=True) as running:
            with pytest.raises(SourceError, match="a row has Region 'APAC', which is not among EMEA") as error:
                pages(running, mode=mode, filters={"Region": "EMEA"})
            assert "alias" in error.value.remedy
            assert len(running.asked("/(data|excel)$")) == 1

    def test_totals_and_blanks_among_the_rows_are_no_other_text(self):
        text = ["Region,Stage,Deals", "EMEA,Won,2", "EMEA,,3", "Grand Total,,5"]
        with sheet(text) as running:
            running.faults.add("vf_Region=no", status=200, body=b"Region,Stage,Deals\r\n", times=None)
            assert len(rows(pages(running, filters={"Region": "EMEA"}))) == 2

    @pytest.mark.parametrize(
        ("column", "cells", "values"),
        [
            ("Year", ('"2,026"', '"2,026"'), [2026]),
            ("Share", ("14%", "20%"), [0.14, 0.2]),
            ("Close Date", ("1/31/2026", "31.1.2026"), [date(2026, 1, 31)]),
            ("Customer", ("True", "True"), [True]),
            ("Region", ("EMEA", "emea"), ["EMEA"]),
            ("Code", ("7", "7"), ["7"]),
        ],
    )
    def test_values_are_recognised_as_the_sheet_shows_them(self, column, cells, values):
        with sheet([f"{column},N", *(f"{cell},1" for cell in cells)]) as running:
            assert len(rows(pages(running, filters={column: values}))) == 2
            assert len(running.asked("/data$")) == 1

    @pytest.mark.parametrize(("value", "asked"), [(2026, "-1"), (date(2026, 1, 31), "1066-10-14"), ("EMEA", "no such value ")])
    def test_the_second_question_is_of_the_fields_own_kind(self, value, asked):
        """Tableau refuses a text where the field holds numbers."""
        view = made([Shown("Stage"), Shown("N", "SUM")], [{"Stage": "Won", "N": 1, "Hidden": value}])
        with sheet(view) as running:
            assert pages(running, filters={"Hidden": value})
            assert running.asked("/data$")[1].query["vf_Hidden"].startswith(asked)

    def test_a_second_question_that_fails_proves_nothing_and_says_so(self):
        view = made([Shown("Stage"), Shown("N", "SUM")], [{"Stage": "Won", "N": 1, "Year": 2026}])
        with sheet(view) as running:
            running.faults.add("vf_Year=-", status=400, body=ERROR % 400081, headers=XML, times=None)
            with pytest.raises(SourceError, match="nothing proves that Tableau applies 'Year'") as error:
                pages(running, filters={"Year": 2026})
            assert "on Detail" in error.value.remedy

    @pytest.mark.parametrize(
        ("mode", "name", "ok"), [("view", "Stage", True), ("view", "Hidden", True), ("view", "Hiden", False), ("crosstab", "Hiden", False)]
    )
    def test_check_finds_a_misspelt_one(self, mode, name, ok):
        view = made([Shown("Stage"), Shown("N", "SUM")], [{"Stage": "Won", "N": 1, "Hidden": "x"}])
        with sheet(view) as running:
            _, finding = source_of(running, mode=mode, filters={name: "Won"}).check()
        assert finding.ok is ok
        assert ok or f"Tableau ignores {name!r}" in finding.detail


# ── Measure Names ─────────────────────────────────────────────────────────────────────────────────


class TestMeasureNames:
    @pytest.mark.parametrize(
        ("names", "values"),
        [
            ("メジャー ネーム", "メジャー バリュー"),
            ("Nomes de medidas", "Valores de medidas"),
            ("Nomi misure", "Valori misure"),
            ("측정값 이름", "측정값"),
            ("度量名稱", "度量值"),
            ("Mätvärdesnamn", "Mätvärden"),  # no list has it: known by its shape
        ],
    )
    def test_every_language(self, names, values):
        text = [
            f"{names},Stage,{values},Cost,Sales",
            "Cost,Won,1.04,$1,$10",
            "Sales,Won,10,$1,$10",
            "Cost,Lost,3,$3,$7",
            "Sales,Lost,7,$3,$7",
        ]
        got, _ = shown(text, locale="en_US")
        assert got == [("Won", "1.04", "10"), ("Lost", "3", "7")]

    def test_the_shape_is_known_by_a_caption_beside_an_alias(self):
        text = [
            "Namn,Stage,Värde,Distinct count of Deal,Sales",
            "Deals,Won,2,2,$10",
            "Sales,Won,10,2,$10",
            "Deals,Lost,3,3,$7",
            "Sales,Lost,7,3,$7",
        ]
        assert shown(text, locale="en_US")[0] == [("Won", "2", "10"), ("Lost", "3", "7")]

    @pytest.mark.parametrize(
        "text",
        [
            ["Metric,Target,Sales,Cost", "Sales,5,$10,$1", "Cost,6,$10,$1"],  # targets, not the values of the metrics
            ["Field,Note,Stage,Amount", "Stage,x,Won,1", "Amount,y,Won,1"],
            ["Stage,Amount,Won", "Won,1,2", "Lost,2,3"],
            ["Stage,N,Won,Lost", "Won,1,1,0", "Lost,1,0,1"],  # a flag for each stage
        ],
    )
    def test_a_column_that_only_names_columns_stays(self, text):
        assert len(shown(text, locale="en_US")[0]) == 2
        assert len(shown(text, locale="en_US")[0][0]) == text[0].count(",") + 1

    @pytest.mark.parametrize("display", ["12 days", "1.2x", "1/2", "", "12 Tage"])
    def test_a_number_shown_in_words_contradicts_nothing(self, display):
        text = ["Measure Names,Stage,Measure Values,Cycle,Sales", f"Cycle,Won,12.3,{display},$10", f"Sales,Won,10,{display},$10"]
        assert shown(text, locale="en_US")[0] == [("Won", "12.3", "10")]

    def test_thousands_shown_without_a_sign_contradict_nothing(self):
        text = ["Measure Names,Stage,Measure Values,Sales", 'Sales,Won,"1,234,567",1.2', "Cost,Won,3,1.2"]
        assert shown(text, locale="en_US")[0] == [("Won", "1,234,567", "3")]


# ── totals ────────────────────────────────────────────────────────────────────────────────────────


DEALS = "Deal ID,Account,Stage,Amount,Overdue"


class TestTotals:
    @pytest.mark.parametrize(
        ("label", "locale"),
        [
            ("Total geral", "pt_BR"), ("Totale complessivo", "it_IT"), ("Totale", "it_IT"), ("総計", "ja_JP"), ("合計", "ja_JP"),
            ("총합계", "ko_KR"), ("총계", "ko_KR"), ("總計", "zh_TW"), ("总计", "zh_CN"), ("Gesamtsumme", "de_DE"), ("GRAND TOTAL", "en_US"),
        ],
    )  # fmt: skip
    def test_every_languages_grand_total(self, label, locale):
        got, warnings = shown(["Region,Deals", "EMEA,2", "APAC,3", f"{label},5"], locale=locale)
        assert [region for region, _ in got] == ["EMEA", "APAC"]
        assert "1 total row left out" in warnings[0]

    def test_subtotals_that_say_what_they_add_up(self):
        text = ["Region,Stage,Deals", "East,Won,2", "East,Lost,3", "East Total,,5", "West,Won,1", "West Total,,1", "Grand Total,,6"]
        assert [row[:2] for row in shown(text)[0]] == [("East", "Won"), ("East", "Lost"), ("West", "Won")]

    def test_subtotals_by_year(self):
        text = ["Year,Region,Deals", "2025,EMEA,2", "2025,APAC,3", "2025,Total,5", "2026,EMEA,7", "2026,Total,7"]
        assert len(shown(text)[0]) == 3

    def test_whole_numbers_must_add_up_to_the_letter(self):
        """A half for every row that might be rounded would let 700 pass for 999."""
        text = ["Region,Deals", *(f"R{number},{number % 3}" for number in range(1000)), "Total,700"]
        with pytest.raises(SourceError, match=r"row 1002 \(Region 'Total', Deals '700'\) looks like a total"):
            shown(text)

    @pytest.mark.parametrize(("off", "total"), [(25, True), (250, False)])
    def test_rounded_amounts_may_be_off_by_what_rounding_explains(self, off, total):
        amounts = [number * 1000 + 7 for number in range(1000)]
        text = ["Region,Amount", *(f'R{number},"${amount:,}"' for number, amount in enumerate(amounts)), f'Total,"${sum(amounts) + off:,}"']
        if total:
            assert len(shown(text, locale="en_US")[0]) == 1000
        else:
            with pytest.raises(SourceError, match="looks like a total"):
                shown(text, locale="en_US")

    @pytest.mark.parametrize("account", ["Total", "All", "Crystal Total", "Total Wine & More"])
    @pytest.mark.parametrize("mapped", [{}, {"table": "deals", "fields": {"deal_id": "Deal ID", "account": "Account"}}])
    def test_a_customer_of_that_name_among_numeric_ids_is_a_customer(self, account, mapped):
        """The ids add up to nothing, the flags to little; neither makes a total of a deal."""
        text = [
            DEALS,
            *(f"{7_100_000 + n},{account if n == 50 else f'Acme {n}'},Open,{n * 37 % 900},{int(n % 5 == 0)}" for n in range(200)),
        ]
        got, warnings = shown(text, **mapped)
        assert (len(got), warnings) == (200, ())

    def test_a_column_of_flags_alone_proves_nothing(self):
        text = ["Account,Owner,Overdue", "Total,Ann,1", "Acme,Ann,1", "Globex,Ann,0"]
        with pytest.raises(SourceError, match="row 2"):
            shown(text)

    def test_ones_are_proven_by_the_other_totals_of_their_column(self):
        text = ["Team,Stage,Deals", "East,Won,3", "East,Total,3", "West,Won,1", "West,Total,1", "Grand Total,,4"]
        assert len(shown(text)[0]) == 2

    def test_every_measure_that_adds_up_must_agree(self):
        text = ["Region,Deals,Amount", "EMEA,2,10", "APAC,3,20", "Total,5,31"]
        with pytest.raises(SourceError, match="looks like a total"):
            shown(text)

    @pytest.mark.parametrize("header", ["Avg. Amount", "Win Rate", "Distinct count of Owner", "Profit Ratio"])
    def test_averages_and_distinct_counts_need_not(self, header):
        assert len(shown([f"Region,Deals,{header}", "EMEA,2,10", "APAC,3,20", "Total,5,16"])[0]) == 2

    def test_what_differs_below_a_total_is_blank_null_or_a_star_in_it(self):
        for other in ("", "Null", "*"):
            assert len(shown(["Region,Owner,Deals", "EMEA,Ann,2", "APAC,Bob,3", f"Total,{other},5"])[0]) == 2

    def test_a_column_that_says_all_everywhere_names_no_total(self):
        text = ["Scope,Region,N", *(f"All,R{number},{number}" for number in range(300)), "All,Grand Total,44850"]
        assert len(shown(text)[0]) == 300

    def test_what_is_decided_about_an_unproven_one_is_said_with_its_row(self):
        text = ["Region,Amount", "EMEA,2", "APAC,3", "Total,6"]
        kept, warned = shown(text, totals="keep")
        assert len(kept) == 3
        assert warned == ("Tableau view 'Book/View': 1 total row kept as `totals: keep` says; it is row 4 (Region 'Total', Amount '6')",)
        dropped, warned = shown(text, totals="drop")
        assert len(dropped) == 2
        assert "row 4 (Region 'Total', Amount '6') looks like a total, and no number proves it" in warned[0]

    def test_a_customer_of_that_name_is_not_mentioned(self):
        assert shown([DEALS, "D1,Total,Open,10,0", "D2,Acme,Open,20,0"], totals="keep")[1] == ()


# ── dates, ids, long texts ────────────────────────────────────────────────────────────────────────


class TestLocale:
    @pytest.mark.parametrize(
        ("locale", "cell", "day"),
        [
            ("en_US", "3/4/2026", date(2026, 3, 4)),
            ("en_GB", "03/04/2026", date(2026, 4, 3)),
            ("de_DE", "03.04.2026", date(2026, 4, 3)),
            ("ja_JP", "2026/04/03", date(2026, 4, 3)),
        ],
    )
    def test_it_settles_the_order_of_day_and_month(self, tmp_path, locale, cell, day):
        assert stored(["Closed", cell, cell], tmp_path, locale=locale)[0].to_pylist() == [{"Closed": day}] * 2

    def test_a_date_that_contradicts_it_is_an_error_that_names_it(self, tmp_path):
        with pytest.raises(SourceError, match="row 3, column 'Closed': '03/24/2026' is no day-first date"):
            stored(["Closed", "03/04/2026", "03/24/2026"], tmp_path, locale="en_GB")

    def test_dates_wins_over_it(self, tmp_path):
        table, _ = stored(["Closed", "03/04/2026", "03/24/2026"], tmp_path, locale="en_GB", dates="month-first")
        assert table["Closed"].to_pylist() == [date(2026, 3, 4), date(2026, 3, 24)]

    def test_without_it_nothing_is_guessed(self, tmp_path):
        with pytest.raises(SourceError, match=r"3/4/2026.*no value of the column shows which"):
            stored(["Closed", "3/4/2026", "5/6/2026"], tmp_path)

    def test_parts_of_dates_stay_what_they_are(self, tmp_path):
        table, _ = stored(["Month,Quarter,N", "January 2026,2026 Q1,1", "May 2026,2026 Q2,2"], tmp_path, locale="en_US")
        assert table["Month"].to_pylist() == ["January 2026", "May 2026"]
        assert table["Quarter"].to_pylist() == ["2026 Q1", "2026 Q2"]

    @pytest.mark.parametrize(("locale", "am", "pm"), [("zh_TW", "上午", "下午"), ("zh_CN", "上午", "下午"), ("ja_JP", "午前", "午後")])
    def test_mornings_and_afternoons(self, tmp_path, locale, am, pm):
        table, _ = stored(["At", f"2026/1/31 {am}9:15:00", f"2026/2/1 {pm}1:00:00"], tmp_path, locale=locale)
        assert table["At"].to_pylist() == [datetime(2026, 1, 31, 9, 15, tzinfo=UTC), datetime(2026, 2, 1, 13, tzinfo=UTC)]

    @pytest.mark.parametrize(
        ("locale", "cell"), [("en_US", "7,100,001"), ("de_DE", "7.100.001"), ("fr_FR", "7\u202f100\u202f001"), ("de_CH", "7’100’001")]
    )
    @pytest.mark.parametrize("fields", [{}, {"deal_id": "Deal ID", "amount": "Amount"}])
    def test_ids_shown_as_numbers_are_the_ids(self, tmp_path, locale, cell, fields):
        text = ["Deal ID,Amount,Note", f'"{cell}",5,"{cell}"', '"999",6,x', '"D-1,000",7,x']
        table, _ = stored(text, tmp_path, table="deals", locale=locale, fields=fields)
        assert table["deal_id"].to_pylist() == ["7100001", "999", "D-1,000"]
        assert table["amount"].to_pylist() == [Decimal(5), Decimal(6), Decimal(7)]


def test_a_cell_that_does_not_fit_says_what_to_take_off_the_view():
    with pytest.raises(SourceError, match="longer than 1 MB") as error:
        shown(b"Note,N\r\n" + b"x" * (2 << 20) + b",1\r\n")
    assert "off the view" in error.value.remedy
