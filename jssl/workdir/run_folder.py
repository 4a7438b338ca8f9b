"""The folder of one run: its config, the versions that made it, and its result.

``config.json`` says whose folder it is (`jssl.workdir.identity`), from the first checkpoint on; a
run with another config is refused. A start that saved nothing does not claim the folder
(`jssl.workdir.claim`). ``result.json`` is written at the end; a finished run is not run again.
Where a part lies that says whose the folder is, no link is followed.
"""

import json
import os
import pathlib
import subprocess
from typing import Any

import jax
import ml_collections

import jssl
from jssl.config import UserError, durations, flatten, require_local_path, trust
from jssl.core import DatasetInfo
from jssl.data import files
from jssl.data.files import Damaged
from jssl.data.source import info_from_json
from jssl.recipes import recipe
from jssl.workdir import identity
from jssl.workdir.retention import step_of

# What may differ when a run is started again: where and how it runs, not what it computes.
MAY_CHANGE_ON_RESUME = (
    "mesh.",
    "log.",
    "checkpoint.",
    "eval.",
    "alarm.",
    "finetune.",
    "data.dir",
    "data.path",
    "data.workers",
    "data.tokenizer",
    "data.on_device",
    "data.max_corrupt_fraction",
)
# Paths and settings that the hosts of one run need not share.
HOST = ("data.dir", "data.path", "data.tokenizer", "data.workers", "log.wandb", "log.tensorboard")


def open_run_folder(workdir, config, extend: bool = False) -> tuple[pathlib.Path, Any]:
    """(folder, config): makes the folder, or checks that the run in it is one of this very config;
    with `extend` it may have more ``steps``, and there must be one. The durations of the config are
    steps if the run has found out how many examples there are."""
    if not workdir:
        raise UserError("--workdir is missing; name a folder for this run, e.g. --workdir=runs/a")
    folder = resolve(workdir)
    if "[" in str(folder):  # TensorStore takes it for a pattern, and merges no checkpoint there
        raise UserError(f"--workdir={folder} cannot have a '[' in its name; choose another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be made ({error.strerror}); choose another"
        ) from None
    check_parts(folder)
    if claimed(folder):
        old = recorded(folder)
        config = durations.resolved(config, recorded_info(folder).num_examples)
        check_same(folder, old, from_json(to_json(config)), extend)
    elif extend:
        raise UserError(f"--workdir={folder} holds no run to extend; leave out --extend")
    return folder, config


def resolve(workdir) -> pathlib.Path:
    """The absolute path that --workdir names."""
    name = str(workdir)
    try:
        name.encode("utf-8")  # Orbax needs it
    except UnicodeEncodeError:
        raise UserError(
            f"--workdir={ascii(name)} is not UTF-8; rename that folder, or choose another"
        ) from None
    if "\0" in name:
        raise UserError(f"--workdir={ascii(name)} holds a NUL; choose another")
    return pathlib.Path(require_local_path("--workdir", name)).expanduser().absolute()


def saved(folder: pathlib.Path) -> bool:
    """Whether a run has saved anything in the folder: a checkpoint, or its result."""
    if os.path.lexists(folder / "result.json"):
        return True
    names = os.listdir(folder / "checkpoints") if (folder / "checkpoints").is_dir() else []
    bare = [name.removeprefix("damaged-").removeprefix("passed-") for name in names]
    return any(step_of(name.partition("-")[0]) is not None for name in bare)


def claimed(folder: pathlib.Path) -> bool:
    """Whether the folder belongs to a run: a start that saved nothing leaves it to others."""
    return os.path.lexists(folder / "config.json") and saved(folder)


def check_parts(folder: pathlib.Path) -> None:
    """`UserError` for links and other oddities where the parts lie that say whose folder it is,
    and for checkpoints or a result of which nobody knows whose they are."""
    for name in ("config.json", "result.json", "passed.json", "checkpoints"):
        path = folder / name
        if path.is_symlink():
            raise UserError(
                f"{path} is a link, and nothing is written through one; put the file or folder "
                "itself there (--workdir may be a link)"
            )
        if path.exists() and not (path.is_dir() if name == "checkpoints" else path.is_file()):
            raise UserError(f"{path} is not what jssl writes; move it out of the way")
    if saved(folder) and not (folder / "config.json").exists():
        raise UserError(
            f"--workdir={folder} holds checkpoints or a result, and no config.json that says of "
            "which run; restore config.json, or use another --workdir"
        )


