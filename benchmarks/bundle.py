"""Carries what jssl needs to a machine without a network that has JAX and Flax.

    python benchmarks/bundle.py pack build/bundle --data=DATA/cifar10     # here, with a network
    python benchmarks/bundle.py unpack build/bundle /tmp/jssl             # there

`pack` downloads wheels (CPython 3.12 on x86-64 Linux), in the versions of requirements.lock, and
packs folders of data: about 50 MB with CIFAR-10. `unpack` installs them below a folder, imports the
commands that measure and what they use, and prints what to set: PYTHONPATH, and the folder of the
data. A checkout of jssl comes beside the bundle.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).parent.parent
# What jssl and the peers need and an image for JAX and PyTorch may lack.
PACKAGES = (
    "grain",
    "array_record",
    "tensorflow-datasets",
    "tensorflow-metadata",
    "ml_collections",
    "simplejpeg",
    "tensorboardX",
    "importlib-resources",
    "immutabledict",
    "simple-parsing",
    "docstring-parser",
    "termcolor",
    "dm-tree",
    "toml",
    "portpicker",
    "googleapis-common-protos",
    "six",
    "kornia",
    "kornia_rs",
    "pillow",
    "safetensors",
    "tokenizers",
    "chex",
    "toolz",
    "attrs",
    "certifi",
    "charset-normalizer",
    "cloudpickle",
    "idna",
    "packaging",
    "requests",
    "tqdm",
    "urllib3",
    "wrapt",
)
NEEDED = "jssl.commands.bench, jssl.commands.evaluate, jssl.commands.train, grain, "
NEEDED += "tensorflow_datasets.public_api"  # which tensorflow_datasets itself imports at first use
SOURCE_ONLY = ("promise",)  # pure Python, published without a wheel
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux1_x86_64", "any"]


def pip(*words: str) -> None:
    """Runs pip of this interpreter."""
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)


def pack(bundle: pathlib.Path, python_version: str, data: list[str]) -> None:
    """Fills the folder `bundle` with wheels, and with an archive of each data folder."""
    wheels = bundle / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    common = ["--quiet", "--no-deps", "--constraint", str(ROOT / "requirements.lock")]
    target = [f"--python-version={python_version}", "--implementation=cp", "--only-binary=:all:"]
    target += [f"--platform={name}" for name in PLATFORMS]
    pip("download", *common, *target, f"--dest={wheels}", *PACKAGES)
    pip("wheel", *common, f"--wheel-dir={wheels}", *SOURCE_ONLY)
    for folder in map(pathlib.Path, data):
        with tarfile.open(bundle / f"{folder.name}.tar.xz", "w:xz") as archive:
            archive.add(folder.resolve(), folder.name)
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    print(f"{bundle}: {size / 1e6:.1f} MB")


def unpack(bundle: pathlib.Path, folder: pathlib.Path) -> None:
    """Installs the wheels into `folder`/site and unpacks the data into `folder`/data.

    Raises:
      subprocess.CalledProcessError: a package that jssl needs is neither there nor on this machine.
    """
    wheels = sorted(str(path) for path in (bundle / "wheels").glob("*.whl"))
    site = folder.resolve() / "site"
    pip("install", "--quiet", "--no-index", "--no-deps", "--target", str(site), *wheels)
    path = os.pathsep.join([str(ROOT), str(site)])
    env = os.environ | {"PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", f"import {NEEDED}"], env=env, check=True)
    data = folder.resolve() / "data"
    for path in bundle.glob("*.tar.xz"):
        with tarfile.open(path) as archive:
            archive.extractall(data, filter="data")
    print(f"export PYTHONPATH={site}")
    print(f"export JSSL_DATA_DIR={data}")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("bundle", type=pathlib.Path)
    packing.add_argument("--python-version", default="3.12", help="of the other machine")
    packing.add_argument("--data", nargs="*", default=[], help="folders, as TFDS made them")
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("bundle", type=pathlib.Path)
    unpacking.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()
    if args.command == "pack":
        pack(args.bundle, args.python_version, args.data)
    else:
        unpack(args.bundle, args.folder)


if __name__ == "__main__":
    main()
