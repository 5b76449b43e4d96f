"""The log of a process: to stderr, each line with its time, and none of them a hundred times."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from pydantic import BaseModel, SecretStr

from infra.settings import Settings
from streams.log_lines import formatter

# Loggers that say the same thing over and over while a broker or a server is away.
NOISY = (
    "aiokafka",
    "consumers.agent",
    "elastic_transport",
    "faust",
    "infra.embedding",
    "infra.openai_generate",
    "mode",
    "opentelemetry",
)

log = logging.getLogger(__name__)


def configure(settings: Settings, stage: str) -> None:
    """Log to stderr as `settings.log` says; client libraries from WARNING, not more than needed.

    `stage` is what the lines name this process by.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(settings.log.format, stage, set(secrets_of(settings))))
    handler.addFilter(OncePer(60.0))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for ours in ("consumers", "infra", "streams", "trainers"):
        logging.getLogger(ours).setLevel(settings.log.level)
    sys.excepthook = _uncaught
    threading.excepthook = lambda of: _uncaught(
        of.exc_type, of.exc_value or of.exc_type(), of.exc_traceback
    )


def secrets_of(section: BaseModel) -> Iterator[str]:
    """Every secret of the settings that is set."""
    for _, value in section:
        yield from _secrets_in(value)


def _secrets_in(value: object) -> Iterator[str]:
    if isinstance(value, SecretStr):
        if secret := value.get_secret_value():
            yield secret
    elif isinstance(value, BaseModel):
        yield from secrets_of(value)
    elif isinstance(value, dict | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _secrets_in(part)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A fault that ends a thread or the process is a line like any other."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    log.critical(
        "%s ended by a fault of its own",
        threading.current_thread().name,
        exc_info=(kind, error, trace),
    )


class OncePer(logging.Filter):
    """Of the lines that a noisy logger writes from one place, lets one pass per `seconds`.

    The next one that passes says how many were left out.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.seconds = seconds
        self._clock = clock
        self._passed: dict[tuple[str, int, int], float] = {}
        self._left_out: dict[tuple[str, int, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR and record.name.startswith("consumers"):
            return True
        if not record.name.startswith(NOISY):
            return True
        place = (record.pathname, record.lineno, record.levelno)
        now = self._clock()
        if now - self._passed.get(place, -self.seconds) < self.seconds:
            self._left_out[place] = self._left_out.get(place, 0) + 1
            return False
        self._passed[place] = now
        if left_out := self._left_out.pop(place, 0):
            record.msg = f"{record.msg} (and {left_out} more like it before)"
        return True
