"""A job that trains nothing: it makes its steps, a checkpoint after each, and leaves a result.

Started as Python is: `training_job.py -m trainers.dpo --config FILE`. What it does is appended to
`work.log` beside its output: "begin", each "step", and what must never be, "again" or "clash".
`behave` there, where it is, has one word: fail, or hang.
"""

import fcntl
import json
import os
import sys
import time
from pathlib import Path

from trainers.result import Result, read, write_json

STEPS = 6
PACE = 0.25


def main(config: Path) -> int:
    settings = json.loads(config.read_text())
    output = Path(settings["output"])
    output.mkdir(parents=True, exist_ok=True)
    say(output, "begin")
    if read(output):
        say(output, "again")
    busy = os.open(output / "busy", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(busy, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(output, "clash")
        return 1
    if told(output) == "fail":
        print("starting\nno luck with this one", file=sys.stderr)
        return 1
    checkpoint = output / "checkpoint"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    while done < STEPS or told(output) == "hang":
        time.sleep(PACE)
        say(output, f"step {done}")
        done += 1
        unfinished = output / "checkpoint.unfinished"
        unfinished.write_text(str(done))
        unfinished.replace(checkpoint)
        write_json(output / "progress.json", {"step": done, "steps": STEPS, "loss": 0.5})
    (output / "model").mkdir(exist_ok=True)
    data = settings["data"]
    Result(
        job=settings["id"],
        kind="dpo",
        run=f"run-{settings['id']}",
        model=output / "model",
        adapter=True,
        base=settings["model"],
        table=data["table"],
        table_version=data["version"],
        rows=10,
        digest="00",
        metrics={"loss": 0.5},
    ).write(output)
    return 0


def told(output: Path) -> str:
    behave = output.parent / "behave"
    return behave.read_text() if behave.exists() else ""


def say(output: Path, word: str) -> None:
    with (output.parent / "work.log").open("a") as file:
        file.write(word + "\n")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[sys.argv.index("--config") + 1])))
