# SPDX-License-Identifier: Apache-2.0
"""The application on its machine: a service, and the mount without which it does not run. No ops.

systemd has the rule, so that it also holds between hooks and after a reboot: the service is bound
to the mount (BindsTo=), stops when that goes, and starts when it comes (WantedBy=).
"""

import os
import subprocess
from pathlib import Path

SYSTEMCTL, APT_GET = "/usr/bin/systemctl", "/usr/bin/apt-get"
UNITS = Path("/etc/systemd/system")
# The name of a mount unit is that of its directory (systemd-escape --path --suffix=mount).
MOUNT, SERVICE = "srv-logbook.mount", "logbook.service"

# Longer than systemd takes to start or stop both: a hook must not hang on a dead server.
SYSTEMCTL_TIMEOUT_S = 120
APT_TIMEOUT_S = 600

MOUNT_UNIT = """\
[Unit]
Description=The share of logbook

[Mount]
What={source}
Where=/srv/logbook
Type=nfs4
Options=hard,nosuid,nodev,retry=0,port={port}
TimeoutSec=30

[Install]
WantedBy=remote-fs.target
"""
SERVICE_UNIT = """\
[Unit]
Description=Logbook
BindsTo=srv-logbook.mount
After=srv-logbook.mount

[Service]
WorkingDirectory=/srv/logbook
ExecStart=/bin/sh -c 'echo started >> log && exec sleep infinity'
TimeoutStopSec=15

[Install]
WantedBy=srv-logbook.mount
"""


def install() -> None:
    """Install what mounts NFS."""
    wait = ["-o", "DPkg::Lock::Timeout=60"]
    for arguments in ["update"], ["install", "--yes", "--no-install-recommends", "nfs-common"]:
        subprocess.run(
            [APT_GET, *wait, *arguments],
            check=True,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            timeout=APT_TIMEOUT_S,
        )


def start(source: str, port: int) -> None:
    """Mount the share and start the service; what fails is tried again at the next event."""
    units = {MOUNT: MOUNT_UNIT.format(source=source, port=port), SERVICE: SERVICE_UNIT}
    if any(_read(name) != text for name, text in units.items()):
        if not stop():
            return  # The share moved, and the old one is in use: both must not be mixed up.
        for name, text in units.items():
            (UNITS / name).write_text(text)
        _systemctl("daemon-reload")
    if not is_running():
        _systemctl("enable", "--now", *units)


def stop() -> bool:
    """Stop the service and unmount the share; whether it is unmounted. No file is removed."""
    if _read(MOUNT):
        _systemctl("disable", "--now", MOUNT, SERVICE)
    return not _systemctl("is-active", "--quiet", MOUNT)


def is_running() -> bool:
    """Whether the service runs; it does so on the share alone."""
    return _systemctl("is-active", "--quiet", SERVICE)


def _read(name: str) -> str:
    path = UNITS / name
    return path.read_text() if path.exists() else ""


def _systemctl(*arguments: str) -> bool:
    """Run systemctl; whether it succeeded, in time."""
    command = [SYSTEMCTL, *arguments]
    try:
        return subprocess.run(command, check=False, timeout=SYSTEMCTL_TIMEOUT_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False
