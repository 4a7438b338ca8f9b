"""The folder of one run: its config, the versions that made it, its checkpoints, its result.

``config.json`` identifies the run (`jssl.workdir.identity`), from the first checkpoint on; a run
with another config is refused. A start that saved nothing does not claim the folder
(`jssl.workdir.claim`). ``result.json`` is written at the end; a finished run does not run again. No
link is followed in place of a part that identifies the run.
"""

import json
import os
import pathlib
import subprocess
from typing import Any

import jax
import ml_collections

import jssl
from jssl.config import (
    ConfigError,
    UserError,
    call_with_section,
    durations,
    flatten,
    plugins,
    require_local_path,
    trust,
)
from jssl.core import DatasetInfo
from jssl.data import files
from jssl.data.files import Damaged
from jssl.data.source import info_from_json
from jssl.recipes import recipe
from jssl.workdir import identity, metrics_file
from jssl.workdir.checkpoint import Checkpoints
from jssl.workdir.retention import step_of

# Keys that may change when a run is started again: they do not change what it computes.
MAY_CHANGE_ON_RESUME = (
    "mesh.",
    "log.",
    "checkpoint.",
    "eval.",
    "alarm.",
    "finetune.",
    "init_from.path",  # read before the first step only
    "teacher.path",  # as well
    "data.dir",
    "data.path",
    "data.workers",
    "data.tokenizer",
    "data.on_device",
    "data.max_corrupt_fraction",
)
# Paths and settings that the hosts of one run need not share.
HOST = ("data.dir", "data.path", "data.tokenizer", "data.workers", "log.wandb", "log.tensorboard")


