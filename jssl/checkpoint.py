"""Checkpoints: the whole TrainState, written by Orbax beside the training.

``<workdir>/checkpoints/<step>/state``; the latest N and the best K by kNN accuracy are kept. A
step is saved before it is evaluated; its score follows, and is kept in ``checkpoints/scores.json``.
A step that cannot be read, or is not what was written (`jssl.sums`), is set aside as
``damaged-<step>``, never deleted, and the one before it is used.
"""

import logging
import math
import pathlib
import shutil
from functools import partial

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from jssl import files, mesh, sums
from jssl.config import UserError

log = logging.getLogger("jssl")


class Best:
    """A preservation policy of Orbax: the `n` steps with the highest of `scores` {step: score}.

    Orbax's own takes scores only together with the state, so that a step could not be saved before
    it is evaluated. Of equal scores the later step is kept.
    """

    def __init__(self, scores: dict[int, float], n: int):
        self.scores = scores
        self.n = n

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """One answer for each of `checkpoints`, which have a `step`."""
        known = [info.step for info in checkpoints if info.step in self.scores]
        known.sort(key=lambda step: (self.scores[step], step))
        best = known[max(len(known) - self.n, 0) :]
        return [info.step in best for info in checkpoints]


class Checkpoints:
    """The checkpoints of one workdir. `read_only`: nothing in it is written, moved or tidied up,
    since a run may be at work there."""

    def __init__(self, workdir, *, every: int, keep_latest: int, keep_best: int, read_only=False):
        for key, n, least in (("keep_latest", keep_latest, 1), ("keep_best", keep_best, 0)):
            if n < least:
                raise UserError(f"config.checkpoint.{key}={n} must be at least {least}")
        self.folder = pathlib.Path(workdir).expanduser().absolute() / "checkpoints"
        self.every, self.keep_latest, self.keep_best = every, keep_latest, keep_best
        self.read_only, self.saving = read_only, -1  # saving: the step that is being written
        self.scores = self._read_scores()
        self.manager = self._open()

    def _open(self):
        keep = [managers.LatestN(self.keep_latest), Best(self.scores, self.keep_best)]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=not self.read_only,
            read_only=self.read_only,
            create=not self.read_only,
            save_interval_steps=0 if self.read_only else 1,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._sum),
        )
        handlers = {"state": ocp.StandardCheckpointHandler()}
        return ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def _read_scores(self) -> dict[int, float]:
        """The scores that are known of the steps; they only decide which step is kept."""
        path = self.folder / "scores.json"
        try:
            found = files.read_json(path)
            return {int(step): float(score) for step, score in found.items()}
        except FileNotFoundError:
            return {}
        except (files.Damaged, files.Unreachable, AttributeError, TypeError, ValueError) as error:
            log.warning("the scores of the checkpoints are not known: %s", error)
            return {}

    def score(self, step: int, knn: float) -> None:
        """The kNN accuracy of a step that is saved. A disk that takes no scores is a warning."""
        if not math.isfinite(knn):
            return
        self.scores[step] = float(knn)
        if jax.process_index() == 0 and not self.read_only:
            kept = {str(step): self.scores[step] for step in sorted(self.scores)}
            try:
                files.write_json(self.folder / "scores.json", kept)
            except OSError as error:
                log.warning("step %d: its score is not kept: %s", step, error.strerror or error)

    def _sum(self) -> None:
        """Sums the step that is being written, on the first process. Despite the hook's name Orbax
        calls it before the step has its final name, so no kill can leave a step without sums."""
        for step in self.folder.glob(f"{self.saving}*"):
            if step.name.partition(".")[0] == str(self.saving):
                sums.write(step)

    def check_space(self, shapes) -> None:
        """`UserError` if the disk has no room for one more checkpoint of such a state."""
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        need = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
        if free < 1.2 * need + 2**20:
            raise UserError(
                f"--workdir={self.folder.parent} has {free / 1e6:,.1f} MB free and a checkpoint "
                f"takes {need / 1e6:,.1f} MB and some more; free some space and start again, "
                "or choose another --workdir"
            )

    def save(self, step: int, state, knn: float | None = None) -> None:
        """Starts writing `state`; the copy off the device is made before this returns. `knn`: its
        score, if it is known by then.

        `UserError` if the disk is full, before anything is written: what was saved stays whole.
        """
        if step in self.manager.all_steps():
            return
        self.wait()  # for the one before, which Orbax would do as well
        self.check_space(state)
        for gone in self.scores.keys() - set(self.manager.all_steps()):
            del self.scores[gone]
        if knn is not None:
            self.score(step, knn)
        args = ocp.args.Composite(state=ocp.args.StandardSave(state))
        self.saving = step
        self.manager.save(step, args=args)

    def restore(self, shapes, upto: int | None = None):
        """The newest readable state, laid out like `shapes` (ShapeDtypeStructs with shardings), or
        None if there never was a checkpoint. Damaged ones that are newer, and all of steps above
        `upto`, are set aside. `UserError` if there are some and none can be read: then they stay
        where they are; or if one holds another tree (the method's code changed)."""
        for step in self.steps():
            if upto is not None and step > upto:
                self._set_aside(step, "passed")
        steps = sorted(self.manager.all_steps(), reverse=True)
        part = jax.process_index(), jax.process_count()
        args, damaged = ocp.args.Composite(state=ocp.args.StandardRestore(shapes)), {}
        for step in steps:
            try:
                mesh.together(partial(sums.check, self.folder / str(step), *part))
                self._same_tree(step, shapes)
                state = self.manager.restore(step, args=args).state
            except (ValueError, KeyError, OSError, TypeError) as error:
                why = str(error).strip().splitlines()[0][:200] if str(error) else repr(error)
                damaged[step] = why
                continue
            for bad, why in damaged.items():
                fate = "passed over" if self.read_only else "set aside"
                log.warning("checkpoint %d cannot be read and is %s: %s", bad, fate, why)
                self._set_aside(bad)
            return state
        for step, why in damaged.items():
            log.warning("checkpoint %d cannot be read: %s", step, why)
        steps += sorted(
            p.name for why in ("damaged", "passed") for p in self.folder.glob(f"{why}-*")
        )
        if steps:
            raise UserError(
                f"workdir={self.folder.parent} has no readable checkpoint (there are {steps}); "
                "none was deleted: repair one, or start again in a new workdir"
            )
        return None

    def _same_tree(self, step: int, shapes) -> None:
        found = self.manager.item_metadata(step).get("state")
        if found is None:
            raise ValueError("its list of arrays is missing")
        stored = leaves(found.tree)
        wanted = leaves(shapes)
        missing, extra = sorted(wanted - stored), sorted(stored - wanted)
        if missing or extra:
            raise UserError(
                f"workdir={self.folder.parent} step {step} does not fit this model: missing "
                f"{missing[:3] or 'nothing'}, extra {extra[:3] or 'nothing'}; use the code that "
                "wrote it, or a new workdir"
            )

    def _set_aside(self, step: int, why: str = "damaged") -> None:
        if self.read_only:
            return
        self.manager.close()
        if jax.process_index() == 0:
            self._rename(step, why)
        self.manager = self._open()

    def _rename(self, step, why: str) -> None:
        target, number = self.folder / f"{why}-{step}", 0
        while target.exists():
            number += 1
            target = self.folder / f"{why}-{step}-{number}"
        (self.folder / str(step)).rename(target)
        self.scores.pop(int(step), None)

    def steps(self) -> list[int]:
        """The steps that are whole on disk."""
        self.wait()
        return sorted(self.manager.all_steps())

    def latest(self) -> int | None:
        return self.manager.latest_step()

    def wait(self) -> None:
        """Returns when what was saved is on disk; raises what went wrong in the background."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self.manager.close()


def leaves(tree) -> set[str]:
    """ "path shape" of every array of a tree."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {f"{name(path)} {tuple(leaf.shape)}" for path, leaf in flat}
