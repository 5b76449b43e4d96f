"""What an answer model makes of PubMedQA's test questions, for the gate."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from infra.deploy import Address, Fetch
from infra.eval_pubmedqa import predict
from infra.gate_questions import asked_at
from infra.model_registry import Registered
from infra.models import model_directory
from infra.predictions import Asking
from infra.settings import Settings, SettingsError
from streams.records import Decision
from trainers.pubmedqa import Item, outcomes, read_test

# The version of the base model, which is in no registry.
UNTRAINED = "0"


def questions(settings: Settings) -> tuple[list[Item], dict[int, Decision]]:
    """PubMedQA's test questions and their decisions. Raises `SettingsError` and `DataError`."""
    data, test = settings.gate.pubmedqa, settings.gate.pubmedqa_test
    if data is None or test is None:
        raise SettingsError(
            "gate.pubmedqa and gate.pubmedqa_test: expected PubMedQA's ori_pqal.json and "
            "test_ground_truth.json, on which answer models are compared"
        )
    return read_test(data, test)


async def ask(
    settings: Settings,
    address: Address,
    items: Sequence[Item],
    truth: Mapping[int, Decision],
    told: Callable[[], None],
) -> dict[int, bool]:
    """Whether the model at an address answers each question right, by PMID.

    An answer that cannot be read is wrong. Raises `Transient` where its server stays away.
    """
    asking = Asking(model=address.model, setting="reasoning-required")
    async with asked_at(settings, address) as generate:
        answers = await predict(items, generate, asking, told=lambda *_: told())
    return outcomes(truth, {pmid: answer.decision for pmid, answer in answers.items()})


def untrained(registered: Registered) -> Registered:
    """The base model of a version, to be served as if it were one."""
    return Registered(
        target=registered.target,
        version=UNTRAINED,
        job="",
        run="",
        base=registered.base,
        adapter=False,
        made=datetime.now(UTC),
    )


def fetching(download: Fetch) -> Fetch:
    """`download`, but for a base model: its directory is linked to, file by file."""

    def fetch(registered: Registered, into: Path) -> Path:
        if registered.version != UNTRAINED:
            return download(registered, into)
        shutil.copytree(model_directory(registered.base), into, copy_function=os.symlink)
        return into

    return fetch
