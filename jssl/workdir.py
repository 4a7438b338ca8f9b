"""The folder of one run: its config, the versions that made it, and its result.

``config.json`` is written once and says whose folder it is; a run with another config is refused.
``result.json`` is written at the end; a finished run is not run again.
"""

import json
import os
import pathlib
import subprocess

import jax
import ml_collections

import jssl
from jssl import trust
from jssl.config import UserError, flatten, local
from jssl.recipes import recipe

# What may differ when a run is started again: where and how it runs, not what it computes.
FREE = ("mesh.", "log.", "checkpoint.", "eval.", "alarm.", "data.dir", "data.path", "data.workers")
FREE += ("examples", "vocab.", "data.tokenizer", "data.resident", "data.max_damaged", "finetune.")
FOUND = ("examples", "vocab")  # in the data; the run must find the same again


def open_for(workdir, config) -> pathlib.Path:
    """Makes the folder, or checks that the run in it is one of this very config."""
    if not workdir:
        raise UserError("--workdir is missing; name a folder for this run, e.g. --workdir=runs/a")
    folder = place(workdir)
    if "[" in str(folder):  # TensorStore takes it for a pattern, and merges no checkpoint there
        raise UserError(f"--workdir={folder} cannot have a '[' in its name; choose another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be made ({error.strerror}); choose another"
        ) from None
    path = folder / "config.json"
    if path.exists():
        check_same(folder, recorded(folder), from_json(to_json(config)))
    return folder


def place(workdir) -> pathlib.Path:
    """The absolute path that --workdir names."""
    return pathlib.Path(local("--workdir", str(workdir))).expanduser().absolute()


def sized(config, found) -> ml_collections.ConfigDict:
    """A copy of the config with what `found`, another one or a dict, says of its data."""
    config = config.copy_and_resolve_references().unlock()
    for key in FOUND:
        if key not in found:
            continue
        if isinstance(config[key], ml_collections.ConfigDict):
            both = [name for name in config[key] if name in found[key]]
            config[key].update({name: found[key][name] for name in both})
        else:
            config[key] = found[key]
    return config.lock()


def remembered(folder, config) -> ml_collections.ConfigDict:
    """The config with what the run in the folder found in its data, if it has begun."""
    path = folder / "config.json"
    try:
        return sized(config, recorded(folder)) if path.exists() else config
    except (TypeError, AttributeError) as error:
        raise unreadable(path, error) from None


def claim(folder, config) -> None:
    """Says whose folder it is, once all that can be wrong with the config has been checked."""
    path = folder / "config.json"
    if jax.process_index() == 0 and not path.exists():
        write(path, {"config": json.loads(to_json(config)), "versions": versions()})


def check_same(folder, old, new) -> None:
    """`UserError` naming the first key in which the configs of two runs differ."""
    old, new = flatten(old), flatten(new)
    for key in sorted(old.keys() | new.keys()):
        if key.removeprefix("config.").startswith(FREE) or old.get(key) == new.get(key):
            continue
        raise UserError(
            f"--workdir={folder} holds a run with {key}={old.get(key)!r}, not {new.get(key)!r}; "
            "use another --workdir, or give the old value to go on with that run"
        )


def stored_config(workdir) -> ml_collections.ConfigDict:
    """`recorded`, to build a run of. Its method is one of jssl or one that the user named in this
    command: `UserError` if not, since a workdir may come from somebody else."""
    config = recorded(workdir)
    trust.check_method(config.get("method"), f"--workdir={workdir}")
    return config


def recorded(workdir) -> ml_collections.ConfigDict:
    """The config of the run in `workdir`; a key that is newer than the run has its default."""
    path = place(workdir) / "config.json"
    if not workdir or not os.path.exists(path):  # and not path.exists(), which minds long names
        raise UserError(f"--workdir={workdir} holds no run (no config.json); name a trained one")
    found = read(path)
    try:
        return recipe("", from_json(json.dumps(found["config"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unreadable(path, f"it is not what jssl writes: {error}") from None


def result(folder) -> dict | None:
    """What `finish` wrote, if the run is done."""
    path = folder / "result.json"
    found = read(path) if path.exists() else None
    if not isinstance(found, dict | None):
        raise unreadable(path, "it is not what jssl writes")
    return found


def last_metrics(folder) -> dict:
    """The newest value of each metric in metrics.jsonl; {} if nothing was written yet."""
    path, values = folder / "metrics.jsonl", {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            values.update(json.loads(line))
        except ValueError:  # the line that a kill cut off
            continue
    return values


def finish(folder, values: dict) -> dict:
    """Marks the run as done."""
    if jax.process_index() == 0:
        write(folder / "result.json", values)
    return values


def read(path):
    """A JSON file of ours; `UserError` if it was damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise unreadable(path, error) from None


def unreadable(path, why) -> UserError:
    return UserError(f"{path} cannot be read ({why}); restore it or use another --workdir")


def write(path, values) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def to_json(config) -> str:
    return json.dumps(config.to_dict(), default=list)


def from_json(text: str) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(tuples(json.loads(text))).lock()


def tuples(tree):
    """JSON's lists as the tuples that configs have."""
    if isinstance(tree, dict):
        return {key: tuples(value) for key, value in tree.items()}
    return tuple(tuples(value) for value in tree) if isinstance(tree, list) else tree


def versions() -> dict[str, str]:
    """What code wrote this: jssl (and its commit, in a checkout), jax, the devices."""
    here = pathlib.Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        commit = found.stdout.strip()
    except OSError:  # no git on this machine
        commit = ""
    device = jax.devices()[0].device_kind
    return {"jssl": jssl.__version__, "commit": commit, "jax": jax.__version__, "device": device}
