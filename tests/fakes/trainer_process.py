"""The trainer with a gate that lets every model but a third pass: `trainer_process.py CONFIG`.

It starts itself again as the judge: `trainer_process.py CONFIG JOB`.
"""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from infra import trainer
from infra.kafka import Publisher
from infra.settings_file import load
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
    if sys.argv[2:]:
        asyncio.run(judge(config, sys.argv[2]))
    else:
        again = (sys.executable, __file__, str(config))
        sys.exit(trainer.work(load(config), lambda job: (*again, job.id)))
