"""`kailin dlq` as an operator uses it."""

import asyncio
import json
import subprocess
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner

from command_line import command
from engines import KafkaEngine
from fakes import records
from infra.cli import app
from infra.settings_file import load
from infra.topic_admin import create_topics
from letters import set_aside
from streams.citation import AbstractSection
from streams.codec import encode
from streams.topics import ARTICLES, CONTEXTS

pytestmark = pytest.mark.kafka


@pytest.fixture
def config(kafka_broker: KafkaEngine, tmp_path: Path) -> Path:
    path = tmp_path / "kailin.toml"
    path.write_text(
        f'data = "{tmp_path}/data"\n'
        f'[kafka]\nbootstrap = "{kafka_broker.bootstrap}"\nprefix = "{uuid.uuid4().hex[:6]}."\n'
    )
    asyncio.run(create_topics(load(path)))
    return path


def dlq(config: Path, *arguments: str, code: int = 0) -> str:
    """What the command printed; it must have ended with this exit code."""
    done = CliRunner().invoke(
        app, ["--config", str(config), "dlq", *arguments], env={"COLUMNS": "160"}
    )
    assert done.exit_code == code, done.output
    return done.output


def test_from_the_list_to_settled(config: Path):
    settings = load(config)
    long = records.article(7, sections=(AbstractSection(text="long " * 300),))
    raw = [(b"%d" % pmid, encode(records.contexts(pmid))) for pmid in range(1, 61)]
    asyncio.run(set_aside(settings, CONTEXTS, ["score"], *raw, reason="field"))
    asyncio.run(set_aside(settings, ARTICLES, ["generate"], (b"7", encode(long))))
    topic = f"{settings.kafka.prefix}pubmed.articles"

    shown = dlq(config, "list", "--limit", "3").splitlines()
    assert shown[1].split()[:3] == ["score", "field", "60"]
    assert shown[2].split()[:4] == ["generate", "model", "refused", "1"]
    assert f"{topic}/" in shown[5]
    assert "model refused: as a test has it" in shown[5]
    assert shown[-1] == "… and 58 older ones (--limit)"

    lines = dlq(config, "list", "--stage", "generate", "--json").splitlines()
    (told,) = map(json.loads, lines)
    assert (told["key"], told["reason"], told["settled"]) == ("7", "model refused", None)
    message = f"{topic}/{told['partition']}/{told['offset']}"
    whole = dlq(config, "show", message)
    assert '"pmid": 7' in whole
    assert "Invalid: model refused: as a test has it" in whole
    assert "characters, --full" in whole
    assert "characters, --full" not in dlq(config, "show", message, "--full")

    many = dlq(config, "replay", "--stage", "score", code=2)
    assert "60 letters: narrow it down, look (--dry-run), or say --yes" in many
    dry = dlq(config, "replay", "--stage", "score", "--dry-run")
    assert "60 would be put back" in dry
    assert "60 put back" in dlq(config, "replay", "--stage", "score", "--yes")
    assert "1 would be dropped" in dlq(config, "drop", "--why", "x", "--dry-run")
    assert "1 dropped" in dlq(config, "drop", message, "--why", "a test", "--by", "ana")
    assert dlq(config, "list").strip() == "no dead letters"
    settled = dlq(config, "list", "--all", "--stage", "generate")
    assert "dropped by ana at 20" in settled
    assert "a test" in settled


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["drop"], "--why"),
        (["drop", "--why", " "], "--why: expected why, in a few words"),
        (["replay", "pubmed.articles"], "expected topic/partition/offset"),
        (["list", "--since", "yesterday"], "--since"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], said: str):
    shown = CliRunner().invoke(app, ["dlq", *arguments])
    assert shown.exit_code == 2
    assert said in shown.output


def test_a_broker_that_is_away_is_one_line(tmp_path: Path):
    path = tmp_path / "kailin.toml"
    path.write_text('[kafka]\nbootstrap = "127.0.0.1:1"\n')
    done = subprocess.run(command(path, "dlq", "list"), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("kafka.bootstrap = '127.0.0.1:1': no Kafka broker")
    assert done.stderr.count("\n") == 1
