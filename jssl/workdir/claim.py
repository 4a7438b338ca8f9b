"""The folder of a run that trains: who may write there, config.json, the result.

A `TrainingFolder` is used in this order: `open`, `lock`, `compose`, `clear`, `claim`,
`write_result`. All processes of a run call each of these methods.
"""

import contextlib
import errno
import json
import logging
import os
import pathlib
import time
import uuid
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from jssl import data
from jssl.config import ConfigError, UserError, call_with_section, flatten
from jssl.core import DatasetInfo
from jssl.data import files
from jssl.data.files import Unreachable
from jssl.data.source import info_to_json
from jssl.parallel import agreement
from jssl.workdir import identity, run_folder
from jssl.workdir.lock import exclusive_lock
from jssl.workdir.retention import rename

log = logging.getLogger("jssl")
# A run writes these and does not read its identity from them: renamed if they are links or odd.
FILES = ("metrics.jsonl", "nonfinite.json")
FOLDERS = ("tensorboard", "pictures", "profile", "export")
TRACKERS = ("wandb", "mlruns")  # folders in which those packages make their own links
LEFT = (
    *FILES,
    *FOLDERS,
    *TRACKERS,
    "skipped_data.json",
)  # the traces of a start that saved nothing
VISIBLE = 30.0  # seconds after which a file server shows a new file to every host


class TrainingFolder(run_folder.RunFolder):
    """The folder of a run that trains.

    Attributes:
      content: the content of config.json after `compose`; before, an empty dict.
    """

    content: dict[str, Any]

    def __init__(self, workdir: str | os.PathLike[str]) -> None:
        """`workdir` is what --workdir names; `UserError` if it is no valid path."""
        super().__init__(workdir)
        self.content = {}
        if "[" in str(self.path):  # TensorStore takes it for a pattern, and merges no checkpoint
            raise ConfigError(
                "workdir", self.path, "cannot have a '[' in its name", "choose another"
            )

    def open(
        self, config: ml_collections.ConfigDict, extend: bool = False
    ) -> ml_collections.ConfigDict:
        """Makes the folder; returns the config as `check` does.

        Raises:
          UserError: the folder cannot be made, or its run has another config.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                "workdir", self.path, f"cannot be made ({error.strerror})", "choose another"
            ) from None
        return self.check(config, extend)

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keeps other runs out of the folder (`lock.exclusive_lock`)."""
        return exclusive_lock(self.path)

    def check_shared(self) -> None:
        """Raises `UserError` on all processes unless they see the same folder."""
        if jax.process_count() == 1:
            return
        path = self.path / f".shared-{agreement.first(lambda: uuid.uuid4().hex)}"
        first = jax.process_index() == 0
        try:
            agreement.run_on_all_processes(lambda: path.touch() if first else None)
            agreement.run_on_all_processes(lambda: _wait_for(path))
        finally:
            if first:
                path.unlink(missing_ok=True)

    def finished(self, config: ml_collections.ConfigDict) -> dict[str, Any] | None:
        """Returns the result of the run; None before the run is done.

        Raises:
          UserError: the run is done, and `config` names other data. Its paths may differ if they
            hold the same files.
        """
        steps: Any = config.steps
        done = agreement.first(lambda: self.result(steps))
        if done is not None:
            agreement.run_on_all_processes(lambda: self._check_data(config))
        return done

    def _check_data(self, config: ml_collections.ConfigDict) -> None:
        began: Any = self.recorded_config().data
        section: Any = config.data
        moved = [key for key in ("path", "dir") if began[key] != section[key]]
        if not moved:
            return
        key = moved[0]
        what = f"config.data.{key}={began[key]!r}, not {section[key]!r}"
        old = self.stored().get("data", "")
        new = call_with_section(data.load, config.data, "data").source.fingerprint
        if not old or not new:
            log.warning("the result is of the run in %s, on %s", self.path, what)
        elif old != new:
            raise ConfigError(
                "workdir",
                self.path,
                f"holds a finished run on {what}, which holds other files",
                "use another --workdir to train on those, or give the old value to see its result",
            )

    def compose(
        self,
        config: ml_collections.ConfigDict,
        data_info: DatasetInfo,
        fingerprint: str,
        *,
        extend: bool = False,
        changed_data: bool = False,
        recipe: Mapping[str, str] | None = None,
        embeds: str = "encoder",
    ) -> dict[str, Any]:
        """Sets and returns `content`; writes nothing.

        The run in the folder continues as it began. A folder that no run has claimed gets a new id,
        unless an earlier start in it had the same config.

        Args:
          config: the config of the run, in which durations are steps.
          data_info: the facts about its data set.
          fingerprint: of its data set; "" if unknown.
          extend: whether the run gets the steps of `config`.
          changed_data: whether it continues on changed data.
          recipe: name and text of the recipe of a new run.
          embeds: whose encoder evaluations use, "encoder" or "teacher".

        Raises:
          UserError: the data or flags that change the numbers of the run differ.
        """
        info = info_to_json(data_info)
        self.content = agreement.first(
            lambda: self._compose(config, info, fingerprint, extend, changed_data, recipe)
        )
        self.content["embeds"] = embeds
        return self.content

    def _compose(
        self,
        config: ml_collections.ConfigDict,
        info: dict[str, Any],
        fingerprint: str,
        extend: bool,
        changed_data: bool,
        recipe: Mapping[str, str] | None,
    ) -> dict[str, Any]:
        new = json.loads(run_folder.to_json(config))
        if not self.claimed:
            run = _fresh(new, info, fingerprint, self._unsaved(config))
            return run | {"recipe": dict(recipe or {})}
        old = self.stored()
        _check_numbers(self.path, old)
        if fingerprint and old["data"] not in ("", fingerprint) and not changed_data:
            raise ConfigError(
                "workdir",
                self.path,
                "the data set has changed since its run began (other files, names or sizes)",
                "restore it, use another --workdir, or add --changed-data to go on with it",
            )
        if extend and new["steps"] > old["config"]["steps"]:
            result = self.result()
            _extend(self.path, old, new["steps"], 0 if result is None else result.get("step", 0))
        return old | {"data": fingerprint or old["data"]}

    def _unsaved(self, config: ml_collections.ConfigDict) -> str:
        """Returns the id of an earlier start with the same config that saved nothing; else ""."""
        try:
            content = self.stored()
            run_folder.check_same(self.path, self.recorded_config(), config)
            return str(content.get("run", ""))
        except Unreachable:
            raise
        except UserError:
            return ""

    @property
    def mark(self) -> identity.Mark:
        """The mark of the run, that of `content` after `compose`."""
        return identity.mark_of(self.content) if self.content else super().mark

    @property
    def extended_at(self) -> int:
        """The step at which the run had ended when it was extended; 0 if it was not."""
        return max((int(was.get("ended", 0)) for was in self.content["earlier"]), default=0)

    def clear(self) -> None:
        """Renames links and odd files where the run will write, and traces of another start.

        The other start had another config and saved nothing. Nothing is deleted.
        """
        first = jax.process_index() == 0
        agreement.run_on_all_processes(lambda: self._clear() if first else None)

    def _clear(self) -> None:
        for name in (*FILES, *FOLDERS, *TRACKERS):
            path = self.path / name
            if os.path.lexists(path) and not _plain(path):
                log.warning("%s is moved aside: nothing is written through links", path)
                rename(path, f"aside-{name}")
        known = self._known()
        if self.claimed or known == self.content["run"]:
            return
        left = [name for name in LEFT if os.path.lexists(self.path / name)]
        if not left:
            return
        target = self.path / f"unsaved-{identity.short(known)}"
        if os.path.lexists(target):
            rename(target, target.name)
        target.mkdir()
        log.warning("what a start that saved nothing has left is in %s: %s", target, left)
        for name in left:
            try:
                (self.path / name).rename(target / name)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.EXDEV):  # a mount cannot be moved
                    raise
                log.warning("%s stays where it is: %s", self.path / name, error.strerror)

    def _known(self) -> str:
        """Returns the id in config.json; "" if there is none."""
        try:
            return str(self.stored().get("run", ""))
        except Unreachable:
            raise
        except UserError:
            return ""

    def claim(self) -> None:
        """Writes `content` as config.json, after all checks of the run; this claims the folder."""
        first = jax.process_index() == 0
        agreement.run_on_all_processes(lambda: self._claim() if first else None)

    def _claim(self) -> None:
        path = self.path / "config.json"
        result = self.path / "result.json"
        if os.path.lexists(path) and self.claimed and self.stored() == self.content:
            return
        files.write_json(path, self.content)
        if result.exists():  # the run was extended: it gets a new result at its new end
            earlier = self.content["earlier"]
            steps = earlier[-1]["steps"] if earlier else 0
            rename(result, f"result-{steps}.json")

    def write_result(self, values: dict[str, Any]) -> dict[str, Any]:
        """Writes the result, which marks the run as done; returns `values`."""
        if jax.process_index() == 0:
            mark = self.mark
            content = values | {"run": mark.run, "digest": mark.digest}
            run_folder.write(self.path / "result.json", content)
        return values


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


