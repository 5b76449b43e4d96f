"""The trainer with a gate that lets every model but a third pass.

    trainer_process.py CONFIG [--once]

It starts itself again as the judge: `trainer_process.py CONFIG JOB`. That finds all away while the
job is told so, as `fakes.training_job` is told what to do.
"""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from infra import trainer
from infra.job_process import AWAY
from infra.kafka import Publisher
from infra.settings_file import load
from infra.train_config import directory
from streams.learning import Verdict
from streams.topics import VERDICTS


def passes(job: str) -> bool:
    return int(job, 16) % 3 != 0


async def judge(config: Path, job: str) -> None:
    verdict = Verdict(
        job=job,
        target="theta3",
        champion="theta1",
        candidate=f"theta3-{job}",
        passed=passes(job),
        reason="as scripted",
        figures={"win_rate": 0.6, "win_rate_lower": 0.55, "win_rate_upper": 0.65},
        compared=(),
        at=datetime.now(UTC),
    )
    async with Publisher(load(config)) as publisher:
        await publisher.send(VERDICTS, verdict)


if __name__ == "__main__":
    config = Path(sys.argv[1])
    if sys.argv[2:] and sys.argv[2] != "--once":
        behave = directory(load(config), sys.argv[2]) / "behave"
        if behave.exists() and behave.read_text() == "away":
            print("MLflow is away", file=sys.stderr)
            sys.exit(AWAY)
        asyncio.run(judge(config, sys.argv[2]))
    else:
        again = (sys.executable, __file__, str(config))
        once = "--once" in sys.argv
        sys.exit(trainer.work(load(config), lambda job: (*again, job.id), once=once))
