"""Configurations to start from, shipped with the package."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from connector.errors import ConfigError, nearest


def shipped(name: str) -> Traversable:
    """A file of `config/`: in the wheel beside this module, in a checkout two folders up."""
    packed = files("connector").joinpath("_config")
    return (packed if packed.is_dir() else Path(__file__).parents[1] / "config").joinpath(name)


def templates() -> dict[str, Traversable]:
    """Template name → YAML file: the example, and `config/templates/`."""
    folder = shipped("templates")
    others = {
        Path(entry.name).stem: entry for entry in sorted(folder.iterdir(), key=lambda entry: entry.name) if entry.name.endswith(".yaml")
    }
    return {"files": shipped("connector.example.yaml")} | others


def write(name: str, target: Path, *, force: bool = False) -> list[Path]:
    """Write a template as `target`, and `.env.example` beside it. Raises ConfigError rather than replace a file."""
    known = templates()
    if name not in known:
        raise ConfigError(f"no template {name!r}; {nearest(name, known)}")
    contents = {target: known[name], target.with_name(".env.example"): shipped("env.example")}
    there = [path for path in contents if path.exists()]
    if there and not force:
        raise ConfigError(f"{there[0]} is already there", remedy="name another file with --config, or replace it with --force")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for path, text in contents.items():
            path.write_text(text.read_text("utf-8"), "utf-8")
    except OSError as error:
        raise ConfigError(f"{target.parent}: cannot be written: {error.strerror}") from error
    return list(contents)
