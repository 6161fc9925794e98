# SPDX-License-Identifier: Apache-2.0
"""Appends numbered records with a checksum to a file on the share, syncs each, holds a lock.

    writer.py MOUNTPOINT FILE

Runs on the machines. What was synced is noted on the machine's own disk, and so is each error.
The file is written through the very descriptor that holds the lock: a lock that is lost is EIO.
"""

import errno
import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from typing import NoReturn

STATE = "/var/lib/torture"
RECORD = 80
INTERVAL_S = 0.2
LOCK_TIMEOUT_S = 120

MOUNTPOINT, FILE = sys.argv[1:]
ending = False


def main() -> None:
    """Write until told to end."""
    if not os.path.ismount(MOUNTPOINT):
        give_up("open", "not mounted")
    try:
        log = os.open(f"{MOUNTPOINT}/{FILE}", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        lock(log)
        number = os.fstat(log).st_size // RECORD
        os.ftruncate(log, number * RECORD)
    except OSError as error:
        give_up("open", errno.errorcode[error.errno or 0])
    acked = os.open(f"{STATE}/{FILE}.acked", os.O_RDWR | os.O_CREAT, 0o600)
    noted = int(os.pread(acked, 20, 0) or 0)
    if number < noted:
        give_up("open", f"{number} records, {noted} were acknowledged")
    while not ending:
        try:
            os.write(log, record(number))
            os.fsync(log)
        except OSError as error:
            note("write", errno.errorcode[error.errno or 0])
            if error.errno != errno.ENOSPC:
                sys.exit(1)
            os.ftruncate(log, number * RECORD)
        else:
            number += 1
            os.pwrite(acked, b"%020d" % number, 0)
        time.sleep(INTERVAL_S)


def lock(log: int) -> None:
    """Lock the file; a machine that had it and was lost may have it for the time of a lease."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.lockf(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def record(number: int) -> bytes:
    """Return a record, which says its number and a checksum of that and the file."""
    digest = hashlib.sha256(f"{FILE} {number}".encode()).hexdigest()
    return f"{number:014d} {digest}\n".encode()


def note(doing: str, what: str) -> None:
    """Note an error."""
    with open(f"{STATE}/{FILE}.errors", "a", encoding="ascii") as errors:
        errors.write(json.dumps({"time": time.time(), "doing": doing, "what": what}) + "\n")


def give_up(doing: str, what: str) -> NoReturn:
    """Note an error and end."""
    note(doing, what)
    sys.exit(1)


def end(_number: int, _frame: object) -> None:
    """Let the record that is being written be the last."""
    global ending
    ending = True


if __name__ == "__main__":
    os.makedirs(STATE, exist_ok=True)
    signal.signal(signal.SIGTERM, end)
    main()