def _wait_for(path: pathlib.Path) -> None:
    until = time.monotonic() + VISIBLE
    while not path.exists():
        if time.monotonic() > until:
            raise ConfigError(
                "workdir",
                path.parent,
                "not the folder that process 0 sees",
                "it must be one folder for all processes (NFS, Lustre, a bucket)",
            )
        time.sleep(0.1)


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


def _check_numbers(folder: pathlib.Path, content: dict[str, Any]) -> None:
    for name, value in identity.numbers().items():
        old = content["numbers"].get(name, value)
        if old != value:
            raise ConfigError(
                "workdir",
                folder,
                f"holds a run that began with {name}={old}, and it is {value} now",
                f"set {name.upper()}={(int(old) if isinstance(old, bool) else old)} to go on with "
                "it, or use another --workdir",
            )


def _extend(folder: pathlib.Path, content: dict[str, Any], steps: int, ended: int) -> None:
    """Gives the run more steps, in place; `ended`: the step of its result, 0 if it has none."""
    old = content["config"]["steps"]
    log.warning(
        "%s is extended from %d to %d steps: schedules now end there, so the learning rate "
        "leaps to where a run of that length has it",
        folder,
        old,
        steps,
    )
    was = {"digest": content["digest"], "steps": old, "ended": ended}
    content["earlier"] = [*content["earlier"], was]
    content["config"] = content["config"] | {"steps": steps}
    content["digest"] = identity.digest(content["config"], content["data_info"])


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
