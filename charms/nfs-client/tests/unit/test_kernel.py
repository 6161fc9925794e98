# SPDX-License-Identifier: Apache-2.0

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kernel


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
@pytest.mark.parametrize(("text", "what"), [("lxc\n", "This lxc container"), (None, "Root here")])
def test_refused(
    number: int, text: str | None, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kernel, "CONTAINER", tmp_path / "container")
    if text:
        kernel.CONTAINER.write_text(text)
    assert kernel._explain(number) == (
        f"{what} may not mount NFS ({os.strerror(number)}): use a virtual machine, or see"
        " 'use LXD' in the how-to"
    )


def test_kernel_without_nfs():
    assert "has no NFS" in kernel._explain(errno.ENODEV)


def test_not_refused():
    assert kernel._explain(errno.EINVAL) == ""


def test_the_kernel_is_asked():
    """Whoever may not mount anything may not mount NFS."""
    code = "import os; os.setuid(65534); import kernel; print(kernel.find_refusal())"
    found = subprocess.run(
        [sys.executable, "-c", code if os.getuid() == 0 else code.partition("; ")[2]],
        cwd=Path(kernel.__file__).parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert "may not mount NFS (Operation not permitted)" in found.stdout
