# SPDX-License-Identifier: Apache-2.0
"""A unit that leaves its storage or its machine: nothing of it stays there, but for the images."""

import contextlib
import logging
from collections.abc import Generator

import claim
import exports
import images
import monitoring
import mounts
import nfs
import plan
import settled
from reading import Reader
from values import Report

logger = logging.getLogger(__name__)


def leave_storage(reader: Reader) -> None:
    """Leave no export and no mount, when the storage goes; every image stays."""
    if not reader.has_machine:
        return
    withdraw()
    if reader.is_leaving:  # Juju may run no further hook.
        _leave_machine()
    if reader.peers.is_there:
        # The leader has to know that its shares are not here before another unit has them; and
        # which it has deleted, if it has not heard that yet.
        deleted = reader.said.deleted
        placements = reader.peers.read_placements()
        missing = plan.report_of_missing(reader.unit, placements, deleted)
        reader.peers.write_report(Report(shares=missing, deleted=deleted))


def leave_machine(reader: Reader) -> None:
    """Leave nothing of the charm behind, but for the images: at last, also what failed before."""
    if reader.has_machine:
        _leave_machine()
        claim.release(reader.claim)


def _leave_machine() -> None:
    with _undoing():
        monitoring.remove()
    withdraw()  # Already done, unless Juju didn't wait for the storage.
    if nfs.is_installed():
        with _undoing():
            exports.remove()
    with _undoing():
        nfs.remove(is_used_by_others=bool(exports.read_table()))


def withdraw() -> None:
    """Leave no export and no mount of anybody's; clients get the time to unmount before."""
    settled.forget()
    mounted = mounts.mounted()
    if mounted:
        nfs.wait_for_clients_to_leave()
    if nfs.is_installed():
        with _undoing():
            exports.ensure((), "none")
    for where in mounted:  # Who had the time and stayed would keep the storage busy.
        nfs.expire(nfs.holders(where))
    for failure in mounts.unmount_all(exports.flush):
        logger.warning("%s", failure)
    images.forget_mounted()


@contextlib.contextmanager
def _undoing() -> Generator[None, None, None]:
    """Go on where something can't be undone: nobody would be helped by a hook that fails."""
    try:
        yield
    except (exports.ExportsError, nfs.NfsError, monitoring.MonitoringError) as error:
        logger.warning("%s", error)
