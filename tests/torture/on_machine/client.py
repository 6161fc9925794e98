# SPDX-License-Identifier: Apache-2.0
"""Says what a client's machine is like: mount, files, what was acknowledged, errors, services.

    client.py MOUNTPOINT

Runs on the machines. A dead mount is not waited for.
"""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

STATE = Path("/var/lib/torture")
TIMEOUT_S = 4


def main() -> None:
    """Print it."""
    mountpoint = sys.argv[1]
    source = ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4] == mountpoint:
            kind, source = after.split()[:2]
            if kind != "nfs4":
                source = f"{kind} {source}"
    # After a power cut it may be empty: then less is known, and nothing wrong.
    acked = {
        it.name.removesuffix(".acked"): int(it.read_text() or 0) for it in STATE.glob("*.acked")
    }
    errors = {it.name.removesuffix(".errors"): it.read_text() for it in STATE.glob("*.errors")}
    said = {
        "source": source,
        "seen": look(mountpoint) if source else None,
        "acked": acked,
        "errors": {
            file: [json.loads(line) for line in text.splitlines()] for file, text in errors.items()
        },
        "running": running(),
        "failed": failed(),
    }
    print(json.dumps(said))


def look(mountpoint: str) -> object:
    """Return size in MiB and files of what is mounted; None if that does not answer."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            it = os.statvfs(mountpoint)
            seen = {"mib": it.f_blocks * it.f_frsize >> 20, "files": os.listdir(mountpoint)}
        except OSError as error:
            seen = {"error": str(error)}
        os.write(writing, json.dumps(seen).encode())
        os._exit(0)
    ready, _, _ = select.select([reading], [], [], TIMEOUT_S)
    if ready:
        return json.loads(os.read(reading, 65536))
    os.kill(child, signal.SIGKILL)
    return None


def running() -> list[str]:
    """Return the files that a writer is at work on."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if len(words) > 3 and words[1].endswith(b"/writer.py"):
            found.append(words[3].decode())
    return found


def failed() -> list[str]:
    """Return the units of systemd that failed."""
    command = ["/usr/bin/systemctl", "--failed", "--plain", "--no-legend"]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=20)
    return [line.split()[0] for line in done.stdout.splitlines()]


if __name__ == "__main__":
    main()
