"""Where workbooks live. A drive is a configuration tagged by `type`, and a class that fetches and stores one file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from connector.api import Drive
from connector.http import Session
from sinks.drives.graph import GraphDrive
from sinks.drives.graph_config import OneDriveConfig, SharePointConfig
from sinks.drives.local import LocalConfig, LocalDrive

DriveConfig = Annotated[
    LocalConfig | OneDriveConfig | SharePointConfig, Field(discriminator="type", description="Where the workbook lives.")
]


def open_drive(config: LocalConfig | OneDriveConfig | SharePointConfig, path: str, session: Session) -> Drive:
    """The drive for one file. `session` is for drives behind HTTP."""
    return LocalDrive(config, path) if isinstance(config, LocalConfig) else GraphDrive(config, path, session)
