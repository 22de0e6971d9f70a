"""Leads, scored by the rules of `model.lead_scoring`."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from connector.config import LeadScoring
from connector.engine import Engine, SqlError, single_expression, unknown_column
from connector.errors import ConfigError
from connector.model import ENTITIES
from connector.money import Money, lead_value
from connector.statements import Days, statement, text


def score_leads(engine: Engine, scoring: LeadScoring, kinds: Mapping[str, pa.DataType], days: Days, money: Money) -> None:
    """`lead_facts` and `leads`, scored by the rules of `model.lead_scoring` where the source has no score of its own."""
    _check_rules(engine, scoring)
    best_first = sorted(scoring.grades.items(), key=lambda item: -item[1])
    grades = " ".join(f"when score >= {least} then {text(grade)}" for grade, least in best_first)
    bant = f"case when bant_known = 0 then null when bant >= {scoring.bant_needed} then 1 else 0 end"
    by_score = f"case when score is null then null when score >= {scoring.qualified_score} then 1 else 0 end"
    engine.view(
        "lead_facts",
        statement("assemble/leads").format(
            **{kind: _points(scoring, kind) for kind in ("profile", "behaviour", "engagement")},
            grade=f"case when score is null then null {grades} else 'D' end",
            qualified=bant if scoring.qualified_score is None else by_score,
            created_on=days.local("created_at", kinds["created_at"]),
            value_reporting=lead_value(money),
        ),
    )
    columns = engine.schema("select * from lead_facts").names
    hidden = ("profile_points", "behaviour_points", "engagement_points", "value_reporting", "created_on", "created_day", "is_converted")
    engine.view("leads", f"select {', '.join(name for name in columns if name not in hidden)} from lead_facts order by lead_id")


def _points(scoring: LeadScoring, kind: str) -> str:
    rules = [rule for rule in scoring.rules if rule.kind == kind]
    return " + ".join(f"case when ({rule.when}) then {float(rule.points)} else 0.0 end" for rule in rules) or "cast(null as double)"


def _check_rules(engine: Engine, scoring: LeadScoring) -> None:
    """Refuse a scoring rule that is not a condition over the columns of `leads`. Raises ConfigError."""
    for index, rule in enumerate(scoring.rules):
        try:
            single_expression(rule.when)
            engine.schema(f"select case when ({rule.when}) then 1 else 0 end as fits from gathered_leads")
        except SqlError as reason:
            said = unknown_column(reason, ENTITIES["leads"].names) or str(reason)
            raise ConfigError(
                f"model.lead_scoring.rules[{index}].when: {said}", remedy="write a SQL condition over the columns of leads"
            ) from reason
