"""Losses of the methods that hide patches or tokens, against float64 NumPy references written from
the papers and their authors' code. Networks are replaced by made-up arrays, so that only what a
method itself computes is compared."""

import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import image_info, text_info
from helpers.losses import agree, close, reference_sinkhorn, unit

from jssl import losses, nn
from jssl.config import Config, load
from jssl.core import TrainState
from jssl.methods import beit, bert, data2vec, ibot, ijepa, simmim
from jssl.nn import masked_image

KEY, SAME = jax.random.key(0), np.testing.assert_array_equal
PLACES, WIDTH, PIXELS, CODES = 16, 32, 192, 8  # patches, features, pixels; as the recipes have it


def batch_of(images):
    return {"image": jax.device_put(np.float32(images)), "size": None}


def nearest(rows, book):
    return ((rows[:, None] - book) ** 2).sum(-1).argmin(1)


def cut_up(x):
    return x.reshape(-1, 4, 8, 4, 8, 3).swapaxes(2, 3).reshape(-1, PLACES, PIXELS)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def state_of(step=0, **buffers):
    return TrainState(np.int32(step), None, None, buffers)


def layer_norm(x, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def cross_entropy(logits, answer, weight=None):
    each = [-log_softmax(row)[k] for row, k in zip(logits, answer, strict=True)]
    return np.average(each, weights=weight)


def smooth_l1(error, beta):
    """torch.nn.SmoothL1Loss's formula, which is data2vec's in section 3.3; its mean."""
    size = np.abs(error)
    return np.where(size <= beta, error**2 / (2 * beta), size - beta / 2).mean()


def koleo(x):
    """DINOv2's koleo_loss.py: unit rows, -log of the distance to the nearest other one."""
    x, n = unit(x), range(len(x))
    return -np.mean([np.log(min(np.linalg.norm(x[i] - x[j]) for j in n if j != i)) for i in n])


def masks_of(rng, counts):
    """bool [rows, PLACES]: so many places of each row, drawn at random."""
    return rng.random((len(counts), PLACES)).argsort(1).argsort(1) < np.array(counts)[:, None]


def hides(name, mask):
    """Parts of a module: `name` draws this mask; a network that is given it says its weights."""
    drawn = jax.device_put(mask)

    def apply(module, params, stats, images, mask, mask_token, **kw):
        assert mask is drawn and mask_token == "token"
        return params, stats

    return {name: lambda *args, **kw: drawn, "apply": apply}


def objective_of(monkeypatch, module, parts, info=None, **changes):
    """A method's Objective, with `parts` of its module replaced and images as their own views."""
    recipe = module.__name__.split(".")[-1] + ("_small_books" if module is bert else "_imagenette")
    for name, part in parts.items():
        monkeypatch.setattr(module, name, part)
    monkeypatch.setattr(
        masked_image, "call_with_section", lambda *a, **k: lambda rng, image, size: image
    )
    words = {"log.rank_every": "0"} | {k.replace("__", "."): str(v) for k, v in changes.items()}
    return module.build(Config(load(f"configs/{recipe}.py:tiny", words)), info or image_info())


def mean_smooth_l1(error, beta):
    return losses.smooth_l1(error, beta).mean()


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_smooth_l1_is_torchs(beta):
    error = np.random.default_rng(0).normal(size=(6, 7)) * 2
    agree(mean_smooth_l1, lambda e: smooth_l1(e, beta), error, given=(beta,))


@pytest.mark.parametrize("weight", [None, np.array([1.0, 0.0, 2.0, 0.5, 0.0, 1.0])])
def test_cross_entropy_is_the_weighted_mean(weight):
    rng = np.random.default_rng(1)
    logits, answer = 3 * rng.normal(size=(6, 5)), rng.integers(0, 5, 6)

    def ours(x):
        return losses.cross_entropy(x, answer, weight)[0]

    agree(ours, lambda x: cross_entropy(x, answer, weight), logits)


@pytest.mark.parametrize("chunk", [1, 4, 12])
def test_next_token_of_packed_rows_and_its_gradient(chunk):
    """-log p(u_i | u_1 ... u_(i-1)) of every token but the first of each document."""
    rng, segment = np.random.default_rng(2), np.array([[1] * 4 + [2] * 5 + [0] * 3, [1] * 12])
    tokens = rng.integers(0, 9, (2, 12))

    def reference(hidden, table):
        at = [(row, i) for row, a, b in ((0, 0, 4), (0, 4, 9), (1, 0, 12)) for i in range(a, b - 1)]
        logits = [table @ hidden[row, i] for row, i in at]
        return cross_entropy(logits, [tokens[row, i + 1] for row, i in at])

    def ours(h, t):
        return losses.next_token(h, t, *jax.device_put((tokens, segment)), chunk)[0]

    agree(ours, reference, rng.normal(size=(2, 12, 5)), rng.normal(size=(9, 5)))


def test_koleo_is_dinov2s_and_finite_where_rows_are_the_same_or_zero():
    agree(losses.koleo, koleo, np.random.default_rng(3).normal(size=(9, 4)) * 3)
    x = np.array([[1.0, 1, 1], [1, 1, 1], [0, 0, 0], [-2, 0, 0]], np.float32)
    value, grad = jax.device_get(jax.jit(jax.value_and_grad(losses.koleo))(x))
    assert value > 0 and np.isfinite(value) and np.isfinite(grad).all()


ROWS, HIDDEN, NARROW, OUTPUTS = 10, 8, 8, 12  # of iBOT: views of 5 images, and as the recipe has it
FULL, PARTLY = [8] * ROWS, [8, 0, 3, 5, 1, 0, 8, 2, 0, 4]  # hidden patches of each view
HEAT = 0.04 + (0.07 - 0.04) * 2 / 3  # after 2 of 3 steps of warm-up
KINDS = [("center", PARTLY, 0, 0.0), ("center", PARTLY, 2, 0.3), ("sinkhorn", FULL, 1, 0.0)]
KINDS += [("sinkhorn", PARTLY, 0, 0.0)]


def ibot_case(monkeypatch, centering, counts, local=0, spread=0.0, momentum=0.9):
    """(our loss, the reference, their arguments, the centers wanted).

    The reference is main_ibot.py's iBOTLoss: each pair of a teacher's and another crop; the mean
    over each view's hidden patches, 0 where none are. Sinkhorn and the patches' center are of the
    hidden ones, as in DINOv2 (in iBOT the center is of all); KoLeo is the sum over both
    views, as in its ssl_meta_arch.py.
    """
    changes = dict(centering=centering, koleo_weight=spread, center_momentum=momentum)
    changes |= {"gram_weight": 0.0}  # test_gram.py
    objective = objective_of(monkeypatch, ibot, {}, **changes)
    rng, names = (
        np.random.default_rng(4),
        ("cls", "teacher_cls", "class_token", "patch", "teacher_patch"),
    )
    shapes = 3 * [(ROWS,)] + 2 * [(ROWS, PLACES)] + [(local * ROWS // 2,)] + 4 * [(OUTPUTS,)]
    given = [0.5 * rng.normal(size=(*shape, NARROW)) for shape in shapes]
    mask, center = masks_of(rng, counts), 0.1 * rng.normal(size=(2, OUTPUTS))
    at = np.argsort(~mask, axis=1, kind="stable")[:, :HIDDEN, None]
    weight = jnp.float32(np.arange(HIDDEN) < np.reshape(counts, (-1, 1)))

    def both(kind, x):
        return dict(zip(kind, x, strict=True))

    def ours(*arrays):
        found = both(names, arrays[:5]) | {"weight": weight}
        found |= {name: jnp.take_along_axis(found[name], at, axis=1) for name in names[3:]}
        found |= {"local": arrays[5]} if local else {}
        found["teacher"] = {name: found.pop(f"teacher_{name}") for name in ("cls", "patch")}
        heads = [{"direction": w} for w in arrays[6:]]
        new, old = (both(("head", "patch_head"), x) for x in (heads[:2], heads[2:]))
        state = state_of(2, center=both(("cls", "patch"), jnp.float32(center)))
        state.buffers["teacher"] = {"prototypes": old}
        return objective.stages[1]({"prototypes": new}, found, state, None, KEY)

    told = given[1] @ unit(given[8]).T, given[4][mask] @ unit(given[9]).T

    def aim(i):
        if centering == "sinkhorn":
            return reference_sinkhorn(told[i], HEAT, 3)
        return np.exp(log_softmax((told[i] - center[i]) / HEAT))

    def reference(cls, _, h, patch, __, small, w_cls, w_patch, *teachers):
        def say(z, w):
            return log_softmax(z @ unit(w).T / 0.1)

        p, q = aim(0), np.zeros((ROWS, PLACES, OUTPUTS))
        q[mask] = aim(1)
        crops = [say(cls[v::2], w_cls) for v in range(2)]
        crops += [say(small[v::local], w_cls) for v in range(local)]
        pairs = [(t, s) for t in range(2) for s in range(2 + local) if s != t]
        value = np.mean([-(p[t::2] * crops[s]).sum(-1).mean() for t, s in pairs])
        each = -(q * say(patch, w_patch)).sum(-1)
        value += np.mean((each * mask).sum(1) / np.maximum(mask.sum(1), 1))
        return value + spread * (koleo(h[0::2]) + koleo(h[1::2]))

    mean = np.array([x.mean(0) for x in told])
    return ours, reference, given, momentum * center + (1 - momentum) * mean


@pytest.mark.parametrize(("centering", "counts", "local", "spread"), KINDS)
def test_ibot_is_its_authors_loss(monkeypatch, centering, counts, local, spread):
    """And what the teacher says gets no gradient: the reference does not depend on it."""
    ours, reference, given, _ = ibot_case(monkeypatch, centering, counts, local, spread)
    agree(lambda *arrays: ours(*arrays)[0], reference, *given)


@pytest.mark.parametrize(("counts", "momentum"), [(FULL, 0.9), (PARTLY, 0.9), (PARTLY, 0.0)])
def test_ibots_centers_follow_the_class_tokens_and_the_hidden_patches(
    monkeypatch, counts, momentum
):
    ours, _, given, wanted = ibot_case(monkeypatch, "center", counts, momentum=momentum)
    found = jax.jit(lambda *arrays: ours(*arrays)[1][0]["center"])(*map(np.float32, given))
    close([found["cls"], found["patch"]], wanted, atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_ibots_student_and_teacher_speak_of_the_same_hidden_patches(monkeypatch, tied):
    """And about half of the views have hidden ones, .1 to .5 of their patches."""
    rng, rows, draw_mask = np.random.default_rng(5), 800, ibot.beit_mask
    seen, heard = {}, {}  # while it is traced

    def draw(*shape):
        return np.float32(rng.normal(size=shape))

    tokens = {who: draw(rows, n, WIDTH) for who, n in dict(student=17, teacher=17, local=5).items()}
    heads = {name: draw(2, WIDTH, NARROW) for name in ("head", "patch_head")}  # two networks'

    def speak(module, params, stats, x, mask=None, mask_token=None, **kw):
        if not isinstance(params, str):
            return x @ params, stats
        who = params if x.shape[1] == 32 else "local"
        seen[who] = None if mask is None else (mask, mask_token)
        return heard[who], stats

    def keep(*a, **k):
        return seen.setdefault("mask", draw_mask(*a, **k))

    views = {name: np.zeros((rows, n, n, 3)) for name, n in (("global", 32), ("local", 16))}
    monkeypatch.setattr(ibot, "multi_crop", lambda config: lambda rng, batch: views)
    made = objective_of(
        monkeypatch, ibot, dict(beit_mask=keep, apply=speak), shared_head=tied, gram_weight=0
    )

    @jax.jit
    def speak_of(tokens, heads, key):
        def whose(who, i):
            return {"encoder": who} | {name: w[i] for name, w in heads.items()}

        heard.update(tokens)
        stats = {"encoder": {}, "head": {}, "patch_head": {}}
        state = state_of(stats=stats, teacher=whose("teacher", 1), teacher_stats=stats)
        student = whose("student", 0) | {"mask_token": "token"}
        return made.stages[0](student, state, None, key)[0], seen["mask"]

    found, mask = jax.device_get(speak_of(tokens, heads, KEY))
    hide, near = seen.pop("mask"), lambda *x: close(*x, 1e-4, 1e-5)
    there = np.arange(HIDDEN) < mask.sum(1, keepdims=True)
    assert seen == {"student": (hide, "token"), "teacher": None, "local": None}
    SAME(found["weight"], there)
    SAME(found["class_token"], tokens["student"][:, 0])
    near(found["local"], unit(tokens["local"][:, 0] @ heads["head"][0]))
    for i, (who, out) in enumerate([("student", found), ("teacher", found["teacher"])]):
        near(out["cls"], unit(tokens[who][:, 0] @ heads["head"][i]))
        wanted = unit(tokens[who][:, 1:][mask] @ heads["head" if tied else "patch_head"][i])
        near(out["patch"][there], wanted)
    some = mask.sum(1)[mask.any(1)]
    assert abs(len(some) - rows / 2) < 5 * math.sqrt(rows / 4)
    assert some.min() == 2 and some.max() == HIDDEN
    assert abs(some.mean() - 0.3 * PLACES) < 5 * 0.4 * PLACES / math.sqrt(12 * len(some))


def agree_linear(loss, state, images, reference, out):
    """`agree` of tokens [B, 17, 32] and of the linear layer that predicts from them."""
    shapes = (len(images), 1 + PLACES, WIDTH), (WIDTH, out), (out,)

    def ours(tokens, kernel, bias):
        params = dict(encoder=tokens, mask_token="token", head=dict(kernel=kernel, bias=bias))
        return loss(params, state, batch_of(images), KEY)[0]

    def wanted(tokens, kernel, bias):
        return reference(tokens[:, 1:] @ kernel + bias)

    agree(ours, wanted, *map(np.random.default_rng(6).standard_normal, shapes))


def test_simmim_is_equation_1_of_the_raw_pixels(monkeypatch):
    rng = np.random.default_rng(7)
    images, mask = 2 * rng.normal(size=(3, 32, 32, 3)), masks_of(rng, [1, 9, 2])
    given = objective_of(monkeypatch, simmim, hides("grouped_mask", mask)).loss, state_of(), images
    agree_linear(*given, lambda said: np.abs(said - cut_up(images))[mask].mean(), PIXELS)


@pytest.mark.parametrize("layers", [1, 2])
def test_data2vec_regresses_the_normalized_mean_of_the_last_blocks(monkeypatch, layers):
    """engine_for_cyclical.py:84 to 95, with its README's --post_target_layer_norm. A block's output
    through a LayerNorm without parameters is what a ViT that ends there says, if its own last
    LayerNorm has scale 1 and bias 0."""
    rng, recipe = np.random.default_rng(8), "configs/data2vec_imagenette.py:tiny"
    images, mask = np.float32(rng.normal(size=(3, 32, 32, 3))), masks_of(rng, [10] * 3)
    made = objective_of(monkeypatch, data2vec, hides("beit_mask", mask), target_layers=layers)
    encoder = nn.encoder(Config(load(recipe)).model)
    shapes = jax.eval_shape(partial(encoder.init, train=False), KEY, images)["params"]

    def draw(path, x):
        is_scale = path[-1].key == "scale"  # of a LayerNorm, near 1
        return np.float32(is_scale + 0.1 * rng.normal(size=x.shape))

    teacher = jax.tree_util.tree_map_with_path(draw, shapes)
    ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    plain = {"params": teacher | {"norm": {"scale": ones, "bias": zeros}}}

    @jax.jit
    def say(plain, images):
        nets = [encoder.clone(depth=depth) for depth in (1, 2)[-layers:]]
        return [net.apply(plain, images, train=False)[:, 1:] for net in nets]

    wanted = layer_norm(np.mean([np.float64(said) for said in say(plain, images)], 0))
    given = made.loss, state_of(teacher={"encoder": teacher}), images
    agree_linear(*given, lambda said: smooth_l1((said - wanted)[mask], 2.0), WIDTH)


def test_ijepa_regresses_the_averages_normalized_tokens_at_the_targets(monkeypatch):
    """train.py: layer_norm, apply_masks, smooth_l1_loss over what this batch's size asks for."""
    rng, images, blocks, kept, most, asks = np.random.default_rng(9), 3, 4, 5, 6, 4
    where = np.array([rng.permutation(PLACES)[:kept] for _ in range(images)])
    at = rng.integers(0, PLACES, (images, blocks, most))
    seen = np.arange(kept) < np.array([[5], [2], [4]])
    made, asked = rng.normal(size=(images, PLACES, WIDTH)) * 2 + 1, {}

    def speak(module, params, stats, x, *rest, keep_ids=None, valid=None, **kw):
        if rest:
            asked.update(row=x[:, 0, 0], where=rest[0], at=rest[1], valid=rest[2])
        elif keep_ids is not None:
            asked.update(keep=keep_ids, seen=valid)
            params = np.broadcast_to(np.arange(images)[:, None, None], (images, kept, WIDTH))
        return jnp.float32(params), stats

    ask = ijepa.Blocks(*map(jax.device_put, (where, seen, at, np.arange(most) < asks)))
    parts = dict(block_sampler=lambda *a: lambda rng, batch: ask, apply=speak)
    loss = objective_of(monkeypatch, ijepa, parts).loss
    given = state_of(teacher={"encoder": made}), batch_of(np.zeros((images, 32, 32, 3))), KEY

    def ours(said):
        return loss(dict(encoder=None, predictor=said), *given)[0]

    told = [layer_norm(made)[b][at[b][t]] for b in range(images) for t in range(blocks)]
    said = rng.normal(size=(images * blocks, most, WIDTH)) * 2
    agree(ours, lambda said: smooth_l1((said - np.array(told))[:, :asks], 1.0), said)
    asked = jax.jit(lambda said: (ours(said), asked)[1])(np.float32(said))
    both = np.concatenate([seen.repeat(blocks, 0), np.tile(np.arange(most) < asks, (12, 1))], 1)
    wanted = dict(keep=where, seen=seen, where=where.repeat(blocks, 0), row=np.arange(12) // blocks)
    chex.assert_trees_all_equal(asked, wanted | {"at": at.reshape(12, most), "valid": both})


def beit_case(monkeypatch):
    """(loss, images, their patches, each normalized as MAE's norm_pix_loss, mask, codebook)."""
    rng = np.random.default_rng(10)
    mask, scale = masks_of(rng, [6] * 6), np.exp(rng.normal(size=(6, 4, 1, 4, 1, 1)))
    loss = objective_of(monkeypatch, beit, hides("beit_mask", mask)).loss
    images = rng.normal(size=(6, 4, 8, 4, 8, 3)) * scale + 3 * np.log(scale)
    rows = cut_up(images := images.reshape(6, 32, 32, 3))
    normal = (rows - rows.mean(-1, keepdims=True)) / rows.std(-1, ddof=1, keepdims=True)
    book = np.linspace(0.2, 0.5, CODES)[:, None] * rng.normal(size=(CODES, PIXELS))
    return loss, images, normal, mask, book


def test_beit_finds_the_token_of_each_hidden_patch(monkeypatch):
    loss, images, normal, mask, book = beit_case(monkeypatch)
    answer = nearest(normal[mask], book)
    assert len(set(answer)) > 3 and np.any(answer != (normal[mask] @ book.T).argmax(1))
    state = state_of(1, **jax.device_put(dict(codebook=np.float32(book), use=np.ones(CODES))))
    agree_linear(loss, state, images, lambda said: cross_entropy(said[mask], answer), CODES)


def test_beits_codebook_is_vq_vaes_moving_average(monkeypatch):
    """Van den Oord et al. 2017, equations 6 to 8: N, m and e = m / N of every patch, hidden or not;
    a code that none is near takes a patch. Then the codebook stays."""
    loss, images, normal, _, book = beit_case(monkeypatch)
    rows, uses = normal.reshape(-1, PIXELS), np.linspace(1.0, 3.0, CODES)
    book[3], uses[3] = 50.0, 1e-3
    tokens, kernel, bias = (6, 1 + PLACES, WIDTH), (WIDTH, CODES), (CODES,)

    @jax.jit
    def ours(state, seed):
        params = {"encoder": jnp.zeros(tokens), "mask_token": "token"}
        params["head"] = {"kernel": jnp.zeros(kernel), "bias": jnp.zeros(bias)}
        return loss(params, state, batch_of(images), jax.random.key(seed))

    state, sums = state_of(codebook=np.float32(book), use=np.float32(uses)), book * uses[:, None]
    for seed in range(3):
        near = np.eye(CODES)[nearest(rows, book)]
        uses, sums = 0.9 * uses + 0.1 * near.sum(0), 0.9 * sums + 0.1 * near.T @ rows
        value, (buffers, _) = ours(state, seed)
        if seed == 0:
            taken = np.asarray(buffers["codebook"])[3]
            assert near[:, 3].sum() == 0 and np.abs(taken - rows).max(1).min() < 1e-4
            sums[3], uses[3] = taken, 1.0
        book = sums / uses[:, None]
        close(buffers["codebook"], book, 1e-4, 1e-4)
        close(buffers["use"], uses, 1e-5)
        close(value, np.log(CODES))  # it is there from the start
        state = state.replace(buffers=buffers)  # at step 0 still: tokenizer_steps is 1
    value, (buffers, _) = ours(state.replace(step=np.int32(1)), 0)
    chex.assert_trees_all_equal(buffers, state.buffers)
    close(value, np.log(CODES))


def bert_case(monkeypatch, lengths, size):
    """(loss of arrays, their shapes, tokens, what the encoder sees of them, bool: the chosen); each
    row of 32 is start, so many tokens, end, padding."""
    rng, seen, width = np.random.default_rng(11), {}, (WIDTH,)
    tokens, segment = np.zeros((2, len(lengths), 32), int)
    for row, marks, n in zip(tokens, segment, lengths, strict=True):
        row[: n + 2], marks[: n + 2] = np.r_[1, rng.integers(4, size, n), 2], 1
    whole = {"tokens": np.int32(tokens), "segment": np.int32(segment)}

    def speak(encoder, params, stats, tokens, segment, **kw):
        seen.update(tokens=tokens, segment=segment)
        return params["hidden"], stats

    def keep(*a, old=bert.corrupt):
        return seen.update(at=a[2], weight=a[3]) or old(*a)

    info = text_info(size, start=1, end=2, mask=3)
    loss = objective_of(monkeypatch, bert, dict(apply=speak, corrupt=keep), info).loss

    def ours(hidden, table, token_bias, kernel, bias, scale, shift, key=KEY, batch=whole):
        encoder = {"hidden": hidden, "tokens": {"embedding": table}}
        head = dict(kernel=kernel, bias=bias, scale=scale, shift_bias=shift)
        params = {"encoder": encoder, "head": head, "token_bias": token_bias}
        return loss(params, state_of(), jax.device_put(batch), key)[0]

    shapes = [(len(lengths), 32) + width, (size,) + width, (size,), 2 * width] + 3 * [width]
    zeros = [np.zeros(shape, np.float32) for shape in shapes]
    found = jax.device_get(jax.jit(lambda *given: (ours(*given), seen)[1])(*zeros, KEY, whole))
    (rows, columns), at = np.nonzero(found["weight"]), np.zeros(tokens.shape, bool)
    at[rows, found["at"][rows, columns]] = True
    SAME(found["segment"], segment)
    return ours, shapes, tokens, found["tokens"], at


def test_bert_says_what_stood_at_the_chosen_places(monkeypatch):
    """run_pretraining.py get_masked_lm_output, with the exact GELU."""
    ours, shapes, tokens, seen, at = bert_case(monkeypatch, (29, 21, 12, 2), 40)
    SAME(at.sum(1), [4, 3, 2, 1])  # .15 of 29, 21 and 12; at least one
    assert (tokens[at] > 3).all(), "neither start nor end nor padding"
    SAME(seen[~at], tokens[~at])

    def reference(hidden, table, token_bias, kernel, bias, scale, shift):
        x = hidden[at] @ kernel + bias
        x = layer_norm(x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2, 1e-12)
        return cross_entropy((x * scale + shift) @ table.T + token_bias, tokens[at])

    agree(ours, reference, *map(np.random.default_rng(12).standard_normal, shapes))


def test_berts_encoder_sees_80_10_10_of_the_chosen_tokens(monkeypatch):
    """Each share within five deviations of its binomial; every place as often as another."""
    size, n = 500, 2000
    _, _, tokens, seen, at = bert_case(monkeypatch, [29] * n, size)
    was, now, total = tokens[at], seen[at], 4 * n  # .15 of 29 of each row
    other = now[(now != was) & (now != 3)]

    def binomial(count, trials, p):
        assert abs(count - trials * p) < 5 * math.sqrt(trials * p * (1 - p)), (count, trials * p)

    assert at.sum() == total
    binomial((now == 3).sum(), total, 0.8 + 0.1 / size)
    binomial((now == was).sum(), total, 0.1 + 0.1 / size)
    binomial((other < size / 2).sum(), len(other), 0.5)
    for place in at.T[1:30]:
        binomial(place.sum(), n, 4 / 29)
