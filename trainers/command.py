"""What `python -m trainers.JOB --config FILE` has in common, whichever the job."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from streams.log_lines import formatter
from trainers.config import ConfigError, Job, check_paths, read, show
from trainers.errors import DataError, JobError

C = TypeVar("C", bound=Job)

DONE, FAILED, WRONG = 0, 1, 2


def command(config: type[C], job: Callable[[C], object], about: str) -> int:
    """Read, check and print the configuration, then run the job.

    Returns 0 when it is done, 1 when it failed, and 2 where the configuration is wrong or there
    is too little data; the reason is the last line of standard error. `about` describes the job.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="TOML or JSON")
    options = parser.parse_args()
    try:
        settings = read(config, options.config)
        check_paths(settings, options.config)
    except ConfigError as error:
        return _say(str(error), WRONG)
    show(settings)
    sys.stdout.flush()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter("auto", parser.prog.removesuffix(".py")))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # OpenMP's threads else spin while they wait, and starve whatever runs beside the job.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        job(settings)
    except DataError as error:
        return _say(str(error), WRONG)
    except (JobError, MemoryError) as error:
        return _say(str(error) or "out of memory", FAILED)
    except KeyboardInterrupt:
        return _say("interrupted; started again, the job goes on from its last checkpoint", 130)
    return DONE


def _say(line: str, status: int) -> int:
    sys.stderr.write(line + "\n")
    return status
