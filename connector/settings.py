"""Process settings: what the environment says about this process, not about a flow."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """`CONNECTOR_*` environment variables; options on the command line win over them."""

    model_config = SettingsConfigDict(env_prefix="CONNECTOR_", frozen=True, extra="ignore", hide_input_in_errors=True)

    config: Path = Field(Path("connector.yaml"), description="YAML file, or a folder whose *.yaml files are merged.")
    data: Path = Field(Path("data"), description="Folder for state and snapshots.")
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    memory: str = Field(
        "1GB", pattern=r"^\d+(\.\d+)?(MB|GB|MiB|GiB)$", description="Memory the SQL engine may use before it spills to disk."
    )
    threads: int | None = Field(None, ge=1, description="Threads of the SQL engine; every core unless given.")
