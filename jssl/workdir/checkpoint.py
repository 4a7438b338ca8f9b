"""Checkpoints: the whole TrainState, written by Orbax while the training continues.

``<workdir>/checkpoints/<step>/state``; the latest N and the best K by kNN accuracy are kept. A step
is renamed to ``damaged-<step>``, never deleted, if it cannot be read, has changed since it was
written (`jssl.workdir.checksums`) or belongs to another run (`jssl.workdir.identity`); then the
step before it is used. If the system cannot read, which may be temporary, nothing is renamed.
"""

import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import args as ocp_args

from jssl.config import ConfigError
from jssl.config.values import Count, Whole
from jssl.core import TrainState, Tree
from jssl.data.files import PASSING, Damaged, Unreachable, foreign
from jssl.parallel import agreement
from jssl.workdir import checksums, identity
from jssl.workdir.retention import Retention, rename

log = logging.getLogger("jssl")
TRIES = 20  # times that a reader starts again because the run has deleted the checkpoint
ASIDE = ("damaged", "passed")  # prefixes of renamed steps
T = TypeVar("T")

# Orbax lets every replica write a slice of an array. A slice is a program that is compiled: 72 of
# them for the smallest ResNet on eight devices, for arrays that one replica writes at once.
MIN_SLICE = 2**20  # bytes of an array that is worth it


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      workdir: the folder of the run.
      every: steps between two checkpoints; the loop reads it.
      keep_latest: the number of latest checkpoints that are kept.
      keep_best: the number of best checkpoints that are kept.
      read_only: whether nothing in the folder is written, moved or deleted, since a run may be
        active there.
      mark: the identity of the run; None: it is not checked.

    Attributes:
      passed: the skipped ranges of the run so far (`jssl.training.rollback`); each checkpoint
        stores them.
      restored: the note of the step that was restored, {} before.

    Raises:
      UserError: a number is too small.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        every: Whole,
        keep_latest: Count,
        keep_best: Whole,
        read_only: bool = False,
        mark: identity.Mark | None = None,
    ) -> None:
        for key, n, least in (("keep_latest", keep_latest, 1), ("keep_best", keep_best, 0)):
            if n < least:
                raise ConfigError(
                    f"config.checkpoint.{key}", n, f"must be at least {least}", f"try {least}"
                )
        self.folder = pathlib.Path(workdir).expanduser().absolute() / "checkpoints"
        self.every = every
        self.read_only = read_only
        self.mark = mark
        self.passed: list[list[int]] = []
        self.restored: dict[str, Any] = {}
        self._saving = -1  # the step that is being written
        self._saved: set[int] = set()  # by this object
        self._retention = Retention(self.folder, keep_latest, keep_best)
        self._handler: Any = ocp.StandardCheckpointHandler()  # typed for the paths of etils only
        self._reader = ocp.Checkpointer(self._handler)
        self._manager: ocp.CheckpointManager | None = None if read_only else self._open()

    def _open(self) -> ocp.CheckpointManager:
        agreement.run_on_all_processes(partial(_border, self.folder, self._retention.clean))
        options = ocp.CheckpointManagerOptions(
            save_interval_steps=1,
            cleanup_tmp_directories=True,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
        )
        arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=MIN_SLICE)
        registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
        handlers = {"state": ocp.PyTreeCheckpointHandler(type_handler_registry=registry)}
        return ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def _seal(self) -> None:
        """Writes the note and the checksums of the present step, on the first process.

        Despite the name of the hook, Orbax calls it before the step has its final name. So every
        step has them, even if the process is killed.
        """
        note = identity.note(self.mark, self._saving, self.passed)
        for step in self.folder.glob(f"{self._saving}*"):
            if step.name.partition(".")[0] == str(self._saving) and not step.is_symlink():
                (step / identity.NOTE).write_text(json.dumps(note) + "\n", encoding="utf-8")
                checksums.write(step)

    def check_space(self, shapes: Tree) -> None:
        """Raises `UserError` if the disk has no room for one more checkpoint of such a state."""
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        need = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
        if free < 1.2 * need + 2**20:
            raise ConfigError(
                "workdir",
                self.folder.parent,
                f"has {free / 1000000.0:,.1f} MB free and a checkpoint takes "
                f"{need / 1000000.0:,.1f} MB and some more",
                "free some space and start again, or choose another --workdir",
            )

    def save(self, step: int, state: TrainState, knn: float | None = None) -> None:
        """Starts to write `state`; the copy from the device is made before this returns.

        Args:
          step: the number of the step.
          state: the state after it.
          knn: the score of this step, if it is known already; else see `score`.

        Raises:
          UserError: the disk is full (before anything is written, so older checkpoints stay
            intact), or there is a checkpoint of this or a later step that this object did not
            write.
        """
        assert self._manager is not None, "a read-only object saves nothing"
        if knn is not None:
            self.score(step, knn)
        if step in self._saved:
            return
        self.wait()  # for the checkpoint before, as Orbax would
        self._retention.delete_old()
        self.check_space(state)
        args = ocp_args.Composite(state=ocp_args.PyTreeSave(state))
        self._saving = step
        if self._manager.latest_step() == step or not self._manager.save(step, args=args):
            latest = self._manager.latest_step()
            raise ConfigError(
                "workdir",
                self.folder.parent,
                f"step {step} could not be saved, because checkpoints/{latest} lies there already",
                "move it out of that folder and start again",
            )
        self._saved.add(step)

    def score(self, step: int, knn: float) -> None:
        """Stores the kNN accuracy of a step, which decides the best checkpoints.

        It may come after the `save` of the step, but before the next `save`.
        """
        self._retention.score(step, knn)

    @property
    def scores(self) -> dict[int, float]:
        """The known scores, {step: kNN accuracy}; on the first process only."""
        return self._retention.scores

    def best(self) -> tuple[int, float] | None:
        """(step, score) of the best checkpoint on disk, or None; on the first process only."""
        return self._retention.best()

    def restore_step(self, step: int, shapes: Tree) -> TrainState:
        """Reads the state of one step; `UserError` if it cannot be read. See `restore`."""
        try:
            return self._read(step, shapes)
        except Damaged as error:
            raise ConfigError(
                "step", step, f"cannot be read ({error.reason})", "name another step, or last"
            ) from None

    def restore(self, shapes: Tree, upto: int | None = None) -> TrainState | None:
        """Reads the newest readable state, or returns None if there never was a checkpoint.

        Newer damaged checkpoints, and all of steps above `upto`, are renamed.

        Args:
          shapes: a TrainState of ShapeDtypeStructs with shardings.
          upto: the last step that may be restored; None: any step.

        Raises:
          UserError: there are checkpoints and none can be read (then none is renamed), a checkpoint
            has another tree (the code of the method changed), or the system cannot read one
            (`jssl.data.files.Unreachable`).
        """
        for step in self.steps():
            if upto is not None and step > upto:
                self._set_aside(step, "passed")
        for _ in range(TRIES):
            try:
                state = self._newest(shapes)
                if not self.read_only:
                    self._retention.forget_after(-1 if state is None else int(state.step))
                return state
            except _MovedOn:
                log.info("%s: the run has deleted what was read; again", self.folder)
        raise ConfigError(
            "workdir",
            self.folder.parent,
            f"the run deleted each of {TRIES} checkpoints while it was read",
            "try again later, or train with a larger config.checkpoint.keep_latest",
        )

    def stored_shapes(self, place: jax.sharding.Sharding) -> Tree:
        """The shapes of the newest state on disk, with which `restore` needs no method.

        Returns {} if there is no step.

        Args:
          place: the sharding of every array.
        """
        step = self.latest()
        if step is None:
            return {}
        folder = self.folder / str(step) / "state"
        stored = _border(folder, lambda: self._handler.metadata(folder).tree)

        def shape(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

        return jax.tree.map(shape, stored)

    def _newest(self, shapes: Tree) -> TrainState | None:
        steps = self.steps()[::-1]
        damaged: dict[int, str] = {}
        for step in steps:
            try:
                state = self._read(step, shapes)
            except (Damaged, Unreachable) as error:
                if self.read_only and agreement.first(lambda at=step: self._moved_on(at, steps)):
                    raise _MovedOn from None
                if isinstance(error, Unreachable):
                    raise
                damaged[step] = error.reason
                continue
            for bad, why in damaged.items():
                fate = "passed over" if self.read_only else "set aside"
                log.warning("checkpoint %d cannot be read and is %s: %s", bad, fate, why)
                self._set_aside(bad)
            return state
        for step, why in damaged.items():
            log.warning("checkpoint %d cannot be read: %s", step, why)
        aside = agreement.first(lambda: sorted(p.name for why in ASIDE for p in self._glob(why)))
        if steps or aside:
            why = f"; {steps[0]}: {damaged[steps[0]]}" if steps else ""
            raise ConfigError(
                "workdir",
                self.folder.parent,
                f"has no readable checkpoint (there are {steps + aside}{why})",
                "none was deleted: repair one, or start again in a new workdir",
            )
        return None

    def _glob(self, why: str) -> list[pathlib.Path]:
        return list(self.folder.glob(f"{why}-*"))

    def _moved_on(self, step: int, before: list[int]) -> bool:
        """Whether the run has written or deleted checkpoints since `before` was listed."""
        return step not in (now := self._retention.listed()) or max(now) > max(before)

    def _read(self, step: int, shapes: Tree) -> TrainState:
        """Reads one step. Raises `Damaged`, `Unreachable` or `UserError` on all processes."""
        folder = self.folder / str(step)
        note = agreement.run_on_all_processes(partial(self._check, step, folder, shapes))
        args = ocp_args.StandardRestore(shapes)
        state = agreement.run_on_all_processes(
            partial(_border, folder, lambda: self._reader.restore(folder / "state", args=args))
        )
        stored_step = int(getattr(state, "step", step))
        if stored_step != step:
            raise Damaged(folder, f"it holds step {stored_step}; if it is that one, rename it so")
        self.restored = note
        return state

    def _check(self, step: int, folder: pathlib.Path, shapes: Tree) -> dict[str, Any]:
        """Checks that the files of a step are unchanged and hold such a tree; returns its note."""
        return _border(folder, lambda: self._checked(step, folder, shapes))

    def _checked(self, step: int, folder: pathlib.Path, shapes: Tree) -> dict[str, Any]:
        if (folder / checksums.NAME).exists():
            checksums.check(folder, jax.process_index(), jax.process_count())
        elif self.mark is None:
            log.warning(
                "checkpoint %d has no %s (it is older, or the list is lost): a bit that has "
                "flipped in it would not be seen",
                step,
                checksums.NAME,
            )
            checksums.probe(folder)
        else:
            raise Damaged(folder, f"{checksums.NAME} is gone")
        note = identity.check_note(folder, step, self.mark)
        self._same_tree(step, shapes)
        return note

    def _same_tree(self, step: int, shapes: Tree) -> None:
        # `self._reader` would also look for metadata of the step here, and warn that there is none.
        metadata = self._handler.metadata(self.folder / str(step) / "state")
        stored = tree_signature(metadata.tree)
        expected = tree_signature(shapes)
        missing = sorted(expected - stored)
        extra = sorted(stored - expected)
        if missing or extra:
            raise ConfigError(
                "workdir",
                self.folder.parent,
                f"step {step} does not fit this model: missing {missing[:3] or 'nothing'}, extra "
                f"{extra[:3] or 'nothing'}",
                "use the code that wrote it, or a new workdir",
            )

    def _set_aside(self, step: int, why: str = "damaged") -> None:
        if self._manager is None:
            return
        self._manager.close()
        self._saved.discard(step)
        self._retention.scores.pop(step, None)
        move = partial(rename, self.folder / str(step), f"{why}-{step}")
        agreement.run_on_all_processes(lambda: move() if jax.process_index() == 0 else None)
        self._manager = self._open()

    def steps(self) -> list[int]:
        """Lists the complete steps on disk, ascending, as the first process sees them."""
        self.wait()
        return agreement.first(partial(_border, self.folder, self._retention.listed))

    def latest(self) -> int | None:
        """Returns the last complete step on disk; None if there is none."""
        return max(self.steps(), default=None)

    def wait(self) -> None:
        """Waits until saved steps are on disk; raises errors of the background threads."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saved steps, deletes old ones and closes Orbax."""
        self.wait()
        if self._manager is not None:
            self._retention.delete_old()
            self._manager.close()
        self._reader.close()


class _MovedOn(Exception):
    """A run has deleted a checkpoint while it was read."""


def _border(name: pathlib.Path, function: Callable[[], T]) -> T:
    """Calls a function that reads foreign bytes (`jssl.data.files.foreign`).

    Orbax and TensorStore give the number of a system error only in their text. A missing file is
    damage.
    """
    try:
        with foreign(name):
            return function()
    except FileNotFoundError as error:
        gone = pathlib.Path(error.filename or name).name
        raise Damaged(name, f"{gone} is gone") from error
    except Damaged as error:
        why = str(error.__cause__)
        number = re.search(r"\[OS error (\d+)", why)
        if number and int(number[1]) in PASSING:
            raise Unreachable(name, os.strerror(int(number[1]))) from error
        if isinstance(error.__cause__, MemoryError) or "RESOURCE_EXHAUSTED" in why:
            raise Unreachable(name, "out of memory") from error
        raise


def tree_signature(tree: Tree) -> set[str]:
    """Formats "path shape" for every array of a tree."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]

    def name(path: Any) -> str:
        return jax.tree_util.keystr(path, simple=True, separator="/")

    return {f"{name(path)} {tuple(leaf.shape)}" for path, leaf in flat}
