# SPDX-License-Identifier: Apache-2.0
"""Says what a server's machine is like: whole records of each file, exports, services.

Runs on the machines. Images that are not mounted are read as they are.
"""

import glob
import hashlib
import json
import os
import subprocess
from pathlib import Path

STORAGE = "/var/lib/juju/storage"
RECORD = 80


def main() -> None:
    """Print it."""
    records: dict[str, int] = {}
    paths: dict[str, str] = {}
    used: set[str] = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        target, device = before.split()[4], after.split()[1]
        if not device.startswith("/dev/loop"):
            continue
        backing = Path(f"/sys/block/{device.removeprefix('/dev/')}/loop/backing_file")
        used.add(backing.read_text().strip())
        for path in glob.glob(f"{target}/records.*"):
            file = os.path.basename(path)
            records[file] = max(whole(Path(path).read_bytes(), file), records.get(file, 0))
            paths[file.split(".")[1]] = target
    images = (*glob.glob(f"{STORAGE}/*/*/*.img"), *glob.glob(f"{STORAGE}/*/*/*.deleted"))
    for image in images:
        if image not in used:
            records |= {file: n for file, n in in_image(image).items() if file not in records}
    said = {"records": records, "paths": paths, "exports": exports(), "failed": failed()}
    print(json.dumps(said))


def whole(data: bytes, file: str) -> int:
    """Return how many records are there, from the first one, each as it was written."""
    for number in range(len(data) // RECORD):
        digest = hashlib.sha256(f"{file} {number}".encode()).hexdigest()
        if data[number * RECORD : (number + 1) * RECORD] != f"{number:014d} {digest}\n".encode():
            return number
    return len(data) // RECORD


def in_image(image: str) -> dict[str, int]:
    """Return the records of an image that is not mounted."""
    listed = debugfs("ls -p /", image).decode(errors="replace").splitlines()
    files = [line.split("/")[5] for line in listed if line.count("/") > 5]
    wanted = [file for file in files if file.startswith("records.")]
    return {file: whole(debugfs(f"cat /{file}", image), file) for file in wanted}


def debugfs(request: str, image: str) -> bytes:
    """Ask debugfs of an image."""
    command = ["/usr/sbin/debugfs", "-R", request, image]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).stdout


def exports() -> list[list[str]]:
    """Return path and host of each export."""
    etab = Path("/var/lib/nfs/etab")
    lines = etab.read_text().splitlines() if etab.exists() else []
    return [
        [path, rest.partition("(")[0]] for path, _, rest in (it.partition("\t") for it in lines)
    ]


def failed() -> list[str]:
    """Return the units of systemd that failed."""
    command = ["/usr/bin/systemctl", "--failed", "--plain", "--no-legend"]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=20)
    return [line.split()[0] for line in done.stdout.splitlines()]


if __name__ == "__main__":
    main()
