"""Answer models compared by the gate: scripted ones, on questions in PubMedQA's layout."""

import io
import json
import re
from pathlib import Path
from uuid import uuid4

import pytest
from rich.console import Console

from engines import KafkaEngine
from fakes.gate import Models, Say, ScriptedDeploy
from fakes.model_server import ModelServer
from infra.gate_answers import UNTRAINED, fetching, questions, untrained
from infra.gate_run import judge, output_of
from infra.model_registry import ModelRegistry
from infra.settings import Settings, SettingsError
from infra.topic_admin import create_topics
from mlflow_engine import finished_job
from streams.learning import Verdict
from streams.topics import VERDICTS
from trainers.errors import DataError
from trainers.result import read as read_result

DECISIONS = ["yes", "no", "maybe"]


def published(directory: Path, count: int) -> dict[str, Path]:
    """The files of PubMedQA with so many test questions, and others that are none."""
    entries = {
        str(pmid): {
            "QUESTION": f"Is question {pmid} answered?",
            "CONTEXTS": [f"It is {DECISIONS[pmid % 3]}."],
            "final_decision": DECISIONS[pmid % 3],
        }
        for pmid in range(1, count + 11)
    }
    data, test = directory / "ori_pqal.json", directory / "test_ground_truth.json"
    data.write_text(json.dumps(entries))
    test.write_text(json.dumps({str(n): DECISIONS[n % 3] for n in range(1, count + 1)}))
    return {"pubmedqa": data, "pubmedqa_test": test}


def right_for(share: int) -> Say:
    """Right for so many of ten questions, else an answer that cannot be read."""

    def say(prompt: str, seed: int) -> str:
        number = re.search(r"question (\d+)", prompt)
        truth = re.search(r"It is (\w+)", prompt)
        assert number
        assert truth
        return truth[1].capitalize() if int(number[1]) % 10 < share else "It depends."

    return say


@pytest.mark.kafka
async def test_an_answer_model_passes_once_it_is_right_more_often_by_mcnemar(
    tmp_path: Path, mlflow_uri: str, kafka_broker: KafkaEngine
):
    models = Models()
    async with ModelServer(models) as server:
        base = tmp_path / "base"
        base.mkdir()
        (base / "config.json").write_text("{}")
        settings = Settings(
            data=tmp_path / "data",
            mlflow={"uri": mlflow_uri, "experiment": f"qa-{uuid4().hex[:8]}"},
            kafka=kafka_broker.settings.model_copy(update={"prefix": f"qa{uuid4().hex[:8]}."}),
            servers={"local": {"url": server.url}},
            training={"answers_source": f"file://{base}"},
            gate={**published(tmp_path, 60), "resamples": 100},
        )
        await create_topics(settings, [VERDICTS])
        registry = ModelRegistry(settings)
        deploy = ScriptedDeploy(server.url, models, right_for(5))

        async def judged(job: str, champion: int, candidate: int) -> Verdict:
            finished_job(settings, job, base=str(base))
            says = [right_for(champion), right_for(candidate)]
            deploy.will_say_next(*says)
            return await judge(
                settings,
                job,
                "answers",
                registry=registry,
                deploy=deploy,
                console=Console(file=io.StringIO()),
            )

        # Before there is a champion it is compared with the base model that it was made from.
        first = await judged("job1", champion=5, candidate=9)
        assert first.passed, first.reason
        assert (first.champion, first.candidate) == ("answers-v0", "answers-v1")
        assert (first.figures["champion_accuracy"], first.figures["candidate_accuracy"]) == (
            0.5,
            0.9,
        )
        assert [one.pmid for one in first.compared] == list(range(1, 61))
        assert registry.champion("answers").base == f"file://{base}"

        # 6 of 60 more, and none fewer: p = 0.03. The same again is no better.
        second = await judged("job2", champion=9, candidate=10)
        assert second.passed, second.reason
        assert second.champion == "answers-v1"
        third = await judged("job3", champion=10, candidate=10)
        assert not third.passed
        assert registry.champion("answers").name == "answers-v2"
        assert models.say == {}


def test_the_files_must_be_set_and_fit_each_other(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"gate\.pubmedqa and gate\.pubmedqa_test"):
        questions(Settings())
    files = published(tmp_path, 5)
    items, truth = questions(Settings(gate=files))
    assert [item.pmid for item in items] == list(truth) == [1, 2, 3, 4, 5]
    files["pubmedqa_test"].write_text('{"7": "yes", "99": "no"}')
    with pytest.raises(DataError, match="lacks PMID 99"):
        questions(Settings(gate=files))


def test_a_base_model_is_linked_to_and_a_trained_one_downloaded(tmp_path: Path, mlflow_uri: str):
    settings = Settings(
        data=tmp_path / "data", mlflow={"uri": mlflow_uri, "experiment": f"links-{uuid4().hex[:8]}"}
    )
    base = tmp_path / "base"
    (base / "more").mkdir(parents=True)
    (base / "config.json").write_text("{}")
    (base / "more" / "weights").write_text("heavy")
    finished_job(settings, "job1")
    result = read_result(output_of(settings, "job1"))
    registry = ModelRegistry(settings)
    made = registry.register(
        "answers",
        job="job1",
        run=result.run,
        directory=result.model,
        base=f"file://{base}",
        adapter=True,
    )
    fetch = fetching(registry.download)

    plain = fetch(untrained(made), tmp_path / f"answers-v{UNTRAINED}")
    assert (plain / "more" / "weights").read_text() == "heavy"
    assert (plain / "more" / "weights").is_symlink()
    assert (fetch(made, tmp_path / made.name) / "adapter_model.safetensors").exists()
