"""One process writes a store at a time, and eight that read it meanwhile never see half of anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from made import tiny
from oracles.tally import Tally
from shardscan.errors import StoreError
from shardscan.jobs.scan.job import execute
from shardscan.jobs.scan.prepare import prepare

pytestmark = pytest.mark.faults

WRITER = """
import sys, shardscan
folder, written = sys.argv[1], 0
while True:
    for name in ("one", "two"):
        shardscan.ingest(f"{folder}/{name}", f"{folder}/scans", name=f"model-{written % 5}", replace=True)
        written += 1
        print(written, flush=True)
"""
READER = """
import json, os, sys, time, shardscan
WHOLE = '''
    select count(*) = 16 * (select count(*) from models) and count(mean) = count(*)
        and (select count(*) from spectra) = 24 * (select count(*) from models)
        and (select count(*) from channels) = (select sum(rows + cols) from matrices)
    from tensors
'''
folder, reads, wrong = sys.argv[1], 0, []
while not (reads and os.path.exists(f"{folder}/enough")):
    try:
        with shardscan.connect(f"{folder}/scans") as connection:
            if connection.sql(WHOLE).fetchall() != [(True,)]:
                wrong.append("half of something")
    except Exception as error:
        wrong.append(repr(error))
    reads += 1
    if reads == 1:
        print("reading", flush=True)
    time.sleep(0.3)  # the writer has most of two cores
print(json.dumps(wrong))
"""
HOLDER = """
import sys
from pathlib import Path
from shardscan.store import lock
with lock.writing_store(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def begin(script: str, folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", script, str(folder)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints, however long it takes to."""
    assert process.stdout
    return process.stdout.readline().strip()


def test_eight_readers_never_fail_nor_see_half_of_what_a_writer_writes(
    tmp_path: Path, writes: int, tally: Tally
) -> None:
    for seed, name in enumerate(("one", "two")):
        tiny.llama(tmp_path / name, seed=seed)
    writer = begin(WRITER, tmp_path)
    assert line(writer) == "1"
    readers = [begin(READER, tmp_path) for _ in range(8)]
    assert [line(reader) for reader in readers] == ["reading"] * 8
    while int(line(writer)) < writes:  # scans that were written while all eight read
        pass
    (tmp_path / "enough").touch()
    wrong = [json.loads(reader.communicate()[0]) for reader in readers]
    writer.kill()
    writer.communicate()
    tally(lost=sum(map(len, wrong)))
    assert wrong == [[]] * 8


def test_a_second_writer_is_refused_at_once_and_told_of_the_first(tmp_path: Path) -> None:
    prepared = prepare(tiny.llama(tmp_path / "tiny"))
    with begin(HOLDER, tmp_path / "scans") as holder:
        assert line(holder) == "ready"
        with pytest.raises(StoreError, match=rf"is being written by process {holder.pid} on .*: wait for it, or name"):
            execute(prepared, tmp_path / "scans")
        assert holder.poll() is None  # nobody waited for it
        holder.kill()
    assert execute(prepared, tmp_path / "scans").tasks == 16
