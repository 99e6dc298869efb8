"""One process writes a store at a time, and eight that read it meanwhile never see half of anything."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import shardscan
from conftest import Tally
from made import tiny
from shardscan.errors import StoreError
from shardscan.jobs.scan.job import execute
from shardscan.jobs.scan.prepare import prepare

pytestmark = pytest.mark.faults

WRITER = """
import sys, time, shardscan
end, written = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < end:
    for name in ("one", "two"):
        shardscan.ingest(f"{sys.argv[1]}/{name}", f"{sys.argv[1]}/scans", name=f"model-{written % 5}", replace=True)
        written += 1
print(written)
"""
READER = """
import json, sys, time, shardscan
WHOLE = '''
    select count(*) = 16 * (select count(*) from models) and count(mean) = count(*)
        and (select count(*) from spectra) = 24 * (select count(*) from models)
        and (select count(*) from channels) = (select sum(rows + cols) from matrices)
    from tensors
'''
end, reads, wrong = time.monotonic() + float(sys.argv[2]), 0, []
while time.monotonic() < end:
    try:
        with shardscan.connect(f"{sys.argv[1]}/scans") as connection:
            if connection.sql(WHOLE).fetchall() != [(True,)]:
                wrong.append("half of something")
    except Exception as error:
        wrong.append(repr(error))
    reads += 1
    time.sleep(0.02)  # the writer has a share of two cores, too
print(json.dumps([reads, wrong]))
"""
HOLDER = """
import sys, time
from pathlib import Path
from shardscan import writers
with writers.writing(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(60)
"""


def begin(script: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *map(str, words)], stdout=subprocess.PIPE, text=True)


def test_eight_readers_never_fail_nor_see_half_of_what_a_writer_writes(
    tmp_path: Path, seconds: float, tally: Tally
) -> None:
    for seed, name in enumerate(("one", "two")):
        tiny.llama(tmp_path / name, seed=seed)
    shardscan.ingest(tmp_path / "one", tmp_path / "scans", name="model-0")
    writer, *readers = (begin(script, tmp_path, seconds) for script in (WRITER, *[READER] * 8))
    found = [json.loads(reader.communicate()[0]) for reader in readers]
    written = int(writer.communicate()[0])
    tally(lost=sum(len(wrong) for _, wrong in found))
    assert [wrong for _, wrong in found] == [[]] * 8
    assert sum(reads for reads, _ in found) > 3 * seconds
    assert written >= 2


def test_a_second_writer_is_refused_within_a_second_and_told_of_the_first(tmp_path: Path) -> None:
    prepared = prepare(tiny.llama(tmp_path / "tiny"))
    with begin(HOLDER, tmp_path / "scans") as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "ready\n"
        began = time.monotonic()
        with pytest.raises(StoreError, match=rf"is being written by process {holder.pid} on .*: wait for it, or name"):
            execute(prepared, tmp_path / "scans")
        assert time.monotonic() - began < 1
        holder.kill()
    assert execute(prepared, tmp_path / "scans").tasks == 16
