"""`jssl.transforms.augment` against NumPy references, Pillow, and the distributions it draws
from."""

import re
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_augment as reference
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from jssl.config import UserError
from jssl.data import canvas
from jssl.transforms import augment, color

RECIPE = {  # SimCLR's jitter at strength .5, and solarize
    "mode": "exact",
    "size": 24,
    "crop_scale": (0.2, 1.0),
    "crop_ratio": (3 / 4, 4 / 3),
    "flip_prob": 0.5,
    "jitter_prob": 0.8,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "gray_prob": 0.2,
    "blur_prob": 0.5,
    "blur_sigma": (0.1, 2.0),
    "solarize_prob": 0.2,
    "mean": (0.0,),
    "std": (1.0,),
    "dtype": "float32",
}
JITTER = ("brightness", "contrast", "saturation", "hue")
OFF = dict.fromkeys(
    (f"{name}_prob" for name in ("flip", "jitter", "gray", "blur", "solarize")), 0.0
)
BATCH, HEIGHT, WIDTH = 12, 33, 40  # of nearly every test, to compile once
KEY = jax.random.key(0)


def noise(channels=3):
    shape = (BATCH, HEIGHT, WIDTH, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def smooth():
    """Images as smooth as photographs are, and more colorful: 5 x 5 random colors, enlarged."""
    coarse = np.random.default_rng(1).integers(0, 256, (BATCH, 5, 5, 3), dtype=np.uint8)
    return np.stack([Image.fromarray(c).resize((WIDTH, HEIGHT), 3) for c in coarse])


def sizes(height=HEIGHT, width=WIDTH, batch=BATCH):
    return np.tile(np.array([height, width], np.int32), (batch, 1))


def namespace(**changes):
    return SimpleNamespace(**(RECIPE | changes))


@cache
def compiled(mode, **changes):
    apply = {"exact": augment.apply_exact, "fused": augment.apply_fused}[mode]
    return jax.jit(partial(apply, namespace(mode=mode, **changes)))


@cache
def centered(**settings):
    return jax.jit(augment.center(**settings))


@cache
def sampler(**changes):
    return jax.jit(partial(augment.sample_params, namespace(**changes)))


def draw(valid, key=KEY, **changes):
    return jax.tree.map(np.asarray, sampler(**changes)(key, valid))


def still(**changes):
    """Parameters that take the 24 x 24 pixels at the top left as they are, but for `changes`."""
    box = {"top": 0.0, "left": 0.0, "height": 24.0, "width": 24.0, "sigma": 1.0, "hue": 0.0}
    box |= dict.fromkeys(("brightness", "contrast", "saturation"), 1.0)
    box |= dict.fromkeys(("flip", "gray", "blur", "solarize"), False)
    values = {name: np.asarray(value) for name, value in (box | changes).items()}
    types = {name: bool if v.dtype == bool else np.float32 for name, v in values.items()}
    params = {name: np.full(BATCH, v, types[name]) for name, v in values.items()}
    return params | {"order": np.tile(np.arange(4, dtype=np.int32), (BATCH, 1))}


def expected(image, params):
    rows = [{k: np.asarray(v[i], np.float64) for k, v in params.items()} for i in range(BATCH)]
    return np.stack([reference.augment(x, row, 24) for x, row in zip(image, rows, strict=True)])


@pytest.mark.parametrize("channels", [3, 1])
def test_exact_is_the_reference(channels):
    image = noise(channels)
    params = draw(sizes())
    params["blur"], params["solarize"], params["flip"] = (np.arange(12) % k == 0 for k in (2, 3, 5))
    assert len({tuple(order) for order in params["order"].tolist()}) > 6
    out = compiled("exact")(image, params)
    np.testing.assert_allclose(out, expected(image, params), atol=3e-5)


@pytest.mark.parametrize(
    "change",
    [{"brightness": 1.3}, {"contrast": 0.6}, {"saturation": 1.4}, {"hue": 0.3}, {"hue": -0.4}]
    + [{"gray": True}, {"blur": True, "sigma": 0.8}, {"solarize": True}, {"flip": True}],
    ids=str,
)
def test_one_operation(change):
    image, params = noise(), still(**change)
    out = compiled("exact")(image, params)
    np.testing.assert_allclose(out, expected(image, params), atol=1e-5)


def test_pillow_colors():
    """Within Pillow's rounding to whole levels, and to a whole mean for contrast."""
    image = noise()
    picture = Image.fromarray(image[0, :24, :24])
    enhance = {"brightness": "Brightness", "contrast": "Contrast", "saturation": "Color"}
    for name, pillow in enhance.items():
        for factor in (0.5, 1.5):
            out = 255 * np.asarray(compiled("exact")(image, still(**{name: factor})))[0]
            target = np.asarray(getattr(ImageEnhance, pillow)(picture).enhance(factor))
            np.testing.assert_allclose(out, target, atol=1.5, err_msg=f"{name} {factor}")
    for mode in ("exact", "fused"):
        out = 255 * np.asarray(compiled(mode)(image, still(solarize=True)))[0]
        np.testing.assert_allclose(out, ImageOps.solarize(picture, 128), atol=1e-3)
    out = 255 * np.asarray(compiled("exact")(image, still(gray=True)))[0, :, :, 0]
    np.testing.assert_allclose(out, picture.convert("L"), atol=1)


@pytest.mark.parametrize("mode", ["exact", "fused"])
def test_pillow_crop_and_flip(mode):
    image = noise()
    boxes = np.array([[5, 2, 40, 33], [0, 0, 13, 11], [10, 5, 34, 29]] * 4)  # x0, y0, x1, y1
    left, top, right, bottom = boxes.T.astype(np.float32)
    params = still(left=left, top=top, width=right - left, height=bottom - top)
    params["flip"] = np.arange(BATCH) % 2 == 0
    out = np.asarray(compiled(mode)(image, params))
    for i, box in enumerate(boxes.tolist()):
        target = Image.fromarray(image[i]).crop(box).resize((24, 24), Image.Resampling.BILINEAR)
        target = np.asarray(target)[:, :: -1 if i % 2 == 0 else 1]
        np.testing.assert_allclose(255 * out[i], target, atol=1.1)


@pytest.mark.parametrize("crop", [0.875, 1.0])
def test_center_is_pillow(crop):
    image, std = noise(), (0.25, 0.5, 1.0)
    valid = np.array([[33, 40], [31, 20]] * 6, np.int32)
    f = centered(size=14, crop=crop, mean=(0.5,), std=std, dtype="float32")
    out = np.asarray(f(image, valid)) * np.array(std) + 0.5
    for i, (height, width) in enumerate(valid.tolist()):
        target = resize_and_center_crop(image[i, :height, :width], round(14 / crop), 14)
        np.testing.assert_allclose(255 * out[i], target, atol=1.1)


def resize_and_center_crop(image, resized, size):
    """torchvision's Resize(resized), CenterCrop(size): `_compute_resized_output_size` and
    `center_crop` of transforms/functional.py."""
    height, width = image.shape[:2]
    short = min(height, width)
    whole = [int(resized * side / short) for side in (width, height)]
    picture = Image.fromarray(image).resize(whole, Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in whole)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (300, 700), (260, 260), (256, 341)])
