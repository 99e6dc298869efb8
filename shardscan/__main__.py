"""`python -m shardscan` is `shardscan`."""

from shardscan.cli import main

main(prog_name="shardscan")
