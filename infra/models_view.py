"""`kailin models list`: the versions of a target, for a person or a script to read."""

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra.model_registry import ModelRegistry, Registered
from streams.learning import Target


def show(registry: ModelRegistry, target: Target, console: Console, *, as_json: bool) -> None:
    """Print the versions, newest first. Raises as the registry does."""
    versions = registry.versions(target)
    champion, candidate = registry.champion(target), registry.candidate(target)
    roles = {one.version: "candidate" for one in [candidate] if one}
    roles |= {one.version: "champion" for one in [champion] if one}
    if as_json:
        for one in versions:
            line = {**{name: getattr(one, name) for name in FIELDS}, "role": roles.get(one.version)}
            text = orjson.dumps(line, option=orjson.OPT_UTC_Z).decode()
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    if not versions:
        console.print(f"no model is registered for {target} yet", highlight=False)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("version", "made (UTC)", "job", "verdict", "why"):
        table.add_column(heading, overflow="fold")
    for one in versions:
        table.add_row(
            Text(f"{one.version} {roles.get(one.version, '')}".strip()),
            f"{one.made:%Y-%m-%d %H:%M}",
            one.job,
            one.verdict or "not judged",
            Text("\n".join(_why(one))),
        )
    console.print(table)


FIELDS = (
    *("name", "target", "version", "job", "run", "base", "adapter", "made"),
    *("verdict", "verdict_reason", "by", "reason", "at", "before", "left"),
)


def _why(one: Registered) -> list[str]:
    lines = [one.verdict_reason] if one.verdict_reason else []
    if one.at and one.reason != one.verdict_reason:
        lines.append(f"champion on {one.at:%Y-%m-%d %H:%M} by {one.by}: {one.reason}")
    if one.left:
        lines.append(f"rolled back by {one.left}")
    return lines