def check_same(folder, old, new, extend: bool = False) -> None:
    """`UserError` naming the first key in which the configs of two runs differ, ``method`` before
    all others. With `extend` the new one may have more ``steps``."""
    old = flatten(old)
    new = flatten(new)
    for key in sorted(old.keys() | new.keys(), key=lambda key: (key != "config.method", key)):
        if key.removeprefix("config.").startswith(MAY_CHANGE_ON_RESUME) or old.get(key) == new.get(
            key
        ):
            continue
        more = key == "config.steps" and new[key] > old[key]
        if more and extend:
            continue
        cure = "use another --workdir, or give the old value to go on with that run"
        if more:
            cure = "add --extend to train that run further, or use another --workdir"
        raise UserError(
            f"--workdir={folder} holds a run with {key}={old.get(key)!r}, not {new.get(key)!r}; "
            f"{cure}"
        )


def stored(folder: pathlib.Path) -> dict[str, Any]:
    """What config.json holds; `UserError` unless it is what jssl wrote."""
    path = folder / "config.json"
    content = read(path)
    try:
        identity.check_stored(path, content)
    except Damaged as error:
        raise unreadable(path, error.reason) from None
    return content


def stored_config(workdir) -> ml_collections.ConfigDict:
    """`recorded`, to build a run of. Its method is one of jssl or one that the user named in this
    command: `UserError` if not, since a workdir may come from somebody else."""
    config = recorded(workdir)
    trust.check_method(config.get("method"), f"--workdir={workdir}")
    return config


def recorded(workdir) -> ml_collections.ConfigDict:
    """The config of the run in `workdir`; a key that is newer than the run has its default."""
    path = resolve(workdir) / "config.json"
    if not workdir or not os.path.lexists(path):  # and not path.exists(), which minds long names
        raise UserError(f"--workdir={workdir} holds no run (no config.json); name a trained one")
    try:
        return recipe("", from_json(json.dumps(stored(path.parent)["config"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unreadable(path, f"it is not what jssl writes: {error}") from None


def recorded_info(workdir) -> DatasetInfo:
    """What the run in `workdir` has stored of its data set."""
    path = resolve(workdir) / "config.json"
    try:
        return info_from_json(stored(path.parent)["data_info"])
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(path, f"it is not what jssl writes: {error}") from None


def known_info(folder: pathlib.Path) -> DatasetInfo | None:
    """`recorded_info` of the run in the folder; None before it has begun."""
    return recorded_info(folder) if claimed(folder) else None


def mark(workdir) -> identity.Mark:
    """Whose checkpoints those in `workdir` are."""
    return identity.mark_of(stored(resolve(workdir)))


def result(folder: pathlib.Path, steps: int = 0) -> dict | None:
    """What `write_result` wrote, if the run is done, and is not to make more `steps` than it had.
    `UserError` if it is the result of another run."""
    path = folder / "result.json"
    if not os.path.lexists(path):
        return None
    content = read(path)
    config = stored(folder)
    if not isinstance(content, dict):
        raise unreadable(path, "it is not what jssl writes")
    mine = identity.mark_of(config)
    run = content.pop("run", "")
    digest = content.pop("digest", "")
    if run != mine.run:
        raise UserError(
            f"{path} is of run {identity.short(run)}, and config.json of "
            f"{identity.short(mine.run)}; restore the one that belongs here"
        )
    stored_steps = config["config"].get("steps")
    extended = isinstance(stored_steps, int) and steps > stored_steps
    return None if extended or digest in mine.earlier else content


def write_result(folder: pathlib.Path, values: dict, mark: identity.Mark) -> dict:
    """Marks the run as done."""
    if jax.process_index() == 0:
        write(folder / "result.json", values | {"run": mark.run, "digest": mark.digest})
    return values


def read(path: pathlib.Path) -> Any:
    """A JSON file of ours; `UserError` if it was damaged, `Unreachable` if it cannot be read."""
    try:
        return files.read_json(path)
    except Damaged as error:
        raise unreadable(path, error.reason) from None
    except FileNotFoundError as error:
        raise unreadable(path, error.strerror) from None


def unreadable(path, why) -> UserError:
    return UserError(f"{path} cannot be read ({why}); restore it or use another --workdir")


def write(path: pathlib.Path, values: Any) -> None:
    """Whole or not at all; a link in its place is replaced."""
    files.write_json(path, values)


def to_json(config) -> str:
    return json.dumps(config.to_dict(), default=list)


def from_json(text: str) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(lists_to_tuples(json.loads(text))).lock()


def lists_to_tuples(tree):
    """JSON's lists as the tuples that configs have."""
    if isinstance(tree, dict):
        return {key: lists_to_tuples(value) for key, value in tree.items()}
    return tuple(lists_to_tuples(value) for value in tree) if isinstance(tree, list) else tree


def versions() -> dict[str, str]:
    """What code wrote this: jssl (and its commit, in a checkout), its libraries, the devices."""
    here = pathlib.Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        commit = process.stdout.strip()
    except OSError:  # no git on this machine
        commit = ""
    device = jax.devices()[0].device_kind
    mine = {"jssl": jssl.__version__, "commit": commit, "device": device}
    return mine | identity.packages()
