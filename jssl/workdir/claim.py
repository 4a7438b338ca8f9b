"""Claims a workdir for a run: the content of config.json, and the removal of obstacles.

All of it happens while the run holds the lock of the folder (`jssl.workdir.lock`), before its first
step. The functions are collective: all processes of a run call them.
"""

import errno
import json
import logging
import os
import pathlib
import time
import uuid
from typing import Any

import jax
import ml_collections

from jssl import data
from jssl.config import UserError, call_with_section, flatten
from jssl.core import DatasetInfo
from jssl.data import files
from jssl.data.files import Unreachable
from jssl.data.source import info_to_json
from jssl.parallel import agreement
from jssl.workdir import identity, run_folder
from jssl.workdir.retention import rename

log = logging.getLogger("jssl")
# A run writes these and does not read its identity from them: renamed if they are links or odd.
FILES = ("metrics.jsonl", "nonfinite.json")
FOLDERS = ("tensorboard", "pictures", "profile")
TRACKERS = ("wandb", "mlruns")  # folders in which those packages make their own links
LEFT = (*FILES, *FOLDERS, *TRACKERS, "passed.json")  # the traces of a start that saved nothing
VISIBLE = 30.0  # seconds after which a file server shows a new file to every host


def common(config: ml_collections.ConfigDict, **more: Any) -> dict[str, Any]:
    """Returns the facts on which the processes of a run have to agree (`agreement.check`).

    They are the config without the paths of a host, `more`, versions and flags.
    """
    flat = {
        key: value
        for key, value in flatten(config).items()
        if not key.removeprefix("config.").startswith(run_folder.HOST)
    }
    ordered = dict(sorted(flat.items(), key=lambda item: (item[0] != "config.method", item[0])))
    return ordered | more | identity.facts()


def check_shared(folder: pathlib.Path) -> None:
    """Raises `UserError` on all processes unless they see the same folder."""
    if jax.process_count() == 1:
        return
    path = folder / f".shared-{agreement.first(lambda: uuid.uuid4().hex)}"
    try:
        agreement.run_on_all_processes(lambda: path.touch() if jax.process_index() == 0 else None)
        agreement.run_on_all_processes(lambda: _wait_for(path))
    finally:
        if jax.process_index() == 0:
            path.unlink(missing_ok=True)


def _wait_for(path: pathlib.Path) -> None:
    until = time.monotonic() + VISIBLE
    while not path.exists():
        if time.monotonic() > until:
            raise UserError(
                f"--workdir={path.parent} is not the folder that process 0 sees; it must be one "
                "folder for all processes (NFS, Lustre, a bucket)"
            )
        time.sleep(0.1)