def test_evaluation_sees_the_references_pixels(shape):
    """Resize(256), CenterCrop(224) of a photo, from what its canvas keeps of it."""
    coarse = np.random.default_rng(2).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    photo = np.asarray(Image.fromarray(coarse).resize(shape[::-1], 3))
    placed, size = canvas.pad_to_canvas(photo, canvas.canvas_of(256))
    f = centered(size=224, crop=0.875, mean=(0.0,), std=(1.0,), dtype="float32")
    out = 255 * np.asarray(f(placed[None], np.array(size, np.int32)[None]))[0]
    target = resize_and_center_crop(photo, 256, 224).astype(float)
    assert min(size) == 256
    difference = np.abs(out - target)
    cut = max(shape) / min(shape) > 1.5  # then off by a part of a pixel
    assert difference.mean() < (3 if cut else 0.6)
    assert np.quantile(difference, 0.99) < (12 if cut else 4)


@pytest.mark.parametrize("mode", ["exact", "fused"])
def test_an_image_that_lies_on_its_side_is_seen_upright(mode):
    """The same pixels, turned and not, give the same view: crop, flip, blur and colors."""
    image = noise()[:, :, :33]
    valid = sizes(31, 24)
    lying = np.zeros((BATCH, 28, 40, 3), np.uint8)
    lying[:, :24, :31] = image[:, :31, :24].swapaxes(1, 2)
    params = draw(valid)
    assert params["flip"].any() and not params["flip"].all()
    plain = compiled(mode)(image, params)
    both = augment.turned(lying, valid)
    assert both["turned"].all() and not augment.turned(image, valid)
    np.testing.assert_allclose(compiled(mode)(lying, params | both), plain, atol=3e-5)
    f = centered(size=14, crop=0.875, mean=(0.5,), std=(0.5,), dtype="float32")
    np.testing.assert_allclose(f(lying, valid), f(image, valid), atol=1e-5)


