"""What an answer model makes of PubMedQA's test questions, for the gate."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from infra.deploy import Address, Fetch
from infra.eval_pubmedqa import predict
from infra.model_registry import Registered
from infra.models import model_directory
from infra.openai_generate import OpenAIGenerate
from infra.predictions import Asking
from infra.settings import Settings, SettingsError
from streams.metrics import Metrics
from streams.records import Decision
from trainers.errors import DataError
from trainers.pubmedqa import Item, outcomes, read, read_decisions

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
    truth = read_decisions(test)
    found = {item.pmid: item for item in read(data) if item.pmid in truth}
    if missing := truth.keys() - found.keys():
        raise DataError(f"{data}: lacks PMID {min(missing)} of {test}; expected ori_pqal.json")
    return [found[pmid] for pmid in truth], truth


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
    server = settings.servers[address.server]
    if address.url:
        server = server.model_copy(update={"url": address.url})
    generate = OpenAIGenerate(server, Metrics(CollectorRegistry()))
    asking = Asking(model=address.model, setting="reasoning-required")
    try:
        answers = await predict(items, generate, asking, told=lambda *_: told())
    finally:
        await generate.close()
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