class RunFolder:
    """The folder of one run, to read what the run has stored.

    Nothing in the folder is written, and a run may be active there. `jssl.workdir.claim` has the
    folder of a run that trains.

    Attributes:
      path: the absolute path.
    """

    path: pathlib.Path

    def __init__(self, workdir: str | os.PathLike[str]) -> None:
        """`workdir` is what --workdir names; `UserError` if it is no valid path."""
        self.path = resolve(workdir)

    @property
    def saved(self) -> bool:
        """Whether a run has saved anything here: a checkpoint, or its result."""
        if os.path.lexists(self.path / "result.json"):
            return True
        folder = self.path / "checkpoints"
        names = os.listdir(folder) if folder.is_dir() else []
        bare = [name.removeprefix("damaged-").removeprefix("passed-") for name in names]
        return any(step_of(name.partition("-")[0]) is not None for name in bare)

    @property
    def claimed(self) -> bool:
        """Whether the folder belongs to a run; a start that saved nothing does not claim it."""
        return os.path.lexists(self.path / "config.json") and self.saved

    def check_parts(self) -> None:
        """Checks the parts of the folder that identify its run.

        Raises:
          UserError: a part is a link or of the wrong type, or there are checkpoints or a result
            without config.json.
        """
        for name in ("config.json", "result.json", "skipped_data.json", "checkpoints"):
            path = self.path / name
            if path.is_symlink():
                raise UserError(
                    f"{path} is a link, and nothing is written through one; put the file or folder "
                    "itself there (--workdir may be a link)"
                )
            if path.exists() and not (path.is_dir() if name == "checkpoints" else path.is_file()):
                raise UserError(f"{path} is not what jssl writes; move it out of the way")
        if self.saved and not (self.path / "config.json").exists():
            raise ConfigError(
                "workdir",
                self.path,
                "holds checkpoints or a result, and no config.json that says of which run",
                "restore config.json, or use another --workdir",
            )

    def stored(self) -> dict[str, Any]:
        """Reads config.json; raises `UserError` unless jssl wrote it so."""
        path = self.path / "config.json"
        if not os.path.lexists(path):  # and not path.exists(), which fails for long names
            raise ConfigError(
                "workdir", self.path, "holds no run (no config.json)", "name a trained one"
            )
        content = read(path)
        try:
            identity.check_stored(path, content)
        except Damaged as error:
            raise unreadable(path, error.reason) from None
        return content

    @property
    def config(self) -> ml_collections.ConfigDict:
        """`recorded_config`, for callers that build the run.

        The workdir may come from another person. So method, source, encoder and optimizer must be
        of jssl, or the user named their modules in this command; else it is a `UserError`.
        """
        config = self.recorded_config()
        trust.check_stored(plugins.names(config, plugins.STORED), f"--workdir={self.path}")
        return config

    def recorded_config(self) -> ml_collections.ConfigDict:
        """Reads the config of the run; keys newer than the run get their defaults.

        Raises:
          UserError: there is no run, or its config.json is damaged.
        """
        config = self.stored()["config"]
        try:
            return recipe("", from_json(json.dumps(config)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._odd_config(error) from None

    @property
    def data_info(self) -> DatasetInfo:
        """The stored facts about the data set of the run."""
        try:
            return info_from_json(self.stored()["data_info"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._odd_config(error) from None

    def _odd_config(self, error: Exception) -> UserError:
        return unreadable(self.path / "config.json", f"it is not what jssl writes: {error}")

    def known_info(self) -> DatasetInfo | None:
        """Returns `data_info`; None before the run has begun."""
        return self.data_info if self.claimed else None

    @property
    def mark(self) -> identity.Mark:
        """The mark of the run."""
        return identity.mark_of(self.stored())

    def result(self, steps: int = 0) -> dict[str, Any] | None:
        """Reads the result of the run; None before its end, and if it now gets more `steps`.

        Raises:
          UserError: it is damaged, or the result of another run.
        """
        path = self.path / "result.json"
        if not os.path.lexists(path):
            return None
        content = read(path)
        stored = self.stored()
        if not isinstance(content, dict):
            raise unreadable(path, "it is not what jssl writes")
        mark = identity.mark_of(stored)
        run = content.pop("run", "")
        digest = content.pop("digest", "")
        if run != mark.run:
            raise UserError(
                f"{path} is of run {identity.short(run)}, and config.json of "
                f"{identity.short(mark.run)}; restore the one that belongs here"
            )
        stored_steps = stored["config"].get("steps")
        extended = isinstance(stored_steps, int) and steps > stored_steps
        return None if extended or digest in mark.earlier else content

    def metrics(self) -> list[dict[str, Any]]:
        """Reads metrics.jsonl: one dict per logged step, in order; [] if there is none."""
        path = self.path / "metrics.jsonl"
        if not os.path.lexists(path):
            return []
        return [row for _, row in metrics_file.lines(path) if row]

    def checkpoints(self, section: Any, read_only: bool = True) -> Checkpoints:
        """Opens the checkpoints of the run, with the config section `checkpoint`."""
        section = {key: value for key, value in dict(section).items() if key != "export"}
        options = {"workdir": self.path, "read_only": read_only, "mark": self.mark}
        return call_with_section(Checkpoints, section, "checkpoint", **options)

    def check(
        self, config: ml_collections.ConfigDict, extend: bool = False
    ) -> ml_collections.ConfigDict:
        """Checks that the run in the folder, if there is one, has this config.

        Args:
          config: a whole config.
          extend: whether `config` may have more ``steps``; then there must be a run.

        Returns:
          The config. Durations are steps if the stored run knows the size of its data set.

        Raises:
          UserError: the run has another config, or the folder has odd parts.
        """
        self.check_parts()
        if self.claimed:
            config = durations.resolved(config, self.data_info.num_examples)
            check_same(self.path, self.recorded_config(), from_json(to_json(config)), extend)
        elif extend:
            raise ConfigError("workdir", self.path, "holds no run to extend", "leave out --extend")
        return config


def resolve(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the absolute path that --workdir names; `UserError` if it is no valid path."""
    name = str(workdir)
    if not name:
        raise UserError("--workdir is missing; name the folder of a run, e.g. --workdir=runs/a")
    try:
        name.encode("utf-8")  # Orbax needs it
    except UnicodeEncodeError:
        raise ConfigError(
            "workdir", ascii(name), "not UTF-8", "rename that folder, or choose another"
        ) from None
    if "\0" in name:
        raise ConfigError("workdir", ascii(name), "holds a NUL", "choose another")
    return pathlib.Path(require_local_path("--workdir", name)).expanduser().absolute()


def check_same(
    folder: str | os.PathLike[str],
    old: ml_collections.ConfigDict,
    new: ml_collections.ConfigDict,
    extend: bool = False,
) -> None:
    """Compares the config of the stored run with another one.

    With `extend` the new config may have more ``steps``.

    Raises:
      UserError: they differ; the message names the first such key, ``method`` before all others.
    """
    before = flatten(old)
    now = flatten(new)
    for key in sorted(before.keys() | now.keys(), key=lambda key: (key != "config.method", key)):
        name = key.removeprefix("config.")
        if name.startswith(MAY_CHANGE_ON_RESUME) or before.get(key) == now.get(key):
            continue
        more = key == "config.steps" and now[key] > before[key]
        if more and extend:
            continue
        cure = "use another --workdir, or give the old value to go on with that run"
        if more:
            cure = "add --extend to train that run further, or use another --workdir"
        raise ConfigError(
            "workdir",
            folder,
            f"holds a run with {key}={before.get(key)!r}, not {now.get(key)!r}",
            cure,
        )


def read(path: pathlib.Path) -> Any:
    """Reads a JSON file that jssl wrote.

    Raises:
      UserError: it is missing or damaged.
      Unreachable: the system cannot read it.
    """
    try:
        return files.read_json(path)
    except Damaged as error:
        raise unreadable(path, error.reason) from None
    except FileNotFoundError as error:
        raise unreadable(path, error.strerror) from None


def unreadable(path: str | os.PathLike[str], why: object) -> UserError:
    """Makes the error for a file that cannot be used."""
    return UserError(f"{path} cannot be read ({why}); restore it or use another --workdir")


def write(path: pathlib.Path, values: Any) -> None:
    """Writes JSON atomically: to a temporary file, then renames; replaces a link."""
    files.write_json(path, values)


def to_json(config: ml_collections.ConfigDict) -> str:
    """Formats a config as JSON; tuples become lists."""
    return json.dumps(config.to_dict(), default=list)


def from_json(text: str) -> ml_collections.ConfigDict:
    """Parses a config from JSON; lists become tuples."""
    return ml_collections.ConfigDict(lists_to_tuples(json.loads(text))).lock()


def lists_to_tuples(tree: Any) -> Any:
    """Replaces the lists in nested JSON values by tuples, which configs have."""
    if isinstance(tree, dict):
        return {key: lists_to_tuples(value) for key, value in tree.items()}
    return tuple(lists_to_tuples(value) for value in tree) if isinstance(tree, list) else tree


def versions() -> dict[str, str]:
    """Returns the versions of jssl and its libraries, its commit (in a checkout), the device."""
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