@pytest.mark.parametrize("mode", ["exact", "fused"])
def test_sixteen_bits_are_the_same_image(mode):
    image, params = noise(), draw(sizes())
    deep = image.astype(np.uint16) * 257
    params |= {"solarize": np.zeros(BATCH, bool)}
    np.testing.assert_allclose(
        compiled(mode)(deep, params), compiled(mode)(image, params), atol=1e-5
    )


def test_blur_matrix_at_every_size():
    """The reference convolution is within 24 pixels above; here the kernels of other sizes."""
    lengths = (1, 2, 45)
    blur = jax.jit(lambda sigma, on: [augment.blur_matrix(sigma, on, n, 6) for n in lengths])
    matrices = blur(np.float32([0.7, 0.7]), np.array([True, False]))
    for size, matrix in zip(lengths, map(np.asarray, matrices), strict=True):
        np.testing.assert_array_equal(matrix[1], np.eye(size))
        np.testing.assert_allclose(matrix[0].sum(axis=1), 1, atol=1e-6)
        if size > 1:  # nothing to reflect in one pixel
            x = np.random.default_rng(0).random((size, size, 2))
            out = np.einsum("oh,pw,hwc->opc", matrix[0], matrix[0], x)
            radius = min(6, size - 1)
            np.testing.assert_allclose(out, reference.blur(x, 0.7, radius), atol=1e-6)


