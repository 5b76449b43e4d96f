"""A seeded schedule of faults, done one after the other to a running world, each with its proof.

    for fault in schedule(seed, 12, without=()):
        print(fault)

What is drawn depends on the seed alone: kind, target, how long it lasts and when it comes after the
one before. The moment is one at which the target runs.
"""

import random
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle

import psutil

from faults.service import sample
from faults.world import STAGES, World

# The kinds, each as often as it is in a deck.
DECK = {"kill": 4, "stop": 3, "cut": 1, "stall": 1, "slow": 1, "full": 1, "step": 1}
PROCESSES = (*STAGES, "ingest", "kafka", "elasticsearch", "supervisor")
WAYS = ("kafka", "elasticsearch", "models")
TARGETS = {
    "kill": PROCESSES,
    "stop": PROCESSES,
    "cut": WAYS,
    "stall": WAYS,
    "slow": WAYS,
    "full": ("tables",),
    "step": ("clock",),
}
# Seconds that a fault lasts. A process is also stopped for longer than its group waits for it.
LASTS = {
    "kill": (0.0, 2.0),
    "stop": (0.5, 15.0),
    "cut": (1.0, 8.0),
    "stall": (2.0, 12.0),
    "slow": (3.0, 10.0),
    "full": (3.0, 8.0),
    "step": (5.0, 20.0),
}
# Seconds by which the clock is wrong, and by which each chunk is late.
STEPS = (-86_400.0, -3600.0, -90.0, 90.0, 1800.0, 7200.0)
DELAYS = (0.02, 0.05, 0.1)
# How long records are waited for, so that there is work to be disturbed, in seconds.
BUSY_WITHIN = 10.0
# How long a target that is down may take to come back, and a fault to be felt, in seconds.
BACK_WITHIN = 180.0
FELT_WITHIN = 45.0


@dataclass(frozen=True, slots=True)
class Fault:
    """`after` is the pause before it, in seconds; `size` that of a step or delay, else 0."""

    number: int
    kind: str
    target: str
    after: float
    lasts: float
    size: float = 0.0

    def __str__(self) -> str:
        size = f" by {self.size:g} s" if self.size else ""
        return f"{self.number:3} {self.kind} {self.target}{size}, {self.lasts:.1f} s"


class NotFelt(AssertionError):
    """A fault was done and nothing shows that anything came of it."""


def schedule(seed: int, count: int, *, without: Collection[str] = ()) -> list[Fault]:
    """`count` faults, none of the kinds `without`; each target of a kind comes before any again."""
    dice = random.Random(seed)
    kinds = _dealt(dice, [kind for kind, often in DECK.items() for _ in range(often)])
    targets = {kind: _dealt(dice, TARGETS[kind]) for kind in DECK}
    faults: list[Fault] = []
    while len(faults) < count:
        kind = next(kinds)
        drawn = next(targets[kind]), dice.uniform(0.5, 3.0), dice.uniform(*LASTS[kind])
        size = dice.choice({"step": STEPS, "slow": DELAYS}.get(kind, (0.0,)))
        if kind not in without:
            faults.append(Fault(len(faults) + 1, kind, *drawn, size))
    return faults


def _dealt(dice: random.Random, cards: Collection[str]) -> Iterator[str]:
    """The cards in another order each time round, for ever."""
    for _ in cycle((None,)):
        yield from dice.sample(list(cards), len(cards))


def inject(world: World, fault: Fault) -> str:
    """Do one fault and undo it. Returns what proves that it happened; raises `NotFelt`."""
    # A full disk is there before the rows that are to meet it.
    if fault.kind != "full":
        busy = time.monotonic() + BUSY_WITHIN
        while not world.lag() and time.monotonic() < busy:
            time.sleep(0.2)
        time.sleep(fault.after)
    done = {
        "kill": _kill,
        "stop": _stop,
        "cut": _way,
        "stall": _way,
        "slow": _way,
        "full": _full,
        "step": _step,
    }
    return done[fault.kind](world, fault)


def _kill(world: World, fault: Fault) -> str:
    victim = _victim(world, fault)
    victim.send_signal(signal.SIGKILL)
    _until(lambda: _ended(victim), f"end of {fault.target}, pid {victim.pid}", world)
    time.sleep(fault.lasts)
    world.revive(fault.target)
    return f"pid {victim.pid} is gone"


def _stop(world: World, fault: Fault) -> str:
    victim = _victim(world, fault)
    victim.send_signal(signal.SIGSTOP)
    try:
        _until(lambda: _ended(victim) or victim.status() == "stopped", "stop", world)
        time.sleep(fault.lasts)
        # Its leash may have ended it meanwhile, if it was the supervisor that came to an end.
        how = "ended" if _ended(victim) else victim.status()
    finally:
        with suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGCONT)
    if how != "stopped":
        raise NotFelt(f"{fault}: pid {victim.pid} was {how} in the end of its stop")
    return f"pid {victim.pid} was {how} for {fault.lasts:.1f} s"


def _way(world: World, fault: Fault) -> str:
    way = world.ways[fault.target]
    before = way.felt
    begin: dict[str, Callable[[], None]] = {
        "cut": way.cut,
        "stall": way.stall,
        "slow": lambda: way.slow(fault.size),
    }
    begin[fault.kind]()
    try:
        time.sleep(fault.lasts)
        _until(lambda: way.felt > before, f"{fault.kind} felt", world)
        return f"felt {way.felt - before} times"
    finally:
        way.restore()


def _full(world: World, fault: Fault) -> str:
    assert world.disk

    def refused() -> float:
        port = world.settings.ports.append
        return sample(port, "kailin_retries_total", reason="tables") or 0.0

    before = refused()
    world.disk.fill()
    try:
        time.sleep(fault.lasts)
        _until(lambda: refused() > before, "full disk met by append", world)
        return f"append met it {refused() - before:.0f} times"
    finally:
        world.disk.clear()


def _step(world: World, fault: Fault) -> str:
    assert world.clock
    world.clock.step(fault.size)
    try:
        time.sleep(fault.lasts)
        return f"a process like ours read a time {world.clock.read():+.0f} s off"
    finally:
        world.clock.step(0.0)


def _victim(world: World, fault: Fault) -> psutil.Process:
    """The process to be hit, once it runs."""
    found: list[psutil.Process] = []

    def look() -> bool:
        if fault.target == "ingest" and world.fed:
            world.feed_again()
        process = world.process(fault.target)
        found[:] = [process] if process else []
        return bool(found)

    _until(look, f"running {fault.target}", world, seconds=BACK_WITHIN)
    return found[0]


def _ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _until(
    condition: Callable[[], bool], what: str, world: World, *, seconds: float = FELT_WITHIN
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise NotFelt(f"no {what} within {seconds:g} s\n{world.told()}")
        time.sleep(0.1)
