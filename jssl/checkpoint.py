"""Checkpoints: the whole TrainState, written by Orbax beside the training.

``<workdir>/checkpoints/<step>/state``; the latest N and the best K by kNN accuracy are kept.
A step that cannot be read, or is not what was written (`jssl.sums`), is set aside as
``damaged-<step>``, never deleted, and the one before it is used.
"""

import logging
import pathlib
import shutil

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from jssl import mesh, sums
from jssl.config import UserError

log = logging.getLogger("jssl")
BEST = "knn_top1"


class Checkpoints:
    """The checkpoints of one workdir. `read_only`: nothing in it is written, moved or tidied up,
    since a run may be at work there."""

    def __init__(self, workdir, *, every: int, keep_latest: int, keep_best: int, read_only=False):
        self.folder = pathlib.Path(workdir).absolute() / "checkpoints"
        self.every, self.keep_latest, self.keep_best = every, keep_latest, keep_best
        self.read_only, self.saving = read_only, -1  # saving: the step that is being written
        self.manager = self._open()

    def _open(self):
        score = lambda metrics: metrics[BEST]
        keep = [managers.LatestN(self.keep_latest)]
        if self.keep_best:
            keep.append(managers.BestN(get_metric_fn=score, n=self.keep_best))
        options = ocp.CheckpointManagerOptions(
            best_fn=score,  # without it Orbax writes no metrics, and BestN sees none
            preservation_policy=managers.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=not self.read_only,
            read_only=self.read_only,
            create=not self.read_only,
            save_interval_steps=0 if self.read_only else 1,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._sum),
        )
        handlers = {"state": ocp.StandardCheckpointHandler()}
        return ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

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

    def save(self, step: int, state, knn: float | None) -> None:
        """Starts writing `state`; the copy off the device is made before this returns.

        `UserError` if the disk is full, before anything is written: what was saved stays whole.
        """
        if step in self.manager.all_steps():
            return
        self.wait()  # for the one before, which Orbax would do as well
        self.check_space(state)
        score = {BEST: -1.0 if knn is None else float(knn)}
        args = ocp.args.Composite(state=ocp.args.StandardSave(state))
        self.saving = step
        self.manager.save(step, args=args, metrics=score)

    def restore(self, shapes, upto: int | None = None):
        """The newest readable state, laid out like `shapes` (ShapeDtypeStructs with shardings), or
        None if there is no checkpoint. Those of steps above `upto` are set aside. `UserError` if
        there are some and none can be read, or if one holds another tree (the method's code
        changed)."""
        for step in self.steps():
            if upto is not None and step > upto:
                self._set_aside(step, "passed")
        steps = sorted(self.manager.all_steps(), reverse=True)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
        for step in steps:
            try:
                self._check(step)
                self._same_tree(step, shapes)
                return self.manager.restore(step, args=args).state
            except (ValueError, KeyError, OSError, TypeError) as error:
                why = str(error).strip().splitlines()[0][:200] if str(error) else repr(error)
                fate = "passed over" if self.read_only else "set aside"
                log.warning("checkpoint %d cannot be read and is %s: %s", step, fate, why)
                self._set_aside(step)
        if steps:
            raise UserError(
                f"workdir={self.folder.parent} has no readable checkpoint (tried {steps}); none "
                "was deleted: repair one, or start again in a new workdir"
            )
        return None

    def _check(self, step: int) -> None:
        """`ValueError` on every process if one of them finds that a file has changed."""
        try:
            sums.check(self.folder / str(step), jax.process_index(), jax.process_count())
            wrong = None
        except (ValueError, OSError) as error:
            wrong = error
        if mesh.any_process(wrong is not None):
            raise wrong or ValueError("another process found it damaged")

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
            target = self.folder / f"{why}-{step}"
            number = 0
            while target.exists():
                number += 1
                target = self.folder / f"{why}-{step}-{number}"
            (self.folder / str(step)).rename(target)
        mesh.any_process(False)  # the others look at the folder when that is done
        self.manager = self._open()

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
