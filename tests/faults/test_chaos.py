"""Faults of every kind while records flow, and then every record is accounted for.

    FAULTS_SEED=7 .venv/bin/pytest tests/faults/test_chaos.py      # another schedule

`make soak` is the long one.
"""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines import unavailable
from faults.chaos import DECK, TARGETS, schedule
from faults.fates import Fates, Found, judge, poisoning
from faults.run import Chaos
from faults.world import running_world
from infra.artifacts import ArtifactError

SEED = int(os.environ.get("FAULTS_SEED", "20263362"))
RECORDS, FAULTS, FILES = 300, 12, 5


def test_a_schedule_follows_from_its_seed_and_has_every_kind():
    faults = schedule(SEED, 120)
    assert faults == schedule(SEED, 120)
    assert faults != schedule(SEED + 1, 120)
    assert faults[:12] == schedule(SEED, 12)
    assert Counter(fault.kind for fault in faults) == {k: 10 * often for k, often in DECK.items()}
    assert {(f.kind, f.target) for f in faults} == {(k, t) for k, ts in TARGETS.items() for t in ts}
    assert {f.kind for f in schedule(SEED, 24, without=("full", "step"))} == DECK.keys() - {
        "full",
        "step",
    }


def test_the_account_names_what_is_lost_doubled_or_in_the_wrong_place():
    fates = Fates(1, 200, 2)
    letters = Counter((g.key, stage, g.reason) for g in fates.garbage for stage in g.stages)
    letters.update((n, "generate", "model refused") for n in fates.all("dead letter"))
    rows: dict[int, list[tuple[str, str, str | None]]] = {}
    for number, fate in fates.of.items():
        table = {"parked": "parked", "appended": "preferences", "late": "ideal"}.get(
            fate, "dropped"
        )
        mark = "deleted" if fate == "tombstone" else None
        if fate not in ("dead letter", "silent"):
            rows[number] = [(table, f"{number:032x}", mark)]
    indexed = fates.of.keys() - fates.all("tombstone")
    assert judge(fates, Found(rows, letters, indexed)).wrong == []

    def wrong(**changes: Any) -> list[str]:
        return judge(fates, replace(Found(rows, letters, indexed), **changes)).wrong

    number, parked, refused = (min(fates.all(f)) for f in ("appended", "parked", "dead letter"))
    row = rows[number][0]
    again = ("dropped", "f" * 32, None)
    for damage, problems in (
        ({number: []}, 1),  # lost
        ({number: [row, again]}, 1),  # twice, under two ids
        ({number: [row, row]}, 2),  # twice, under one
        ({number: [(*row[:2], "deleted")]}, 1),  # marked and never deleted
        ({number: [row, ("parked", *row[1:])]}, 1),  # scored and still parked
        ({parked: [again]}, 1),  # scored without MeSH
        ({refused: [again]}, 1),  # refused, and there is a row
        ({999: [again]}, 1),  # from nowhere
    ):
        assert len(wrong(rows=rows | damage)) == problems, damage
    # A row parked twice is taken out twice, and one letter may be written again.
    assert wrong(rows=rows | {parked: rows[parked] * 2}, letters=letters + letters) == []
    assert len(wrong(letters=letters - Counter([(refused, "generate", "model refused")]))) == 1
    assert len(wrong(letters=letters + Counter([(number, "score", "field")]))) == 1
    assert len(wrong(indexed=indexed - {number})) == 1


@pytest.mark.kafka
@pytest.mark.elasticsearch
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_record_is_lost_or_doubled_by_faults_of_every_kind(tmp_path: Path):
    fates = Fates(SEED, RECORDS, FILES)
    try:
        with running_world(tmp_path, poisoning) as world:
            chaos = Chaos(world, fates, schedule(SEED, FAULTS, without=world.without))
            chaos.run()
            assert chaos.account.wrong == [], chaos.story()
    except ArtifactError as error:
        unavailable(str(error))
    print(chaos.story())