def test_blur_reaches_as_far_as_pillows():
    """The deviation of what a point becomes: Pillow's is sigma, and "tenth" cuts it off."""
    point = np.zeros((64, 64), np.uint8)
    point[32] = 255
    sigma, cases = 2.0, [(size, kernel) for size in (32, 64, 224) for kernel in ("whole", "tenth")]

    @jax.jit
    def middle_rows(sigma, on):
        rows = []
        for size, kernel in cases:
            recipe = namespace(size=size, blur_kernel=kernel, blur_sigma=(0.1, 2.0))
            radius = augment.blur_radius(recipe)
            rows.append(augment.blur_matrix(sigma, on, size, radius)[0, size // 2])
        return rows

    rows = middle_rows(np.float32([sigma]), np.array([True]))
    for (size, kernel), row in zip(cases, map(np.asarray, rows), strict=True):
        got = np.sqrt((row * (np.arange(size) - size // 2) ** 2).sum())
        assert {"whole": 0.97, "tenth": 0.0}[kernel] * sigma <= got <= sigma
        if kernel == "tenth" and size == 32:
            assert 0.75 < got < 0.85
    line = Image.fromarray(point).filter(ImageFilter.GaussianBlur(2.0))
    row = np.asarray(line, float)[:, 32]
    pillows = np.sqrt((row * (np.arange(64) - 32) ** 2).sum() / row.sum())
    assert abs(pillows - 2.0) < 0.1


def test_hue_about_the_gray_axis():
    """Gray stays; a third of the circle takes red to green, as in HSV."""
    x = np.random.default_rng(0).random((1, 4, 5, 3))

    @jax.jit
    def turn(x, shift):
        return color.rotate_gray(x.swapaxes(2, 3), jnp.full((1, 1, 1, 1), shift)).swapaxes(2, 3)

    np.testing.assert_allclose(turn(x, 0.1)[0], reference.hue_gray_axis(x[0], 0.1), atol=1e-6)
    flat = np.full((1, 4, 5, 3), 0.3)
    np.testing.assert_allclose(turn(flat, 0.2), flat, atol=1e-6)
    red, green = (np.broadcast_to(one, (1, 4, 5, 3)) for one in ([1.0, 0, 0], [0, 1.0, 0]))
    np.testing.assert_allclose(turn(red, 1 / 3), green, atol=1e-6)


def test_fused_is_exact_without_clipping_and_hue():
    """Contrast, blur and every order included; levels of 90..165 are never clipped."""
    image = (90 + 75 * (noise() / 255)).astype(np.uint8)
    changes = {"brightness": 0.2, "contrast": 0.2, "jitter_prob": 1.0}
    params = draw(sizes(), jax.random.key(3), **changes)
    assert params["blur"].any() and params["gray"].any() and not params["gray"].all()
    # Solarize is a step, and rounding may fall on its other side: it has its own tests.
    params |= {"solarize": np.zeros(BATCH, bool), "hue": np.zeros(BATCH, np.float32)}
    exact, fused = (compiled(mode)(image, params) for mode in ("exact", "fused"))
    np.testing.assert_allclose(fused, exact, atol=3e-6)


def test_fused_is_near_exact():
    """The figures of the module's docstring: jitter and blur on every image, no solarize."""
    image = smooth()
    params = draw(sizes(), jax.random.key(1), jitter_prob=1.0, blur_prob=1.0, solarize_prob=0.0)
    calm = params | {"hue": np.zeros(BATCH, np.float32)}
    difference = {}
    for name, values in {"all": params, "no hue": calm}.items():
        exact = np.asarray(compiled("exact")(image, values))
        for dtype in ("float32", "bfloat16"):
            fused = np.asarray(compiled("fused", dtype=dtype)(image, values)).astype(np.float32)
            difference[name, dtype] = float(np.abs(fused - exact).mean())
    print("mean |fused - exact|:", {k: round(v, 4) for k, v in difference.items()})
    assert max(difference["all", "float32"], difference["all", "bfloat16"]) < 0.05
    assert max(difference["no hue", "float32"], difference["no hue", "bfloat16"]) < 0.009


def test_crops_are_those_of_torchvision():
    """Area uniform, log ratio uniform (all fit), whole pixels, inside the valid part."""
    p = draw(sizes(150, 200, 4000), crop_scale=(0.1, 0.5), crop_ratio=(1.0, 1.5))
    height, width, top, left = (np.asarray(p[n]) for n in ("height", "width", "top", "left"))
    for value in (height, width, top, left):
        assert (value == np.round(value)).all()
    assert (top >= 0).all() and (top + height).max() == 150
    assert (left >= 0).all() and (left + width).max() == 200
    area = height * width / (150 * 200)
    ratio = np.log(width / height) / np.log(1.5)
    uniform = np.linspace(0.01, 0.99, 99)
    np.testing.assert_allclose(np.quantile(area, uniform), 0.1 + 0.4 * uniform, atol=0.015)
    np.testing.assert_allclose(np.quantile(ratio, uniform), uniform, atol=0.04)
    place = (top + 0.5) / (150 - height + 1)
    np.testing.assert_allclose(np.quantile(place, uniform), uniform, atol=0.03)


def test_crop_falls_back_to_the_center():
    p = draw(sizes(10, 90, 8), crop_scale=(0.9, 1.0))
    box = [np.unique(p[n]).tolist() for n in ("top", "left", "height", "width")]
    assert box == [[0.0], [38.0], [10.0], [13.0]]  # 13 = round(10 * 4 / 3)
    p = draw(sizes(90, 10, 8), crop_scale=(0.9, 1.0))
    assert np.unique(p["height"]).tolist() == [13.0] and np.unique(p["top"]).tolist() == [38.0]


def test_draws_have_their_distributions():
    p = draw(sizes(batch=4000))
    for name, probability in {"flip": 0.5, "gray": 0.2, "blur": 0.5, "solarize": 0.2}.items():
        assert abs(p[name].mean() - probability) < 0.03, name
    for name, neutral in zip(JITTER, (1, 1, 1, 0), strict=True):
        value = np.asarray(p[name])
        jittered = value[value != neutral] - neutral
        assert abs(len(jittered) / 4000 - 0.8) < 0.03
        assert np.abs(jittered).max() <= RECIPE[name] and abs(jittered.mean()) < 0.03
        assert abs(jittered.std() - RECIPE[name] / np.sqrt(3)) < 0.05 * RECIPE[name]
    assert (
        p["sigma"].min() >= 0.1 and p["sigma"].max() <= 2.0 and abs(p["sigma"].mean() - 1.05) < 0.05
    )
    counts = np.unique(np.asarray(p["order"]), axis=0, return_counts=True)[1]
    assert len(counts) == 24 and abs(counts / 4000 - 1 / 24).max() < 0.015
    names = (*JITTER, "sigma", "flip", "gray", "blur", "solarize", "top", "left", "height")
    rows = [np.asarray(p[n], float)[np.asarray(p["hue"]) != 0] for n in names]  # jittered ones
    assert np.abs(np.corrcoef(rows) - np.eye(len(names)))[:9].max() < 0.08


def test_strong_brightness_never_turns_negative():
    assert draw(sizes(batch=500), brightness=3.0)["brightness"].min() >= 0


@pytest.mark.parametrize("mode", ["exact", "fused"])
def test_only_the_valid_part_is_seen(mode):
    clean = noise()
    valid = np.array([[20, 17], [9, 40], [33, 8]] * 4, np.int32)
    dirty = clean.copy()
    for i, (height, width) in enumerate(valid.tolist()):
        dirty[i, height:], dirty[i, :, width:] = 255 - dirty[i, height:], 255 - dirty[i, :, width:]
    params = draw(valid)
    assert (clean != dirty).any(axis=(1, 2, 3)).all()
    f = compiled(mode)
    np.testing.assert_array_equal(f(clean, params), f(dirty, params))


def test_view_is_a_function_of_its_key():
    f = jax.jit(augment.view(**RECIPE))

    def view(*args):
        return np.asarray(f(*args))

    one = view(KEY, noise(), sizes())
    np.testing.assert_array_equal(one, view(KEY, noise(), sizes()))
    other = view(jax.random.key(1), noise(), sizes())
    assert (np.abs(one - other).mean(axis=(1, 2, 3)) > 0.01).all()
    assert len({x.tobytes() for x in view(KEY, 0 * noise() + noise()[:1], sizes())}) == 12


def test_normalize_and_dtype():
    image, params = noise(), still()
    plain = np.asarray(compiled("fused")(image, params))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    out = compiled("fused", mean=mean, std=std)(image, params)
    np.testing.assert_allclose(out, (plain - np.array(mean)) / np.array(std), atol=1e-5)
    narrow = jax.eval_shape(compiled("exact", dtype="bfloat16", **OFF), image, params)
    assert narrow.dtype == jnp.bfloat16


@pytest.mark.parametrize("mode", ["exact", "fused"])
@pytest.mark.parametrize("channels", [1, 5])
def test_other_channels(mode, channels, caplog):
    augment._warn_once.cache_clear()
    image, params = noise(channels), draw(sizes(), jitter_prob=1.0)
    out = compiled(mode, hue=0.1)(image, params)
    jax.eval_shape(compiled(mode, hue=0.2), image, params)  # traced twice
    assert out.shape == (BATCH, 24, 24, channels)
    gone = {1: "saturation, hue, gray", 5: ", ".join((*JITTER, "gray", "solarize"))}[channels]
    assert [r.message for r in caplog.records] == [
        f"augment: {channels}-channel images get no {gone}"
    ]
    if channels == 5:  # geometry and blur remain
        plain = compiled(mode, **(OFF | {"flip_prob": 0.5, "blur_prob": 0.5}))(image, params)
        np.testing.assert_allclose(out, plain, atol=1e-6)


@pytest.mark.parametrize("mode", ["exact", "fused"])
def test_what_is_off_is_not_in_the_program(mode):
    def program(**changes):
        f = augment.view(**(RECIPE | {"mode": mode} | changes))
        return str(jax.make_jaxpr(f)(KEY, noise(), sizes()))

    cheap = program(**OFF)
    assert (
        cheap.count("dot_general") == 2 and program(**(OFF | {"blur_prob": 0.1})).count("exp") > 0
    )
    assert " exp " not in cheap and " cos " not in cheap and "reduce_max" not in cheap
    full = program()
    hue = {"exact": "reduce_max", "fused": " cos "}[mode]
    assert hue in full and hue not in program(hue=0.0) and hue not in program(jitter_prob=0.0)


def test_everything_is_in_the_scope():
    """FLOP accounting leaves out what bears this name: every matmul and every draw must."""
    views = augment.view(**(RECIPE | {"mode": "fused"}))
    f = augment.center(size=8, crop=1.0, mean=(0.5,), std=(0.5,), dtype="float32")
    step = jax.jit(lambda key, image, valid: (views(key, image, valid), f(image, valid)))
    names = re.findall(r'"(jit[^"]*)"', step.lower(KEY, noise(), sizes()).as_text(debug_info=True))
    names = [
        name for name in names if name.endswith(("dot_general", "random_bits", "exp", "clamp"))
    ]
    assert len(names) >= 4 and all("/augment/" in name for name in names), names


@pytest.mark.parametrize(
    "change,say",
    [
        ({"mode": "fussed"}, "did you mean 'fused'"),
        ({"dtype": "float16"}, "bfloat16"),
        ({"size": 0}, "try 1"),
        ({"flip_prob": 1.5}, "try 1"),
        ({"solarize_prob": -0.1}, "try 0"),
        ({"gray_prob": float("nan")}, "must be finite"),
        ({"hue": 0.7}, "try 0.5"),
        ({"contrast": -1.0}, "try 0"),
        ({"crop_scale": (0.5, 0.2)}, "must ascend; try (0.2, 0.5)"),
        ({"crop_scale": (0.0, 1.0)}, "its element 0.0 must be 0.0001 to 1; try 0.0001"),
        ({"crop_scale": (0.2, 1.1)}, "its element 1.1 must be 0.0001 to 1; try 1"),
        ({"crop_scale": (0.2,)}, "must have 2 elements, not 1"),
        ({"crop_ratio": (-1.0, 1.0)}, "must be at least 0.0001; try 0.0001"),
        ({"blur_sigma": (2.0, 0.1)}, "try (0.1, 2.0)"),
        ({"blur_sigma": (0.0, 0.1)}, "try 0.0001"),
    ],
    ids=str,
)
def test_wrong_settings(change, say):
    with pytest.raises(UserError) as error:
        augment.view(**(RECIPE | change))
    (key,) = change
    message = str(error.value)
    assert message.startswith(f"--config.augment.{key}=") and say in message and "\n" not in message


@pytest.mark.parametrize(
    "change", [{"mean": (0.5, 0.5)}, {"std": (0.5, 0.5)}, {"mean": ()}], ids=str
)
def test_wrong_mean(change):
    with pytest.raises(UserError, match=rf"augment\.{next(iter(change))}="):
        jax.eval_shape(augment.view(**(RECIPE | change)), KEY, noise(), sizes())


def test_wrong_center():
    settings = {"size": 8, "crop": 1.0, "mean": (0.5,), "std": (0.5,), "dtype": "float32"}
    for change in ({"size": 0}, {"crop": 0.0}, {"crop": 1.5}, {"dtype": "f32"}):
        with pytest.raises(UserError, match=f"augment.{next(iter(change))}="):
            augment.center(**(settings | change))
