"""What must hold of a store after any kill or fault, once the same command has run again: all of it, to the bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import ml_dtypes
import numpy as np
import xxhash

import shardscan
from made import tiny
from made.crashing import Ended, Fault, Server
from oracles.tally import Tally

OLD = "select count(*) from tensors where model = 'old' and mean is not null"
OLD_TENSORS = 9


@dataclass(frozen=True)
class Trial:
    """A checkpoint that is to be scanned, the store of an older model before that, and what an undisturbed run left.

    `files` are hashes of every file but catalog, lock and runs; `tables` the catalog's rows, but for `runs`.
    """

    model: Path
    before: Path
    options: tuple[str, ...]
    files: Mapping[str, str]
    tables: Mapping[str, list[Any]]
    events: int

    def words(self, store: Path) -> list[str]:
        return ["ingest", str(self.model), "--store", str(store), "--workers", "2", "--format", "json", *self.options]


def prepare(server: Server, folder: Path, model: Path, *options: str, rival: Path | None = None) -> Trial:
    """Scan an older model, and `rival` under the same name if there is one, then `model` without any fault."""
    before, after, log = folder / "before", folder / "after", folder / "log"
    shardscan.ingest(tiny.llama(folder / "old", seed=9, inner=(8,)), before)
    if rival:
        shardscan.ingest(rival, before, channels="dense")  # which goes over to what takes its place
    trial = Trial(model, before, options, {}, {}, 0)
    shutil.copytree(before, after)
    ended = server.run(trial.words(after), log)
    assert ended.code == 0, ended.output
    return Trial(model, before, options, files(after), tables(after), ended.events)


def small(folder: Path, seed: int = 0) -> Path:
    """A checkpoint of three tensors, of which two have heads, in two shards."""
    rng = np.random.default_rng(seed)
    for i in range(2):
        q = rng.standard_normal((32, 16)).astype(ml_dtypes.bfloat16)
        norm = {"model.norm.weight": q[0]} if i else {}
        tiny.write(folder, {f"model.layers.{i}.self_attn.q_proj.weight": q} | norm, tiny.CONFIG)
        (folder / "model.safetensors").rename(folder / f"model-{i + 1:05d}-of-00002.safetensors")
    return folder


def files(store: Path) -> dict[str, str]:
    """Hash of every file that must be equal to the bit."""
    paths = (path for path in sorted(store.rglob("*")) if path.is_file())
    names = {str(path.relative_to(store)): path for path in paths}
    return {
        name: xxhash.xxh3_128_hexdigest(path.read_bytes())
        for name, path in names.items()
        if "/runs/" not in name and name not in ("lock", "catalog.duckdb")
    }


def tables(store: Path) -> dict[str, list[Any]]:
    """Every row of the catalog, but for what only a run knows."""
    with duckdb.connect(store / "catalog.duckdb", read_only=True) as connection:
        names = [name for (name,) in connection.sql("select table_name from duckdb_tables()").fetchall()]
        return {
            name: connection.sql(f"from {name} order by all").fetchall() for name in sorted(names) if name != "runs"
        }


def commits(store: Path) -> dict[Path, int]:
    """When every commit was written."""
    return {path: path.stat().st_mtime_ns for path in store.glob("commits/*/*.json")}


def answer(store: Path, sql: str) -> Any:
    with shardscan.connect(store) as connection:
        ((value,),) = connection.sql(sql).fetchall()
        return value


def bytes_left(trial: Trial, store: Path) -> int:
    """Bytes of the tensors of which a commit is missing, by the files of commits and headers alone.

    Whole matrices are read by a pass of their own.
    """
    wanted = {name for name in trial.files if name.startswith("commits/") and name.endswith(".json")}
    there = {str(path.relative_to(store)) for path in commits(store)}
    tensors = {(tensor, ".full-" in name) for name in wanted - there for tensor in _tensors_of(name, trial)}
    held = shardscan.open(trial.model).checkpoint
    return sum(held[tensor].nbytes for tensor, _ in tensors)


def _tensors_of(commit: str, trial: Trial) -> list[str]:
    return list(json.loads((trial.before.with_name("after") / commit).read_bytes())["tensors"])


def resume(server: Server, trial: Trial, store: Path, log: Path, tally: Tally) -> None:
    """Run the command again, without a fault, and have it leave what an undisturbed run leaves, redoing nothing."""
    finished, left = commits(store), bytes_left(trial, store)
    ended = server.run(trial.words(store), log)
    assert ended.code == 0, ended.output
    assert json.loads(ended.output[ended.output.index("[") :])[0]["bytes_read"] == left
    # the commits of a scan that was replaced are gone
    assert all(finished.get(path, stamp) == stamp for path, stamp in commits(store).items())
    be_equal(trial, store, tally)


def be_equal(trial: Trial, store: Path, tally: Tally) -> None:
    """A store must be what an undisturbed run leaves, to the bit."""
    lost = int(files(store) != trial.files or tables(store) != trial.tables)
    tally(lost=lost)
    assert not lost, sorted(trial.files.items() ^ files(store).items())


def disturbed(server: Server, trial: Trial, store: Path, log: Path, fault: Fault, tally: Tally) -> Ended:
    """Run the command with a fault, after which the last catalog must answer and nobody has seen a traceback."""
    ended = server.run(trial.words(store), log, fault)
    tally(tracebacks=ended.output.count("Traceback"))
    assert "Traceback" not in ended.output, ended.output
    assert answer(store, OLD) == OLD_TENSORS
    return ended
