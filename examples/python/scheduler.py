"""Runs jobs at given minutes, and neither misses nor doubles a minute across restarts.

The last minute that is done is saved in the same transaction as the results of its jobs. After a
crash at any moment, the client resumes from there, so each minute takes effect exactly once. (A job
that acts outside the database may run again; it knows the minute, and can ask if it is done.)
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from typing import Callable, NamedTuple, Optional, Sequence

from tickstorm import BlockingClient as Client

MINUTE_MS = 60_000


class Job(NamedTuple):
    name: str
    every: int  # at each minute since 1970 that is a multiple of this
    run: Callable[[int], str]


JOBS = (
    Job("report", 1, lambda minute: f"report of minute {minute}"),
    Job("clean up", 60, lambda minute: "cleaned up"),
)


def open_database(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("create table if not exists done (id primary key, minute_ms)")
    database.execute("create table if not exists results (minute_ms, job, result)")
    return database


def done_until(database: sqlite3.Connection) -> Optional[int]:
    """Returns the last minute that is done; ``None`` if this is the first start."""
    (minute_ms,) = database.execute("select max(minute_ms) from done").fetchone()
    return None if minute_ms is None else int(minute_ms)


def run_minute(database: sqlite3.Connection, jobs: Sequence[Job], minute_ms: int) -> None:
    """Runs the jobs of a minute, and saves their results together with the minute."""
    with database:
        database.execute("begin immediate")
        for job in jobs:
            if minute_ms // MINUTE_MS % job.every == 0:
                row = (minute_ms, job.name, job.run(minute_ms // MINUTE_MS))
                database.execute("insert into results values (?, ?, ?)", row)
        database.execute("insert or replace into done values (1, ?)", (minute_ms,))


def run(database: sqlite3.Connection, jobs: Sequence[Job], client: Client) -> None:
    """Runs all minutes up to each tick, even if no edge has sent them because of a long outage; and
    none again, even if the time was stepped back."""
    if done_until(database) is None and client.start_ms is not None:
        run_minute(database, (), client.start_ms)
    for tick in client:
        done_ms = done_until(database) or tick.epoch_ms - MINUTE_MS
        for minute_ms in range(tick.mode.next_after(done_ms), tick.epoch_ms + 1, MINUTE_MS):
            run_minute(database, jobs, minute_ms)


def main() -> None:
    database = open_database(sys.argv[1] if len(sys.argv) > 1 else "scheduler.sqlite")
    addr, user = os.getenv("ADDR", "127.0.0.1:8080"), os.getenv("STREAM_USER", "stream_user")
    password, done = os.getenv("STREAM_PASS", "stream_pass"), done_until(database)
    with contextlib.closing(database), Client(
        addr, user=user, password=password, mode="minute", resume_after_ms=done
    ) as client:
        run(database, JOBS, client)


if __name__ == "__main__":
    main()
