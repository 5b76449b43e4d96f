"""Runs one command and ties its life, and that of all it starts, to the parent's.

    python infra/leash.py --grace 10 -- command argument…

Standard input is the leash: when the parent closes it, by dying too, or sends SIGTERM, the
command's process group gets SIGTERM, and whatever is left after the grace period gets SIGKILL. On
Linux that includes processes that left the group or lost their parent (the leash adopts them,
`prctl(2)`, PR_SET_CHILD_SUBREAPER), and SIGKILL of the leash itself kills the command
(PR_SET_PDEATHSIG); elsewhere only the process group is signalled. Exits with the command's status,
128 + n when signal n killed it. Only the standard library is imported, so that it starts at once.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LEASH = 0
LINUX = sys.platform == "linux"
# How long processes that outlive the command's main one get to follow it.
STRAGGLERS = 3.0


def adopt_orphans() -> None:
    """Makes this process the new parent of its descendants whose own parent dies."""
    if LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def processes(*, ended: bool) -> dict[int, tuple[int, int]]:
    """The parent and session of every process; with those that ended and are not buried yet?"""
    found = {}
    for name in os.listdir("/proc") if LINUX else ():
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat") as stat:
                    # The command's name comes in brackets and may hold spaces and brackets itself.
                    fields = stat.read().rpartition(")")[2].split()
            except OSError:
                continue
            if ended or fields[0] not in "ZX":
                found[int(name)] = (int(fields[1]), int(fields[3]))
    return found


def descendants(root: int) -> list[int]:
    """Every living process below `root`."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in processes(ended=False).items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    generation = children.get(root, [])
    while generation:
        found += generation
        generation = [pid for parent in generation for pid in children.get(parent, [])]
    return found


def end_strays(keep: set[int]) -> int:
    """Kills and buries what a leash that was itself killed left to this process.

    Strays are children of this process in another session than its own, `keep` left out, and all
    below them. Returns how many were killed.
    """
    own = os.getsid(0)
    strays = [
        pid
        for pid, (parent, session) in processes(ended=True).items()
        if parent == os.getpid() and session != own and pid not in keep
    ]
    for stray in strays:
        for pid in [*descendants(stray), stray]:
            _signal(pid, signal.SIGKILL)
        os.waitpid(stray, 0)
    return len(strays)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def die_with_parent() -> Callable[[], None] | None:
    """What a child runs between fork and exec, to be killed when its parent ends.

    To be exact, when the thread that starts it ends (prctl(2), PR_SET_PDEATHSIG).
    """
    if not LINUX:
        return None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def ask_for_it() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)

    return ask_for_it


class Command:
    """The leashed command and the processes below it."""

    def __init__(self, arguments: list[str]) -> None:
        # Its standard input stays open and empty for as long as the leash lives: a program that
        # ends at the end of its input ends with the leash.
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        self.status: int | None = None

    def bury(self) -> None:
        """Takes the exit status of every child that has ended, adopted ones included."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.process.pid:
                code = os.waitstatus_to_exitcode(status)
                self.status = self.process.returncode = code if code >= 0 else 128 - code

    def others(self) -> list[int]:
        return [pid for pid in descendants(os.getpid()) if pid != self.process.pid]

    def gone(self) -> bool:
        self.bury()
        return self.status is not None and not self.others()

    def end_stragglers(self) -> None:
        """SIGTERM to what the command left behind, and a moment to follow it."""
        for pid in self.others():
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + STRAGGLERS
        while not self.gone() and time.monotonic() < deadline:
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL to all, until none is left that might have been forked meanwhile."""
        _signal_group(self.process.pid, signal.SIGKILL)
        for _ in range(100):
            for pid in descendants(os.getpid()):
                _signal(pid, signal.SIGKILL)
            if self.gone():
                return
            time.sleep(0.02)


def run(arguments: list[str], grace: float) -> int:
    """Runs the command until it ends or the leash is pulled. Returns its exit status."""
    adopt_orphans()
    wakeup, wakeup_writer = os.pipe()
    os.set_blocking(wakeup_writer, False)
    signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
    pulled = False

    def pull(*_: object) -> None:
        nonlocal pulled
        pulled = True

    signal.signal(signal.SIGTERM, pull)
    # Ctrl-C and a closed terminal reach the whole foreground group; the parent decides what ends.
    # These are handled and not ignored, since the command would inherit that.
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    try:
        command = Command(arguments)
    except OSError as error:
        print(f"{arguments[0]}: cannot be started: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 127 if isinstance(error, FileNotFoundError) else 126

    while command.status is None and not pulled:
        readable, _, _ = select.select([wakeup, LEASH], [], [])
        if wakeup in readable:
            os.read(wakeup, 4096)
        if LEASH in readable and not os.read(LEASH, 4096):
            pulled = True
        command.bury()

    _signal_group(command.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while command.status is None and (left := deadline - time.monotonic()) > 0:
        if select.select([wakeup], [], [], left)[0]:
            os.read(wakeup, 4096)
        command.bury()
    if command.status is not None:
        command.end_stragglers()
    command.kill()
    return command.status if command.status is not None else 128 + signal.SIGKILL


def main(arguments: list[str]) -> int:
    grace = 10.0
    if arguments[:1] == ["--grace"] and len(arguments) > 1:
        grace = float(arguments[1])
        arguments = arguments[2:]
    if arguments[:1] != ["--"] or len(arguments) < 2:
        print("usage: leash.py [--grace SECONDS] -- command argument…", file=sys.stderr)  # noqa: T201
        return 2
    return run(arguments[1:], grace)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
