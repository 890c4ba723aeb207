"""Children that kill themselves at named moments, as if the machine had been switched off; and a
teacher to die in."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

import numpy as np


class Teacher:
    """Shared words, and a little less for long documents."""

    def fingerprint(self):
        return "shared words"

    def __call__(self, both):
        shared = [len(set(q.split()) & set(d.split())) - 0.01 * len(d) for q, d in both]
        return np.float32(shared)


def die():
    """As if the machine had been switched off."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(seconds):
    """Die so many seconds from now."""
    timer = threading.Timer(seconds, die)
    timer.daemon = True
    timer.start()


def kill_at_call(module, function, number):
    """Die when the function is called for the so manieth time."""
    real, calls = getattr(module, function), [0]

    def counted(*given, **named):
        calls[0] += 1
        if calls[0] == number:
            die()
        return real(*given, **named)

    setattr(module, function, counted)


def lives_and_deaths(run):
    """For each name on stdin ``run(name, moment)`` in a child for every moment, and one that lives.

    A line of [name, moment, how the child ended] is printed for each.
    """
    for name, moments in json.load(sys.stdin).items():
        for moment in [*moments, None]:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    run(name, moment)
                    status = 0
                finally:
                    sys.stdout.flush()
                    os._exit(status)
            status = os.waitpid(child, 0)[1]
            died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            print(json.dumps([name, moment, "killed" if died else os.WEXITSTATUS(status)]))
