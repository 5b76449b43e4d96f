"""The settings of the learning loop: ideal records, jobs, the gate, and how models are deployed."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from infra.settings_section import Positive, Sampling, Seconds, Secret, Section, Share
from streams.prompts import ANSWER_PROMPTS
from trainers.config import Adapter, Lora, Optimisation, Selection

Money = Annotated[float, Field(ge=0)]


class Theta3(Sampling):
    """How θ3 is asked, once a model serves as it. `origin` is the generator that it is made of."""

    origin: str = "theta1"


class Ideal(Section):
    """Records that θ3 asks about: all but `preference_share`, which θ1 and θ2 still do.

    An alignment below `floor` makes no ideal record.
    """

    preference_share: Share = 0.2
    floor: Share = 0.2


class Backlog(Section):
    """Records that came before θ3 served, replayed once for it.

    It waits while more than `lag` live messages wait for the generate stage.
    """

    window: Positive = 4
    lag: Annotated[int, Field(ge=0)] = 0
    per_second: Seconds | None = None


class Answerer(Section):
    """One static model θS: it answers a share of the questions, by a hash of the record's id.

    `server` is one of [servers.NAME]. Prices are for a million tokens, in any one currency.
    """

    name: str
    server: str
    model: str
    revision: str = "base"
    prompt: str = "answer/1"
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Positive = 16
    attempts: Positive = 3
    share: Annotated[float, Field(gt=0)] = 1.0
    prompt_price: Money = 0.0
    completion_price: Money = 0.0

    @field_validator("prompt")
    @classmethod
    def _known(cls, prompt: str) -> str:
        if prompt not in ANSWER_PROMPTS:
            raise ValueError(f"expected one of {', '.join(ANSWER_PROMPTS)}")
        return prompt


class Spending(Section):
    """Bounds on what the answerers cost in a month (UTC); without one there is no limit."""

    money: Money | None = None
    tokens: Positive | None = None


class Mlflow(Secret):
    """Where runs and models are kept. `uri` empty: SQLite and files under `data`."""

    uri: str = ""
    experiment: str = "kailin"
    token: SecretStr = SecretStr("")
    token_file: Path | None = None
    username: str = ""
    password: SecretStr = SecretStr("")
    password_file: Path | None = None


class Training(Section):
    """When jobs are due and what they may take. Without `enabled` none starts by itself.

    A job is due once `rows` new rows stand in its table since the data that the last job for its
    target was trained on, or `age_days` after that job where there are `least_rows`. Failed jobs
    are tried again after a pause that doubles, `attempts` times.
    """

    enabled: bool = True
    targets: tuple[Literal["theta3", "answers"], ...] = ("theta3",)
    rows: Positive = 10_000
    least_rows: Positive = 1000
    age_days: Annotated[float, Field(gt=0)] = 30.0
    look_every: Seconds = 60.0
    attempts: Positive = 3
    retry_first: Seconds = 300.0
    retry_longest: Seconds = 21_600.0
    longest_hours: Annotated[float, Field(gt=0)] = 24.0
    memory_gb: Annotated[float, Field(gt=0)] = 64.0
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    # PMIDs that are never trained on: PubMedQA's and BioASQ's JSON, or a PMID on each line.
    excluded: tuple[Path, ...] = ()
    # The base model that the answer model is trained from, as a [servers.NAME] source.
    answers_source: str = ""
    launcher: tuple[str, ...] = ()


class Gate(Section):
    """What a candidate must show on `records` held-out records before it serves.

    `bound`: the lower end of the win rate's confidence interval must be above it.
    """

    # A verdict, with every comparison in it, must go into one message.
    records: Annotated[int, Field(ge=1, le=10_000)] = 500
    least_records: Positive = 50
    bound: Share = 0.5
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: Positive = 10_000
    rejection_tolerance: Share = 0.0
    # The published PQA-L file, and its test split, on which answer models are compared.
    pubmedqa: Path | None = None
    pubmedqa_test: Path | None = None


class Deploy(Section):
    """How a model that passed is put in place. `auto`: adapter on CUDA, replace on a CPU.

    `adapter` loads it into the server of θ3's origin; `replace` starts a server of its own on one
    of `ports` and lets the old one go once nothing has asked it for `drain` seconds.
    """

    mode: Literal["auto", "adapter", "replace"] = "auto"
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = Field((28011, 28012), min_length=2)
    gate_port: Annotated[int, Field(ge=1, le=65535)] = 28013
    drain: Seconds = 10.0
    drain_longest: Seconds = 600.0
    ready_within: Seconds = 900.0
    look_every: Seconds = 5.0


def _optimisation(**values: float) -> Optimisation:
    return Optimisation.model_validate(values)


class Dpo(Section):
    """The job dpo: how rows are chosen, and how it trains. `beta` is that of the DPO loss."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    selection: Selection = Selection()
    optimisation: Optimisation = _optimisation(learning_rate=5e-6)
    lora: Adapter = Lora()


class Cpt(Section):
    """The job cpt."""

    optimisation: Optimisation = _optimisation(learning_rate=1e-5)
    lora: Adapter = Lora()


class SftAnswers(Section):
    """The job sft-answers."""

    optimisation: Optimisation = _optimisation(learning_rate=1e-5)
    lora: Adapter = Lora()
