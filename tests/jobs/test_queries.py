"""The SQL of the jobs: every file says what it gives, and is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardscan.catalog.sqlfiles import job_sql

ROOT = Path(__file__).resolve().parents[2]
QUERIES = sorted((ROOT / "sql" / "jobs").glob("*/*.sql"))


@pytest.mark.parametrize("file", QUERIES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_query_says_what_it_gives_and_is_asked(file: Path) -> None:
    job, name = file.parent.name, file.stem
    assert job_sql(job, name).startswith(f"-- {name}: ")
    folders = (ROOT / "shardscan" / "jobs" / job, ROOT / "shardscan" / "cli")
    sources = [source.read_text("utf-8") for folder in folders for source in folder.glob("*.py")]
    assert any("job_sql(" in source and f'"{name}"' in source for source in sources)
