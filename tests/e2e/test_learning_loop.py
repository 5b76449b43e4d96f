"""The learning loop on everything real: rows, DPO, the gate, a deployment, ideal rows."""

from pathlib import Path

import pytest
from deltalake import DeltaTable

from command_line import kailin
from engines import processes_using, write_config

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.elasticsearch,
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
]

# A few rows and two steps: what is shown is that each part sets off the next.
LOOP = """
[training]
rows = 4
least_rows = 2
look_every = 2.0
held_out = 0.4

[dpo.optimisation]
learning_rate = 5e-5
steps = 2
batch = 1
accumulation = 2
max_length = 512
save_every = 1
log_every = 1

[gate]
records = 4
least_records = 2

[ideal]
floor = 0.0

[[answerers]]
name = "stand-in"
server = "local"
model = "stand-in"

[deploy]
mode = "replace"
drain = 1.0
look_every = 1.0
"""


def test_new_rows_train_a_model_that_serves_and_writes_ideal_rows(tmp_path: Path):
    config = write_config(tmp_path)
    text = config.read_text()
    config.write_text(text.replace("[deploy]\n", LOOP, 1))
    out = kailin(config, "demo-loop", "--corpus", "60", "--new", "20", "--ideal", "2")

    steps = (
        "4 preference rows",
        "the DPO job began",
        "the candidate is trained",
        "the gate has decided",
        "the new model serves",
        "2 ideal rows",
    )
    places = [out.index(step) for step in steps]
    assert places == sorted(places)
    assert "serves: theta3-v1" in out

    ideal = DeltaTable(tmp_path / "data" / "tables" / "ideal").to_pyarrow_table().to_pylist()
    assert len(ideal) >= 2
    assert len({row["id"] for row in ideal}) == len(ideal)
    assert {(row["model"], row["revision"]) for row in ideal} == {("theta3-v1", "1")}
    assert all(row["question"] and row["context"] for row in ideal)
    assert all(row["answer"] or row["answer_rejected"] for row in ideal)
    assert {row["answer_model"] for row in ideal} == {"stand-in"}
    assert not processes_using(tmp_path / "data")
