"""The command line: what cron, a container and a person at a prompt all call.

Machine output goes to stdout, logs and progress to stderr; the exit code comes from the error's class.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click
from pydantic import ValidationError

from connector import __version__
from connector.errors import ConfigError, ConnectorError, nearest
from connector.logs import REDACTION, configure, secrets_of
from connector.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])
FORMATS: Final = click.Choice(["table", "csv", "json"])


@dataclass
class Session:
    """What the options in front of and behind a command said together; the ones behind win."""

    options: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> Settings:
        """The process settings; the log is set up by them."""
        try:
            settings = Settings(**{key: value for key, value in self.options.items() if value is not None})
        except ValidationError as error:
            faults = "; ".join(
                f"CONNECTOR_{fault['loc'][0]!s}".upper() + f": {fault['msg']}" for fault in error.errors(include_input=False)
            )
            raise ConfigError(f"process settings: {faults}") from None
        configure(settings.log_format, settings.log_level)
        return settings

    def config(self) -> Any:
        """The flows, with their secrets known to the log's redaction."""
        from connector.configfile import load  # noqa: PLC0415  (pydantic models of every plugin: only commands that need them pay)

        config = load(self.settings().config, os.environ)
        REDACTION.learn(secrets_of(config))
        return config


def shared(command: F) -> F:
    """The options every command takes, before or behind its name."""

    def keep(context: click.Context, option: click.Parameter, value: Any) -> None:
        if value is not None:
            context.ensure_object(Session).options[str(option.name)] = value

    def option(*names: str, **kwargs: Any) -> Callable[[F], F]:
        return click.option(*names, expose_value=False, callback=keep, is_eager=True, **kwargs)

    for decorate in (
        option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least level to log [info]."),
        option("--log-format", type=click.Choice(["text", "json"]), help="Logs as text or as JSON lines [text]."),
        option("--data", type=click.Path(path_type=Path, file_okay=False), help="Folder of state and snapshots [./data]."),
        option("--config", type=click.Path(path_type=Path), help="YAML file, or folder of YAML files [./connector.yaml]."),
    ):
        command = decorate(command)
    return command


class Instant(click.ParamType[datetime]):
    name = "ISO"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a date or time in ISO 8601, e.g. 2026-03-02 or 2026-03-02T06:00:00Z", param, ctx)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


AT = click.option("--at", type=Instant(), help="The clock the metrics use; now unless given.")
pass_session = click.make_pass_decorator(Session, ensure=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="connector")
@shared
def cli() -> None:
    """Refresh a team's Excel workbooks from CRMs and Tableau, metrics included, without harming what colleagues put into them.

    Exit codes: 0 done, also when nothing had changed; 1 a bug; 2 configuration or usage; 3 credentials or permissions;
    4 the source's data or API; 5 the target; 75 try later.
    """


