"""Ctrl-C and SIGTERM end a scan within seconds, wherever it is, and the same command continues."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import shardscan
from conftest import Tally
from made import tiny
from oracles import survival

pytestmark = pytest.mark.faults
SECONDS = 5.0
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def begin(*words: str | Path) -> subprocess.Popen[bytes]:
    """Start the command; it hears Ctrl-C also where these tests run in the background, which ignores it."""
    return subprocess.Popen(
        [sys.executable, "-m", "shardscan", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> bytes:
    """Send the signal; what the process says on stderr, which ends in time and with the signal's code."""
    sent = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - sent < SECONDS
    assert process.returncode == CODES[number]
    assert b"Traceback" not in said
    return said


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two matrices whose spectra take seconds each, and one with a million rows, whose catalog does."""
    rng = np.random.default_rng(0)
    tensors = {f"{name}.weight": rng.standard_normal((2500, 2600), np.float32) for name in "ab"}
    return tiny.write(tmp_path_factory.mktemp("large") / "large", tensors | {"rows.weight": np.ones((10**6, 2), "f2")})


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_during_an_eigensolver_ends_the_scan_which_then_continues(
    number: signal.Signals, large: Path, tmp_path: Path, tally: Tally
) -> None:
    store = tmp_path / "scans"
    process = begin("ingest", large, "--store", store, "--spectra", "full", "--channels", "none")
    wait_for(lambda: len(survival.commits(store)) == 3, process)  # statistics are done, eigensolvers are at work
    time.sleep(0.3)
    assert b"Interrupted. What was committed stays: the same command continues.\n" in end(process, number)
    assert shardscan.ingest(large, store, spectra="full", channels="none").tasks in (1, 2)
    tally(kills=1)


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_while_the_catalog_is_built_leaves_the_one_before(
    number: signal.Signals, large: Path, tmp_path: Path, tally: Tally
) -> None:
    store = tmp_path / "scans"
    shardscan.ingest(tiny.llama(tmp_path / "tiny"), store)
    process = begin("ingest", large, "--store", store, "--spectra", "none")
    wait_for(lambda: any(store.glob("catalog.duckdb.*.partial")), process)
    time.sleep(0.1 if number == signal.SIGINT else 1.0)  # within DuckDB, which makes an error of its own of it, or not
    assert end(process, number).count(b"\n") <= 3
    assert survival.answer(store, "select count(*) from tensors") == 16
    assert shardscan.ingest(large, store, spectra="none").bytes_read == 0
    assert survival.answer(store, "select count(*) from tensors") == 19
    assert not list(store.glob("*.partial*"))
    tally(kills=1)


def test_a_thread_that_does_not_end_does_not_keep_the_process(tmp_path: Path) -> None:
    script = (
        "import time, threading\n"
        "import click\n"
        "from shardscan.cli import main\n"
        "@main.command()\n"
        "def sleep():\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "main(['sleep'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    assert end(process, signal.SIGTERM) == b"Interrupted.\n"


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


def test_a_main_thread_that_does_not_listen_does_not_keep_the_process(tmp_path: Path) -> None:
    script = (
        "import ctypes\n"
        "from shardscan.cli import main\n"
        "lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)\n"
        "@main.command()\n"
        "def think():\n"
        "    print('ready', flush=True)\n"
        "    lock(mutex), lock(mutex)\n"  # for ever, in C
        "main(['think'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    assert end(process, signal.SIGTERM) == b"Interrupted.\n"
