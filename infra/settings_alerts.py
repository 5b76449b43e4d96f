"""The settings of alerts: which Alertmanager sends them, and where to."""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from infra.settings_section import Port, Secret


class Alerts(Secret):
    """`url` empty: an Alertmanager is started on `port` where its binary is found on PATH.

    That one works by `config`, a file in Alertmanager's own format, or without one tells `webhook`.
    `heartbeat` is asked every few minutes for as long as alerts can be sent.
    """

    url: str = Field("", pattern=r"^(https?://[^\s?#]+)?$")
    port: Port = 29094
    config: Path | None = None
    webhook: SecretStr = SecretStr("")
    webhook_file: Path | None = None
    heartbeat: SecretStr = SecretStr("")
    heartbeat_file: Path | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        told = self.webhook.get_secret_value() or self.heartbeat.get_secret_value()
        if told and (self.url or self.config):
            other = "url" if self.url else "config"
            raise ValueError(
                f"{other} is given, so webhook and heartbeat are not used: name receivers there"
            )
        if self.url and self.config:
            raise ValueError("config is for the Alertmanager that is started where url is empty")
        return self
