"""Ctrl-C and SIGTERM end a scan, wherever it is, and the same command continues.

Whatever a signal is to meet is made to last for ever, and says that it has begun: so it is met on any machine.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shardscan
from made import tiny
from oracles import survival
from oracles.tally import Tally

pytestmark = pytest.mark.faults
SECONDS = 300  # which nobody waits for: what ends at all ends within one or two
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
EACH_SIGNAL = pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)

SOLVING = """
import sys
from shardscan.cli import main
from shardscan.reduce.kernels import cpu
solve = cpu.full_spectrum
def for_ever(panels, n):
    panels = list(panels)
    print("begun", flush=True)
    while True:
        solve(panels, n)
cpu.full_spectrum = for_ever
main(sys.argv[1:])
"""
BUILDING = """
import sys
import duckdb
from shardscan.cli import main
connect = duckdb.connect
def never_filled(database=":memory:", *more, **options):
    connection = connect(database, *more, **options)
    if ".partial" in str(database):
        print("begun", flush=True)
        connection.execute("select sum(a.range * b.range % 7) from range(10000000) a, range(10000000) b")
    return connection
duckdb.connect = never_filled
main(sys.argv[1:])
"""


def begun(script: str, *words: str | Path) -> subprocess.Popen[bytes]:
    """A script that has said that it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == b"begun\n", process.communicate()
    return process


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> bytes:
    """Send the signal; what the process says on stderr, which ends with the signal's code."""
    process.send_signal(number)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == CODES[number]
    assert b"Traceback" not in said
    return said


@EACH_SIGNAL
def test_a_signal_during_an_eigensolver_ends_the_scan_which_then_continues(
    number: signal.Signals, tmp_path: Path, tally: Tally
) -> None:
    w = np.random.default_rng(0).standard_normal((1500, 1600), np.float32)  # one call of the solver takes a second
    large, store = tiny.write(tmp_path / "large", {"w.weight": w}), tmp_path / "scans"
    process = begun(SOLVING, "ingest", large, "--store", store, "--spectra", "full", "--channels", "none")
    assert len(survival.commits(store)) == 1  # statistics are there
    assert b"Interrupted. What was committed stays: the same command continues.\n" in end(process, number)
    assert shardscan.ingest(large, store, spectra="full", channels="none").tasks == 1
    tally(kills=1)


@EACH_SIGNAL
def test_a_signal_while_the_catalog_is_built_leaves_the_one_before(
    number: signal.Signals, scan_of_tiny: Path, tiny_scans: Path, tmp_path: Path, tally: Tally
) -> None:
    more = tiny.llama(tmp_path / "more", inner=(8,))
    process = begun(BUILDING, "ingest", more, "--store", tiny_scans)
    assert end(process, number).count(b"\n") <= 3  # DuckDB makes an error of its own of Ctrl-C
    assert survival.answer(tiny_scans, "select count(*) from tensors") == 16
    assert shardscan.ingest(more, tiny_scans).bytes_read == 0
    assert survival.answer(tiny_scans, "select count(*) from tensors") == 25
    assert not list(tiny_scans.glob("*.partial*"))
    tally(kills=1)


def test_a_thread_that_does_not_end_does_not_keep_the_process() -> None:
    script = (
        "import time, threading\n"
        "import click\n"
        "from shardscan.cli import main\n"
        "@main.command()\n"
        "def sleep():\n"
        "    threading.Thread(target=time.sleep, args=(6000,)).start()\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(6000)\n"
        "main(['sleep'])\n"
    )
    assert end(begun(script), signal.SIGTERM) == b"Interrupted.\n"


def test_a_terminal_that_is_gone_does_not_change_the_exit_code() -> None:
    words = [sys.executable, "-m", "shardscan", "sql", "-"]
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(words, stdin=pipe, stdout=nothing, stderr=pipe, bufsize=0) as process:
        assert process.stdin
        assert process.stderr
        left = memoryview(bytes(1_000_000))  # more than a pipe holds: once it is written, the command is there
        while left:
            left = left[process.stdin.write(left) :]
        process.stderr.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 143


def test_a_main_thread_that_does_not_listen_does_not_keep_the_process() -> None:
    script = (
        "import ctypes\n"
        "from shardscan.cli import main\n"
        "lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)\n"
        "@main.command()\n"
        "def think():\n"
        "    print('begun', flush=True)\n"
        "    lock(mutex), lock(mutex)\n"  # for ever, in C
        "main(['think'])\n"
    )
    assert end(begun(script), signal.SIGTERM) == b"Interrupted.\n"
