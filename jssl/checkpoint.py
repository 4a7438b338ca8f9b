"""Checkpoints: the whole TrainState, written by Orbax beside the training.

``<workdir>/checkpoints/<step>/state``; the latest N and the best K by kNN accuracy are kept.
A step that cannot be read, or is not what was written (`jssl.sums`), is set aside as
``damaged-<step>``, never deleted, and the one before it is used.
"""

import json
import logging
import pathlib
import shutil
from functools import partial

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
        for key, n, least in (("keep_latest", keep_latest, 1), ("keep_best", keep_best, 0)):
            if n < least:
                raise UserError(f"config.checkpoint.{key}={n} must be at least {least}")
        self.folder = pathlib.Path(workdir).expanduser().absolute() / "checkpoints"
        self.every, self.keep_latest, self.keep_best = every, keep_latest, keep_best
        self.read_only, self.saving = read_only, -1  # saving: the step that is being written
        self.manager = self._open()

    def _open(self):
        score = lambda metrics: metrics[BEST]
        keep = [managers.LatestN(self.keep_latest)]
        if self.keep_best:
            keep.append(managers.BestN(get_metric_fn=score, n=self.keep_best))
        self._check_scores()
        options = ocp.CheckpointManagerOptions(
            # Without it Orbax writes no metrics, and BestN sees none; with it, it reads them all.
            best_fn=None if self.read_only else score,
            preservation_policy=managers.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=not self.read_only,
            read_only=self.read_only,
            create=not self.read_only,
            save_interval_steps=0 if self.read_only else 1,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._sum),
        )
        handlers = {"state": ocp.StandardCheckpointHandler()}
        return ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def _check_scores(self) -> None:
        """Sets steps aside whose score Orbax could not read; it would not open the others then."""
        if jax.process_index() == 0 and not self.read_only:
            for path in self.folder.glob("[0-9]*/metrics/metrics"):
                step = path.parent.parent.name
                try:
                    float(json.loads(path.read_text(encoding="utf-8"))[BEST])
                except (ValueError, TypeError, KeyError) as error:
                    if step.isdigit():  # and not half written: Orbax tidies that up
                        log.warning("checkpoint %s is set aside: its score is %r", step, error)
                        self._rename(step, "damaged")
        mesh.any_process(False)  # the others look at the folder when that is done

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
