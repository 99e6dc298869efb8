"""Every question that ships, with its defaults, each to an Arrow table in one open connection.

python -m bench.ours.queries STORE RUNS
"""

from __future__ import annotations

import json
import sys
import time
from statistics import median

from shardscan.answers.connection import connect
from shardscan.answers.questions import read_questions


def main(store: str, runs: int) -> None:
    times, rows = {}, {}
    with connect(store) as connection:
        for name, question in read_questions().items():
            values = {parameter.name: parameter.default for parameter in question.parameters}
            seconds = []
            for _ in range(runs):
                started = time.perf_counter()
                table = connection.sql(question.sql, params=values).to_arrow_table()  # a relation alone is lazy
                seconds.append(time.perf_counter() - started)
            times[name], rows[name] = median(seconds), table.num_rows
    print(json.dumps({"questions": times, "rows": rows}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
