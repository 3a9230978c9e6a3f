"""honcho's process manager with an order at the end, and without orphans."""

import ctypes
import signal
import sys
from functools import partial
from typing import Any

from honcho.manager import Manager
from honcho.process import Popen, Process

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def end_with_parent(signum: int) -> None:
    """Have the kernel send ``signum`` to this process when its parent is gone, even by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)


class Supervisor(Manager):  # type: ignore[misc]  # honcho has no types
    """Ends process ``first`` before all others.

    A Prefect worker that loses its server first complains at length and hangs.
    """

    def __init__(self, first: str) -> None:
        super().__init__()
        self._process_ctor = _Relay
        self._first = first
        self._first_was_told = False

    def terminate(self) -> None:
        """Called on a signal, and by honcho's loop again as soon as one process has ended."""
        if not self._all_started():
            raise KeyboardInterrupt  # honcho has no process ids to signal yet
        if self._first_was_told or self._any_stopped():
            super().terminate()
        else:
            self._first_was_told = True
            self._procmgr.terminate(self._processes[self._first]["pid"])


class _Relay(Process):  # type: ignore[misc]
    """The process of honcho's own that starts a program and passes its lines on."""

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        end_with_parent(signal.SIGKILL)
        self._child_ctor = partial(Popen, preexec_fn=_before_program)
        super().run(events, ignore_signals)


def _before_program() -> None:
    end_with_parent(signal.SIGTERM)
    # Scripts start background commands with SIGINT ignored; it is what ends a Prefect worker.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
