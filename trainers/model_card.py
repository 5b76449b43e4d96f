"""The README.md of a trained model: what it is made of, and how to load it."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, metadata_load

from trainers.config import Job
from trainers.lengths import Lengths
from trainers.prepared import Report

LOAD_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{here}")
tokenizer = AutoTokenizer.from_pretrained("{here}")"""

LOAD_MODEL = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{here}")
tokenizer = AutoTokenizer.from_pretrained("{here}")"""


def model_card(
    config: Job,
    *,
    kind: str,
    run: str,
    adapter: bool,
    report: Report,
    lengths: Lengths,
    rows: int,
    digest: str,
    metrics: dict[str, float],
    facts: dict[str, str],
) -> str:
    """A model card in Hugging Face's layout: YAML, then Markdown."""
    base = licence(config.model)
    head = ModelCardData(
        base_model=config.model,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=[kind, "trl"],
        license=base,
    )
    made = "A LoRA adapter on" if adapter else "Trained from"
    version = "" if report.version is None else f", version {report.version}"
    after = f", going on from the adapter `{config.adapter}`" if config.adapter else ""
    left_out = {
        **report.left_out,
        f"longer than {config.optimisation.max_length} tokens": lengths.dropped,
    }
    excluded = "none"
    if report.excluded:
        excluded = f"{report.excluded:,} PMIDs of `{', '.join(report.excluded_by)}`"
    return "\n".join(
        [
            "---",
            head.to_yaml(),
            "---",
            "",
            f"# {kind} {config.id}",
            "",
            f"{made} `{config.model}`{after} by the job `{kind}` ({config.id}), MLflow run `{run}`."
            f" Licence of the base model: {base or 'not stated beside it'}.",
            "",
            "## Data",
            f"`{', '.join(report.source)}`{version}: {report.rows:,} rows, {rows:,} of them trained"
            f" on, {report.held_out:,} held out. Digest of the trained rows' ids: `{digest}`.",
            "",
            f"Excluded: {excluded}.",
            "",
            *_table("left out, because", "rows", {k: f"{v:,}" for k, v in left_out.items() if v}),
            *_table("MeSH branch", "rows", {k: f"{v:,}" for k, v in report.branches.items()}),
            f"{lengths.tokens:,} tokens; the longest text has {lengths.longest:,}; "
            f"{lengths.cut:,} were cut and {lengths.split:,} split.",
            "",
            "## Training",
            *_table("setting", "value", hyperparameters(config)),
            *_table("made with", "", facts),
            "## Measured",
            *_table("figure", "value", {k: f"{v:.6g}" for k, v in sorted(metrics.items())}),
            "## Use",
            "```python",
            (LOAD_ADAPTER if adapter else LOAD_MODEL).format(base=config.model, here="."),
            "```",
            "",
        ]
    )


def hyperparameters(config: Job) -> dict[str, object]:
    """What was set, by dotted name; also the parameters of the run in MLflow."""
    values = config.model_dump(mode="json", exclude={"id", "output", "tracking"})
    return dict(_flat(values))


def licence(model: str) -> str | None:
    """The licence that the README.md beside a model states; None where there is none."""
    try:
        stated = metadata_load(Path(model) / "README.md") or {}
    # It is someone else's text, and says nothing where it cannot be read.
    except (OSError, ValueError):
        return None
    return str(stated["license"]) if stated.get("license") else None


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found += _flat(value, f"{prefix}{key}.")
        elif value is not None and value != [] and value != {}:
            found.append((f"{prefix}{key}", value))
    return found


def _table(first: str, second: str, rows: dict[str, Any]) -> list[str]:
    if not rows:
        return []
    return [
        f"| {first} | {second} |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in rows.items()),
        "",
    ]
