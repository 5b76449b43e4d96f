"""`kailin dlq replay` killed at random: each message is put back once, each letter settled once."""

import asyncio
import random
import subprocess
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from command_line import command
from consumers.dead_letters import replayed
from engines import KafkaEngine
from fakes import records
from infra.kafka import end_offset
from infra.settings_file import load
from infra.topic_admin import create_topics
from letters import set_aside
from published import messages
from streams.codec import encode
from streams.topics import ARTICLES, CONTEXTS, SETTLED

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

CONTEXTS_SET_ASIDE, ARTICLES_SET_ASIDE, KILLS = 900, 600, 6


def test_each_message_once_whenever_the_replay_is_killed(kafka_broker: KafkaEngine, tmp_path: Path):
    config = tmp_path / "kailin.toml"
    config.write_text(
        f'data = "{tmp_path}/data"\n'
        f'[kafka]\nbootstrap = "{kafka_broker.bootstrap}"\nprefix = "t{uuid.uuid4().hex[:8]}."\n'
    )
    settings = load(config)
    asyncio.run(create_topics(settings))
    some = [(b"%d" % n, encode(records.contexts(n))) for n in range(1, CONTEXTS_SET_ASIDE + 1)]
    others = [(b"%d" % n, encode(records.article(n))) for n in range(1, ARTICLES_SET_ASIDE + 1)]
    asyncio.run(set_aside(settings, CONTEXTS, ["score"], *some))
    asyncio.run(set_aside(settings, ARTICLES, ["generate"], *others))
    dice = random.Random(7)
    replay = command(config, "dlq", "replay", "--yes", "--by", "ana")
    killed = 0
    while killed < KILLS:
        before = asyncio.run(end_offset(settings, SETTLED))
        process = subprocess.Popen(replay, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Once it has begun to settle, at a moment that is random.
        while process.poll() is None and asyncio.run(end_offset(settings, SETTLED)) == before:
            pass
        time.sleep(dice.uniform(0.0, 0.15))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        killed += 1
    done = subprocess.run(replay, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    for topic, raw in ((CONTEXTS, some), (ARTICLES, others)):
        again = Counter(m.key for m in messages(settings, topic) if replayed(m.headers))
        assert again == Counter(key for key, _ in raw)
    settled = Counter(m.key for m in messages(settings, SETTLED))
    assert set(settled.values()) == {1}
    assert len(settled) == CONTEXTS_SET_ASIDE + ARTICLES_SET_ASIDE
    assert killed >= 3, "the replay was too quick to be killed"
