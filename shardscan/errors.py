"""The error tree: everything that shardscan refuses, as one family of exceptions.

Each class also subclasses the builtin that a caller would expect, so `except FileNotFoundError` works, and carries the
exit code that the command line ends with. A message says what was wrong, where, and what to do next, in one sentence;
the command line prints it without a traceback.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a bug in shardscan: the only case that shows a traceback |
| 2 | the command line itself is wrong (Click's own code) |
| 3 | the checkpoint cannot be read |
| 4 | a family file is wrong |
| 5 | the store or its catalog cannot be used |
| 6 | the query, question or parameter is wrong, or the query was stopped |
| 7 | the output cannot be written |
| 8 | done, but at least one tensor failed: see `tensors.status` |
| 9 | the store cannot be written: the disk is full or fails; the same command continues |
| 10 | `verify` found at least one problem |
| 130 | interrupted (Ctrl-C); the same command continues |
| 143 | terminated (SIGTERM); the same command continues |
"""


def shown(text: str, limit: int = 100) -> str:
    """Quote, escape and cut `text` to `limit` characters, as a message may carry it: names are strangers' data."""
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}… ({len(text):,} characters)"


def cut(text: str, limit: int | None) -> str:
    """`text`, cut to `limit` characters, and how many there are."""
    return text if limit is None or len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


class ShardscanError(Exception):
    """Base of every error that shardscan raises on purpose."""

    exit_code = 1


class OptionError(ShardscanError, ValueError):
    """An argument that is out of its range."""

    exit_code = 2


class CheckpointError(ShardscanError, ValueError):
    """A checkpoint that cannot be read: its header, its index or its files break a rule."""

    exit_code = 3


class CheckpointNotFound(CheckpointError, FileNotFoundError):
    """Nothing at this path is a checkpoint."""


class HeaderError(CheckpointError):
    """A shard whose header breaks a rule of its container format."""


class ShardIndexError(CheckpointError):
    """An index.json that is wrong, or disagrees with the shards beside it."""


class FamilyError(ShardscanError, ValueError):
    """A family file that is wrong."""

    exit_code = 4


class StoreError(ShardscanError, ValueError):
    """A store that cannot be used as asked."""

    exit_code = 5


class StoreNotFound(StoreError, FileNotFoundError):
    """No store, or no catalog in it, at this path."""


class StoreWriteError(StoreError, OSError):
    """A store that the disk does not take: it is full, it fails, or nobody may write there."""

    exit_code = 9


class QueryError(ShardscanError, ValueError):
    """SQL that DuckDB refuses, or a parameter that does not fit."""

    exit_code = 6


class QuestionNotFound(QueryError, LookupError):
    """No question of this name ships with shardscan."""


class QueryStopped(QueryError):
    """A query that was stopped at the end of the time or the memory that it may take."""


class OutputError(ShardscanError, OSError):
    """A result that cannot be written where or how it was asked for."""

    exit_code = 7
