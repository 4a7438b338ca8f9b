"""Eight simulated devices, a persistent compilation cache, and what several tests share."""

import gc
import os
import pathlib
import re
import subprocess
import sys
from importlib import metadata

ROOT = pathlib.Path(__file__).parent.parent
# Before JAX is imported anywhere:
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling is most of the suite, and its programs are tiny: level 0 halves the time. Without the
# fusion emitters it takes a third of the rest; newer versions do not know this flag.
FAST = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if metadata.version("jaxlib").split(".")[:2] <= ["0", "10"]:
    FAST += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {FAST}"
os.environ.setdefault("GLIBC_TUNABLES", "")  # commands do not start twice, see huge_pages.py
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

gc.set_threshold(200_000, 50, 100)  # tracing makes many objects that live; a tenth of the time

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from jax.sharding import Mesh  # noqa: E402
from PIL import Image  # noqa: E402

from jssl import config  # noqa: E402
from jssl.parallel import mesh  # noqa: E402


def make_mesh(data: int, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh of the first data x fsdp x tensor devices."""
    devices = jax.devices()[: data * fsdp * tensor]
    return mesh.make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=devices)


def recipes() -> list[str]:
    """Every recipe of configs/, as "configs/x.py:tiny"."""
    return [f"configs/{path.name}:tiny" for path in sorted((ROOT / "configs").glob("*.py"))]


ALL = os.environ.get("JSSL_LAWS") == "all"  # `make laws`
in_make_laws = pytest.mark.skipif(not ALL, reason="`make laws` runs it")
BY_METHOD = {
    config.load(str(ROOT / name)).method: name for name in reversed(recipes())
}  # the first of each


# Files whose tests share something that is dear to make.
TOGETHER = (
    "test_accumulate.py",
    "test_edges.py",
    "test_export.py",
    "test_feature_parts.py",
    "test_feed.py",
    "test_finetune.py",
    "test_fuzz.py",
    "test_joint_losses.py",
    "test_language_evals.py",
    "test_masking.py",
    "test_messages.py",
    "test_methods.py",
    "test_python.py",
    "test_report.py",
    "test_scale.py",
    "test_start.py",
    "test_step_program.py",
    "test_text_data.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests of one recipe, and of one file of `TOGETHER`, run one after another in one process."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            recipe = re.search(r"configs/\w+\.py:tiny", nodeid)
            file = nodeid.partition("::")[0]
            return recipe[0] if recipe else file if file.endswith(TOGETHER) else nodeid

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    """Tests name recipes by their path in the repository."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def real_data():
    """The folder of prepared real data sets; the test is skipped where there is none."""
    folder = pathlib.Path(os.environ.get("JSSL_DATA_DIR", ROOT / ".." / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is missing; set JSSL_DATA_DIR to use yours")
    return folder.resolve()


@pytest.fixture(scope="session")
def vit_run(tmp_path_factory):
    """(workdir, images) of `helpers.html_names.train_vit`."""
    from helpers.html_names import train_vit

    return train_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture
def photos(tmp_path):
    """A folder of 40 small pictures in no classes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        pixels = rng.integers(0, 256, (20 + i % 7, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"photo {i:02}.png")
    return folder


@pytest.fixture
def holder(tmp_path):
    """A process that has locked the workdir `a`."""
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
    code += "print('process 7 on host3', file=f, flush=True); print(1, flush=True); time.sleep(600)"
    (tmp_path / "a").mkdir()
    words = [sys.executable, "-c", code, str(tmp_path / "a" / ".lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        yield process
        process.kill()
