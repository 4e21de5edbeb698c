"""Fixtures of the launch scripts: a cloud, and a checkout to bring there."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import fake_gcloud
import pytest
from checkouts import commit_all
from fake_cloud import Cloud

LAUNCH = Path(__file__).resolve().parents[2] / "launch"


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git checkout with the launch scripts, in a folder whose name needs quoting."""
    folder = tmp_path_factory.mktemp("check out's")
    (folder / "launch").mkdir()
    for script in LAUNCH.glob("*.sh"):
        shutil.copy(script, folder / "launch")
    (folder / "experiments").mkdir()
    (folder / "experiments" / "tiny.py").write_text("# as it was committed\n")
    (folder / ".gitignore").write_text("build/\n")
    commit_all(folder)
    return folder


@pytest.fixture(scope="session")
def set_up(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    """The folder of a cloud with a VM that is set up."""
    cloud = Cloud(tmp_path_factory.mktemp("set_up") / "cloud", checkout)
    cloud("create", "--type", "v5litepod-16")
    cloud("setup")
    return cloud.folder


@pytest.fixture
def cloud(tmp_path: Path, checkout: Path, set_up: Path) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path / "cloud", checkout, set_up)
    yield cloud
    fake_gcloud.end_training(cloud.folder / "vms")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have settings of their own."""
    for name in [name for name in os.environ if name.startswith(("TPU_", "JAX_", "CLOUDSDK_"))]:
        monkeypatch.delenv(name)