def check_data(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Checks that `config` names the data on which a finished run was trained.

    The paths may differ from those of the run if they hold the same files.

    Raises:
      UserError: the data differs.
    """
    agreement.run_on_all_processes(lambda: _check_data(folder, config))


def _check_data(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    began: Any = run_folder.recorded(folder).data
    section: Any = config.data
    moved = [key for key in ("path", "dir") if began[key] != section[key]]
    if not moved:
        return
    key = moved[0]
    what = f"data.{key}={began[key]!r}, not {section[key]!r}"
    old = run_folder.stored(folder).get("data", "")
    source = call_with_section(data.load, config.data, "data").source
    new = source.fingerprint
    if not old or not new:
        log.warning("the result is of the run in %s, on %s", folder, what)
    elif old != new:
        raise UserError(
            f"--workdir={folder} holds a finished run on {what}, which holds other files; use "
            "another --workdir to train on those, or give the old value to see its result"
        )


def content(
    folder: pathlib.Path,
    config: ml_collections.ConfigDict,
    data_info: DatasetInfo,
    fingerprint: str,
    *,
    extend: bool = False,
    changed_data: bool = False,
) -> dict[str, Any]:
    """Returns the content of config.json for a run; writes nothing.

    The run in the folder continues as it began. A folder that no run has claimed gets a new id,
    unless an earlier start in it had the same config.

    Args:
      folder: the folder of the run.
      config: its config, in which durations are steps.
      data_info: the facts about its data set.
      fingerprint: of its data set; "" if unknown.
      extend: whether the run gets the steps of `config`.
      changed_data: whether it continues on changed data.

    Raises:
      UserError: the data or flags that change the numbers of the run differ.
    """
    info = info_to_json(data_info)
    return agreement.first(
        lambda: _content(folder, config, info, fingerprint, extend, changed_data)
    )


def _content(
    folder: pathlib.Path,
    config: ml_collections.ConfigDict,
    info: dict[str, Any],
    fingerprint: str,
    extend: bool,
    changed_data: bool,
) -> dict[str, Any]:
    new = json.loads(run_folder.to_json(config))
    if not run_folder.claimed(folder):
        return _fresh(new, info, fingerprint, _unsaved(folder, config))
    old = run_folder.stored(folder)
    _check_numbers(folder, old)
    if fingerprint and old["data"] not in ("", fingerprint) and not changed_data:
        raise UserError(
            f"--workdir={folder}: the data set has changed since its run began (other files, names "
            "or sizes); restore it, use another --workdir, or add --changed-data to go on with it"
        )
    if extend and new["steps"] > old["config"]["steps"]:
        _extend(folder, old, new["steps"])
    return old | {"data": fingerprint or old["data"]}


def _fresh(
    config: dict[str, Any], info: dict[str, Any], fingerprint: str, run: str
) -> dict[str, Any]:
    return {
        "format": identity.FORMAT,
        "run": run or uuid.uuid4().hex,
        "digest": identity.digest(config, info),
        "config": config,
        "data_info": info,
        "data": fingerprint,
        "numbers": identity.numbers(),
        "earlier": [],
        "versions": run_folder.versions(),
    }


def _unsaved(folder: pathlib.Path, config: ml_collections.ConfigDict) -> str:
    """Returns the id of an earlier start with the same config that saved nothing; else ""."""
    try:
        content = run_folder.stored(folder)
        run_folder.check_same(folder, run_folder.recorded(folder), config)
        return str(content.get("run", ""))
    except Unreachable:
        raise
    except UserError:
        return ""


def _check_numbers(folder: pathlib.Path, content: dict[str, Any]) -> None:
    for name, value in identity.numbers().items():
        old = content["numbers"].get(name, value)
        if old != value:
            raise UserError(
                f"--workdir={folder} holds a run that began with {name}={old}, and it is {value} "
                f"now; set {name.upper()}={int(old) if isinstance(old, bool) else old} to go on "
                "with it, or use another --workdir"
            )


def _extend(folder: pathlib.Path, content: dict[str, Any], steps: int) -> None:
    old = content["config"]["steps"]
    log.warning(
        "%s is extended from %d to %d steps: schedules now end there, so the learning rate "
        "leaps to where a run of that length has it",
        folder,
        old,
        steps,
    )
    content["earlier"] = [*content["earlier"], {"digest": content["digest"], "steps": old}]
    content["config"] = content["config"] | {"steps": steps}
    content["digest"] = identity.digest(content["config"], content["data_info"])


def clear(folder: pathlib.Path, stored: dict[str, Any]) -> None:
    """Renames links and odd files where the run will write, and traces of another start.

    The other start had another config and saved nothing. Nothing is deleted.
    """
    agreement.run_on_all_processes(
        lambda: _clear(folder, stored) if jax.process_index() == 0 else None
    )


def _clear(folder: pathlib.Path, stored: dict[str, Any]) -> None:
    for name in (*FILES, *FOLDERS, *TRACKERS):
        path = folder / name
        if os.path.lexists(path) and not _plain(path):
            log.warning("%s is moved aside: nothing is written through links", path)
            rename(path, f"aside-{name}")
    if run_folder.claimed(folder) or _known(folder) == stored["run"]:
        return
    left = [name for name in LEFT if os.path.lexists(folder / name)]
    if not left:
        return
    target = folder / f"unsaved-{identity.short(_known(folder))}"
    if os.path.lexists(target):
        rename(target, target.name)
    target.mkdir()
    log.warning("what a start that saved nothing has left is in %s: %s", target, left)
    for name in left:
        try:
            (folder / name).rename(target / name)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV):  # a mount cannot be moved
                raise
            log.warning("%s stays where it is: %s", folder / name, error.strerror)


def _known(folder: pathlib.Path) -> str:
    """Returns the id in config.json; "" if there is none."""
    try:
        return str(run_folder.stored(folder).get("run", ""))
    except Unreachable:
        raise
    except UserError:
        return ""


def _plain(path: pathlib.Path) -> bool:
    """Whether a path is a regular file or a folder, as its name requires.

    A folder must not contain links at any depth.
    """
    if path.is_symlink():
        return False
    if path.name in FILES:
        return path.is_file()
    if path.name in TRACKERS or not path.is_dir():
        return path.is_dir()
    for here, folders, names in os.walk(path):
        if any(os.path.islink(os.path.join(here, name)) for name in folders + names):
            return False
    return True


def write_config(folder: pathlib.Path, stored: dict[str, Any]) -> None:
    """Writes `stored` as config.json, after all checks of the run; this claims the folder."""
    agreement.run_on_all_processes(
        lambda: _claim(folder, stored) if jax.process_index() == 0 else None
    )


def _claim(folder: pathlib.Path, stored: dict[str, Any]) -> None:
    path = folder / "config.json"
    result = folder / "result.json"
    if os.path.lexists(path) and run_folder.claimed(folder) and run_folder.stored(folder) == stored:
        return
    files.write_json(path, stored)
    if result.exists():  # the run was extended: it gets a new result at its new end
        steps = stored["earlier"][-1]["steps"] if stored["earlier"] else 0
        rename(result, f"result-{steps}.json")
