"""The dashboards there are, and the files that they are written to."""

from collections.abc import Mapping
from pathlib import Path

from dashboards.board import as_json
from dashboards.ingestion import ingestion
from dashboards.models import models
from dashboards.overview import overview
from dashboards.quality import quality
from dashboards.runtime import runtime
from dashboards.training import training

FOLDER = Path(__file__).parent
BOARDS = (overview, ingestion, models, quality, training, runtime)


def files() -> Mapping[Path, str]:
    """Each dashboard's file, and what it should hold."""
    return {FOLDER / f"{made.__name__}.json": as_json(made()) for made in BOARDS}