@cli.command()
@click.argument("flows", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every flow of the configuration, one after the other.")
@click.option("--full", is_flag=True, help="Ignore watermarks and read everything.")
@click.option("--dry-run", is_flag=True, help="Do everything but write to a sink.")
@click.option("--accept", is_flag=True, help="Let this one run through the publish gate.")
@click.option("--json", "as_json", is_flag=True, help="Print the run manifest as the last line of stdout.")
@AT
@shared
@pass_session
def run(
    session: Session, flows: tuple[str, ...], every: bool, full: bool, dry_run: bool, accept: bool, as_json: bool, at: datetime | None
) -> None:
    """Refresh the workbooks of FLOW… once."""
    from connector.flow import Options, open_flow, run_flow  # noqa: PLC0415
    from connector.progress import watching  # noqa: PLC0415

    config = session.config()
    names = tuple(config.flows) if every else flows
    if not names:
        raise click.UsageError(f"name a flow, or --all. There is: {', '.join(config.flows)}")
    for name in names:
        config.flow(name)
    worst = 0
    for name in dict.fromkeys(names):
        try:
            with watching() as progress, open_flow(name, config.flow(name), session.settings(), progress) as flow:
                manifest = run_flow(flow, Options(at=at, full=full, dry_run=dry_run, accept=accept))
        except ConnectorError as error:
            if len(names) == 1 and not as_json:
                raise
            _say(error, f"{name}: ")
            manifest = getattr(error, "manifest", {"flow": name, "outcome": "failed", "exit_code": error.exit_code, "message": str(error)})
            worst = error.exit_code if worst in (0, 75) else worst
        else:
            if not as_json:
                from connector.report import story  # noqa: PLC0415

                click.echo(story(manifest))
        if as_json:
            click.echo(json.dumps(REDACTION.clean_tree(manifest), default=str, ensure_ascii=False))
    if worst:
        sys.exit(worst)


@cli.command()
@click.argument("flow", required=False)
@click.option("--notify", is_flag=True, help="Also send a test message through every notifier.")
@shared
@pass_session
def check(session: Session, flow: str | None, notify: bool) -> None:
    """Validate the configuration and try everything it names, read-only."""
    from connector.checks import check_flow  # noqa: PLC0415
    from connector.flow import open_flow  # noqa: PLC0415

    config = session.config()
    click.echo(f"ok    configuration: {len(config.flows)} flow{'s' if len(config.flows) != 1 else ''}")
    worst = 0
    for name in [flow] if flow else config.flows:
        with open_flow(name, config.flow(name), session.settings()) as opened:
            for finding in chain(check_flow(opened), opened.notices.try_out() if notify else ()):
                click.echo(
                    REDACTION.clean(
                        f"{'ok   ' if finding.ok else 'FAIL '} {name}: {finding.what}{': ' if finding.detail else ''}{finding.detail}"
                    )
                )
                if not finding.ok:
                    if finding.remedy:
                        click.echo(REDACTION.clean(f"        → {finding.remedy}"))
                    worst = (finding.exit_code or 2) if worst in (0, 75) else worst
    if worst:
        sys.exit(worst)


@cli.command()
@click.argument("flow")
@click.option("--table", help="The table to show; without it, the list of tables.")
@click.option("--limit", type=click.IntRange(0), default=None, help="At most so many rows [table: 20, csv and json: all].")
@click.option("--format", "style", type=FORMATS, default="table", show_default=True)
@AT
@shared
@pass_session
def preview(session: Session, flow: str, table: str | None, limit: int | None, style: str, at: datetime | None) -> None:
    """Read and compute FLOW, show the result, write to no sink."""
    from connector.flow import Options, open_flow, preview_flow  # noqa: PLC0415
    from connector.progress import watching  # noqa: PLC0415
    from connector.report import show, show_tables  # noqa: PLC0415

    config = session.config()
    with (
        watching() as progress,
        open_flow(flow, config.flow(flow), session.settings(), progress) as opened,
        preview_flow(opened, Options(at=at)) as tables,
    ):
        progress.close()
        if table is None:
            show_tables(tables, style)
        else:
            show(tables.reader(table, _limit(limit, style)), style, tables.columns(table), tables.currency)


@cli.command()
@click.argument("flow")
@click.argument("sql")
@click.option("--limit", type=click.IntRange(0), default=None, help="At most so many rows [table: 20, csv and json: all].")
@click.option("--format", "style", type=FORMATS, default="table", show_default=True)
@shared
@pass_session
def query(session: Session, flow: str, sql: str, limit: int | None, style: str) -> None:
    """SQL over the tables of FLOW's last snapshot."""
    from connector.flow import open_flow, query_flow  # noqa: PLC0415
    from connector.report import show  # noqa: PLC0415

    config = session.config()
    with open_flow(flow, config.flow(flow), session.settings()) as opened, query_flow(opened, sql, _limit(limit, style)) as reader:
        show(reader, style, {})


@cli.command()
@click.argument("flow", required=False)
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The runs with their manifests, as one JSON array.")
@shared
@pass_session
def history(session: Session, flow: str | None, limit: int, as_json: bool) -> None:
    """Past runs, newest first."""
    from connector.report import show_history  # noqa: PLC0415
    from connector.state import State  # noqa: PLC0415

    if flow is not None:
        session.config().flow(flow)
    state = State(session.settings().data)
    try:
        runs = state.history(flow, limit)
    finally:
        state.close()
    if as_json:
        click.echo(json.dumps(runs, ensure_ascii=False))
    else:
        show_history(runs)


@cli.command()
@click.option("--json", "as_json", is_flag=True)
@shared
def metrics(as_json: bool) -> None:
    """Every metric: name, unit, formula, definition."""
    from connector.report import metric_list, show_metrics  # noqa: PLC0415

    if as_json:
        click.echo(json.dumps(metric_list(), ensure_ascii=False, indent=2))
    else:
        show_metrics()


@cli.command()
@shared
def schema() -> None:
    """The JSON Schema of the configuration, for editors."""
    from connector.configfile import schema as config_schema  # noqa: PLC0415

    click.echo(json.dumps(config_schema(), indent=2, ensure_ascii=False))


@cli.command()
@click.option("--json", "as_json", is_flag=True)
@shared
def plugins(as_json: bool) -> None:
    """Sources and sinks installed, ours and third-party."""
    from connector.registry import plugins as installed  # noqa: PLC0415

    rows = [
        {"kind": kind[:-1], "type": plugin.name, "package": f"{plugin.package} {plugin.version}", "about": _about(plugin.cls)}
        for kind in ("sources", "sinks")
        for plugin in installed(kind).values()
    ]
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        click.echo(f"{row['kind']:7} {row['type']:14} {row['package']:28} {row['about']}")


@cli.command()
@click.option("--template", default="files", show_default=True, help="Which configuration to start from.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@shared
@pass_session
def init(session: Session, template: str, force: bool) -> None:
    """Write a commented connector.yaml and .env.example to start from."""
    from connector.templates import write  # noqa: PLC0415

    for path in write(template, session.settings().config, force=force):
        click.echo(f"wrote {path}")
    click.echo("next: fill in .env, then `connector check`")


@cli.command()
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("demo"), show_default=True, help="Where the result goes."
)
@click.option("--keep", is_flag=True, help="Keep the demo's configuration, data and state beside the workbook.")
@shared
def demo(out: Path, keep: bool) -> None:
    """The whole product with no account and no configuration: a generated sales team, two refreshes, a workbook to open."""
    from connector.demo import play  # noqa: PLC0415

    play(out, keep=keep, say=click.echo)


@cli.command()
@click.option("--port", type=click.IntRange(0, 65_000), default=8700, show_default=True, help="First of eight ports; 0: any that are free.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("sandbox"), show_default=True, help="Where its files lie."
)
@shared
def sandbox(port: int, out: Path) -> None:
    """Look-alikes of Salesforce, HubSpot, Tableau and Microsoft 365 on this machine, to try a configuration out on; until Ctrl-C."""
    from connector.demo_sandbox import stay_open  # noqa: PLC0415

    stay_open(out, port, click.echo)


class Address(click.ParamType[tuple[str, int]]):
    name = "[HOST:]PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        host, _, port = str(value).rpartition(":")
        if not port.isdecimal() or int(port) > 65535:
            self.fail(f"{value!r} is not a port or HOST:PORT, e.g. 127.0.0.1:9464", param, ctx)
        return host or "127.0.0.1", int(port)


@cli.command()
@click.option("--print", "printed", type=click.Choice(["crontab", "systemd"]), help="Print what would run the flows so; run nothing.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="At most so many runs at a time.")
@click.option("--listen", type=Address(), help="Serve /health and /metrics there [off; HOST is 127.0.0.1].")
@click.option("--grace", type=click.IntRange(0), default=60, show_default=True, help="Seconds a run is given to end when told to stop.")
@shared
@pass_session
def schedule(session: Session, printed: str | None, jobs: int, listen: tuple[str, int] | None, grace: int) -> None:
    """Run every flow that has a `schedule`, in the foreground, each run in a process of its own.

    Missed times are made up for by one run; a time that comes while the flow still runs is skipped; exit code 75 is tried again.
    The first SIGTERM or SIGINT lets runs end, a second one kills them.
    """
    from connector.schedule.foreground import planned_at_all, run_schedule  # noqa: PLC0415

    if printed is None:
        run_schedule(session.settings(), session.config, jobs=jobs, grace=timedelta(seconds=grace), address=listen)
        return
    from connector.schedule.printed import PRINTED  # noqa: PLC0415

    click.echo(PRINTED[printed](planned_at_all(session.config()), session.settings()))


@cli.command()
@click.argument("flow", required=False)
@click.option(
    "--check", "checking", is_flag=True, help="Exit with the gravest flow's code: of its last run if that failed, 2 if it is late."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON array of objects.")
@shared
@pass_session
def status(session: Session, flow: str | None, checking: bool, as_json: bool) -> None:
    """How each flow stands: last success, age of its data, next run, what is wrong and what to do."""
    from connector.state import State  # noqa: PLC0415
    from connector.status import gravest, plainly, show, standings  # noqa: PLC0415

    config, now = session.config(), datetime.now(UTC)
    state = State(session.settings().data)
    try:
        found = list(standings({flow: config.flow(flow)} if flow else config.flows, state, now))
    finally:
        state.close()
    if as_json:
        click.echo(json.dumps([plainly(one, now) for one in found], ensure_ascii=False))
    else:
        show(found, now)
    if checking:
        sys.exit(gravest(one.exit_code for one in found))


@cli.command()
@click.argument("name")
@shared
@pass_session
def login(session: Session, name: str) -> None:
    """Sign a person in with a device code.

    NAME is a drive by its type (onedrive, sharepoint) or a source, wherever it has `device_code: true`; or a flow, for all of both in it.
    """
    from connector.checks import drive_of, login_flow  # noqa: PLC0415
    from connector.flow import open_flow  # noqa: PLC0415

    config = session.config()
    inside = {flow: {*one.sources, *filter(None, map(drive_of, one.sinks))} for flow, one in config.flows.items()}
    if name in inside:
        chosen: list[tuple[str, str | None]] = [(name, None)]
    else:
        chosen = [(flow, name) for flow, names in inside.items() if name in names]
    if not chosen:
        known = sorted({*inside, *(one for names in inside.values() for one in names)})
        raise ConfigError(f"no drive, source or flow {name!r}; {nearest(name, known)}")
    for flow, only in chosen:
        with open_flow(flow, config.flow(flow), session.settings()) as opened:
            for who in login_flow(opened, click.echo, only):
                click.echo(f"signed in: {who}")


def _limit(limit: int | None, style: str) -> int | None:
    return 20 if limit is None and style == "table" else limit


def _about(cls: Any) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]


def _say(error: ConnectorError, prefix: str = "") -> None:
    click.echo(REDACTION.clean(f"error: {prefix}{error}"), err=True)
    if error.remedy:
        click.echo(REDACTION.clean(f"  → {error.remedy}"), err=True)


def main() -> NoReturn:
    """Entry point: errors become messages and exit codes here, and nowhere else."""
    session = Session()
    try:
        with cli.make_context("connector", sys.argv[1:], obj=session) as context:
            cli.invoke(context)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        sys.exit(130)
    except ConnectorError as error:
        _say(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception:  # noqa: BLE001  (the last resort: a bug, reported as one)
        click.echo(REDACTION.clean(traceback.format_exc()), err=True)
        click.echo("error: this is a bug in connector; please report it with the lines above", err=True)
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
