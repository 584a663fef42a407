"""The watchdog itself, in processes that it may end. A hung worker and a hung stage: tests/faults."""

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import ctypes, os, time
from glassworks import watchdog

watchdog.FAREWELL_SECONDS = 1

def end(message):
    print(message, flush=True)
    os._exit(75)

with watchdog.Watchdog(0.4, end):
    {}
"""


def run(*lines: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format("\n    ".join(lines))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)


def test_progress_and_what_is_unwatched_keep_a_process_alive():
    lasting = run("for _ in range(8): time.sleep(0.1); watchdog.beat()", "with watchdog.unwatched(): time.sleep(0.8)")
    assert (lasting.returncode, lasting.stdout, lasting.stderr) == (0, "", "")


@pytest.mark.parametrize("stop", [signal.SIGSTOP, signal.SIGTSTP])
def test_time_in_which_the_process_is_stopped_does_not_count(stop):
    """Stopped for five times the limit with the first signal that no handler sees, and with Ctrl-Z for longer than any limit."""
    lines = ["print('ready', flush=True)", "for _ in range(30): time.sleep(0.1); watchdog.beat()", "print('alive')"]
    program = PROGRAM.format("\n    ".join(lines))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(stop)
    time.sleep(2.0 if stop == signal.SIGSTOP else 4.0)
    process.send_signal(signal.SIGCONT)
    assert (process.communicate(timeout=60)[0], process.returncode) == ("alive\n", 0)


def test_silence_ends_a_process_with_its_stacks_first():
    silent = run("time.sleep(30)")
    assert silent.returncode == 75
    assert silent.stdout.startswith("no progress for 0.00666667 minutes")
    assert 'File "<string>", line 12 in <module>' in silent.stderr


def test_a_thread_that_never_lets_go_of_the_interpreter_ends_it_too():
    stuck = run("time.sleep(0.2)", "ctypes.PyDLL(None).pause()")
    assert stuck.returncode == 1
    assert "Timeout" in stuck.stderr and 'File "<string>", line 13 in <module>' in stuck.stderr
