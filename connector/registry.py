"""Sources and sinks are entry points; ours register the same way as anybody's."""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal

from connector.errors import ConfigError

Kind = Literal["sources", "sinks"]


@dataclass(frozen=True, slots=True)
class Plugin:
    """One installed source or sink: its `type:` name, its class and the package it came from."""

    name: str
    cls: Any
    package: str
    version: str


@cache
def plugins(kind: Kind) -> dict[str, Plugin]:
    """Every installed plugin of a kind, by the name used for `type:` in YAML.

    Raises ConfigError when two packages claim one name or a plugin cannot be imported.
    """
    found: dict[str, Plugin] = {}
    for point in sorted(entry_points(group=f"connector.{kind}"), key=lambda point: point.name):
        package = point.dist.name if point.dist else "?"
        version = point.dist.version if point.dist else "?"
        if point.name in found:
            raise ConfigError(
                f"{kind[:-1]} {point.name!r} comes from both {found[point.name].package} and {package}",
                remedy="uninstall one of the two packages",
            )
        try:
            cls = point.load()
        except Exception as error:  # a stranger's package may fail in any way at import
            raise ConfigError(
                f"{kind[:-1]} {point.name!r} of package {package} cannot be loaded: {type(error).__name__}: {error}",
                remedy=f"reinstall or uninstall {package}",
            ) from error
        found[point.name] = Plugin(point.name, cls, package, version)
    return found
