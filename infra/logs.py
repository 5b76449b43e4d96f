"""Log lines of a process: to stderr, each with its time, and none of them a hundred times."""

import logging
import sys
import time
from collections.abc import Callable

# Loggers that say the same thing over and over while a broker or a server is away.
NOISY = (
    "aiokafka",
    "consumers.agent",
    "elastic_transport",
    "faust",
    "infra.embedding",
    "infra.openai_generate",
    "mode",
)


def configure() -> None:
    """Log to stderr from level INFO; client libraries from WARNING, and not more than needed."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(OncePer(60.0))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for ours in ("consumers", "infra"):
        logging.getLogger(ours).setLevel(logging.INFO)


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
            record.msg = f"{record.getMessage()} (and {left_out} more like it before)"
            record.args = ()
        return True
