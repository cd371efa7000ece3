import os
import time

import pytest

from federated.deployment import health


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("KERASREG_HEALTH", str(tmp_path / "health"))
    return tmp_path / "health"


def test_a_command_that_does_not_report_is_well(file):
    assert health.main() == 0


def test_one_that_reports(file):
    with health.reporting(lambda: True):
        assert health.main() == 0
        assert file.exists()
    assert not file.exists()


def test_one_that_is_not_well(file, capsys):
    with health.reporting(lambda: False):
        old = time.time() - health.STALE - 5
        os.utime(file, (old, old))
        assert health.main() == 1
    assert capsys.readouterr().err.startswith("not well for 6")


def test_nobody_asks(file, monkeypatch):
    monkeypatch.delenv("KERASREG_HEALTH")
    with health.reporting(lambda: True):
        assert health.main() == 0
    assert not file.exists()


def test_it_does_not_import_tensorflow():
    """A container asks every 30 seconds."""
    import subprocess
    import sys

    program = (
        "import sys, federated.deployment.health, federated.deployment.server, "
        "federated.deployment.client; "
        "print(sorted({'tensorflow', 'keras', 'kerasreg'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
