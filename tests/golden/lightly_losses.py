"""Golden numbers for tests/methods/test_golden.py from lightly, a PyTorch library with the same
losses.

Needs torch, torchvision (lightly.loss imports it) and lightly, in an environment of its own, and
nothing of jssl. Run as

    python tests/golden/lightly_losses.py

It writes lightly_losses.json beside itself: the versions, and for each case the call, its inputs
(drawn by NumPy with a fixed seed, float32), the value, the gradient of the value with respect to
each input, and a note of where lightly differs from the paper. Numbers are the shortest decimals
that name the float32 exactly.
"""

import json
import pathlib
import re

import lightly
import numpy as np
import torch
from lightly import loss as losses
from lightly.loss import swav_loss, vicreg_loss

OUT = pathlib.Path(__file__).with_suffix(".json")
B, D, K = 7, 5, 6


def exact(x):
    """Nested lists of the shortest decimals that read back as the same float32."""
    x = np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, np.float32)
    return [exact(row) for row in x] if x.ndim else float(str(x))


def case(call, note, function, inputs, **more):
    """Runs the function on the inputs, in order, and its backward pass."""
    tensors = {name: torch.tensor(x, requires_grad=True) for name, x in inputs.items()}
    value = function(*tensors.values())
    value.sum().backward()  # SwaVLoss returns a vector of one
    return {
        "call": call,
        "note": note,
        "inputs": {name: exact(x) for name, x in inputs.items()},
        "value": exact(value.squeeze()),
        "gradients": {name: exact(x.grad) for name, x in tensors.items()},
        **{name: exact(x) for name, x in more.items()},
    }


def views(seed, scale=1.0):
    """Two views [B, D] that agree in part; not unit vectors, not centred."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(B, D))
    noise = rng.normal(size=(2, B, D))
    return [np.float32((z + 0.7 * n) * scale + 0.3) for n in noise]


def rows(seed, *shape):
    """Unit rows."""
    x = np.random.default_rng(seed).normal(size=shape)
    return np.float32(x / np.linalg.norm(x, axis=-1, keepdims=True))


def nt_xent(temperature):
    a, b = views(1, 1.5)
    return case(
        f"NTXentLoss(temperature={temperature})(z_a, z_b)",
        "As SimCLR's equation 1: both directions, 2B - 1 candidates, mean over 2B. lightly's NNCLR "
        "calls it as well, with 2B - 2 negatives from both sides, where NNCLR's equation 3 has the "
        "B - 1 predictions of the other side only.",
        losses.NTXentLoss(temperature=temperature),
        {"z_a": a, "z_b": b},
    )


def with_bank(temperature, bank):
    """NTXentLoss whose memory bank holds the given rows."""
    loss = losses.NTXentLoss(temperature=temperature, memory_bank_size=bank.shape)
    loss.memory_bank.bank = torch.tensor(bank)
    return loss


def moco():
    q, k = views(2, 1.5)
    bank = rows(3, 12, D)
    loss = with_bank(0.2, bank)
    out = case(
        "NTXentLoss(temperature=0.2, memory_bank_size=(12, 5))(q, k), the bank set by hand",
        "MoCo's equation 1, q against k and the bank. One direction only: q looks for k. The "
        "gradient reaches k (the caller must cut it), not the bank. k is written to the bank after "
        "it is read, and only if q needs a gradient. The bank is a ring: rows are overwritten in "
        "place, and those of a batch that do not fit before its end are dropped. Rows of the bank "
        "are taken as they are; k is normalized before it is written.",
        loss,
        {"q": q, "k": k},
        bank=bank,
    )
    return out | {"bank_after": exact(loss.memory_bank.bank)}


def info_nce():
    q, k = views(4, 1.5)
    unit = torch.nn.functional.normalize(torch.tensor(k), dim=1).numpy()

    def function(q):
        parts = []
        for i in range(B):
            loss = with_bank(0.2, np.delete(unit, i, axis=0))
            parts.append(loss(q[i : i + 1], torch.tensor(k[i : i + 1])))
        return torch.stack(parts).mean()

    return case(
        "mean over i of NTXentLoss(0.2, memory_bank_size=(6, 5))(q_i, k_i), the bank all other k",
        "InfoNCE within a batch, one direction, which lightly has no loss for: one call a row, "
        "with the other rows' keys as bank. No gradient reaches a bank, so only that of q is here.",
        function,
        {"q": q},
        k=k,
    )


def dcl():
    a, b = views(5, 1.5)
    return case(
        "DCLLoss(temperature=0.1)(z_a, z_b)",
        "Equation 6 is a sum over images and views, lightly's a mean over 2B.",
        losses.DCLLoss(temperature=0.1),
        {"z_a": a, "z_b": b},
    )


def dclw():
    a, b = views(6, 1.5)
    return case(
        "DCLWLoss(temperature=0.1, sigma=0.5)(z_a, z_b)",
        "A mean over 2B, as DCLLoss. No gradient flows to the weight, on which the paper is silent "
        "(raminnakhli/Decoupled-Contrastive-Learning loss/dcl.py lets it flow).",
        losses.DCLWLoss(temperature=0.1, sigma=0.5),
        {"z_a": a, "z_b": b},
    )


def negative_cosine():
    p, z = views(7, 1.5)
    return case(
        "NegativeCosineSimilarity()(p, z)",
        "SimSiam's equation 1 without the stop-gradient: z gets a gradient; the caller cuts it. "
        "lightly trains BYOL with it too, whose equation 2 is 2 + 2 times this.",
        losses.NegativeCosineSimilarity(),
        {"p": p, "z": z},
    )


def barlow():
    # Deviations from 0.01 to 2, so that the epsilon under the root shows.
    a, b = (x * np.float32([0.01, 0.3, 1, 2, 0.1]) for x in views(8))
    return case(
        "BarlowTwinsLoss(lambda_param=5e-3)(z_a, z_b)",
        "Standardised by batch_norm without affine, as the authors' code: biased variance plus "
        "1e-5. (Algorithm 1 of the paper divides by torch's std: unbiased, no epsilon.)",
        losses.BarlowTwinsLoss(lambda_param=5e-3),
        {"z_a": a, "z_b": b},
    )


def vicreg():
    # Some deviations below 1 and some above, so that both sides of the hinge are taken.
    a, b = (x * np.float32([0.05, 0.3, 0.9, 1.4, 2]) for x in views(9))
    x, y = torch.tensor(a), torch.tensor(b)
    out = case(
        "VICRegLoss()(z_a, z_b): weights 25, 25, 1",
        "As the authors' main_vicreg.py: the squared difference is a mean over features too (a sum "
        "in equation 5), the variance term half of both views' (a sum in equation 6), the "
        "covariance term the sum of both.",
        losses.VICRegLoss(),
        {"z_a": a, "z_b": b},
    )
    terms = {
        "invariance": vicreg_loss.invariance_loss(x, y),
        "variance": (vicreg_loss.variance_loss(x) + vicreg_loss.variance_loss(y)) / 2,
        "covariance": vicreg_loss.covariance_loss(x) + vicreg_loss.covariance_loss(y),
    }
    return out | {"terms": {name: exact(term) for name, term in terms.items()}}


def prototype_scores(seed, crops):
    """Cosines [crops, B, K] of features and prototypes."""
    return rows(seed, crops, B, D) @ rows(seed + 100, K, D).T


def sinkhorn(iterations):
    scores = prototype_scores(10, 1)[0]
    value = swav_loss.sinkhorn(torch.tensor(scores), iterations=iterations, epsilon=0.05)
    return {
        "call": f"sinkhorn(scores, iterations={iterations}, epsilon=0.05)",
        "note": "The authors' code also divides by the number of prototypes after the first "
        "normalization, which the second undoes. exp(scores / epsilon) without subtracting a "
        "maximum: it overflows from scores of 4.4 on. No gradient.",
        "inputs": {"scores": exact(scores)},
        "value": exact(value),
    }


def swav():
    scores = prototype_scores(11, 3)
    return case(
        "SwaVLoss()(high, low): temperature 0.1, sinkhorn of epsilon 0.05 and 3 iterations",
        "As the authors' code: each of the 2 high resolution crops gives codes, which every other "
        "crop predicts; mean over pairs. No gradient flows to the codes.",
        lambda high, low: losses.SwaVLoss()(list(high), list(low)),
        {"high": scores[:2], "low": scores[2:]},
    )


def dino():
    rng = np.random.default_rng(12)
    teacher, student = (np.float32(rng.normal(size=(n, B, K)) * 0.3) for n in (2, 4))
    center = np.float32(rng.normal(size=K) * 0.2)
    loss = losses.DINOLoss(output_dim=K, teacher_temp=0.04, student_temp=0.1, center_momentum=0.9)
    loss.center = torch.tensor(center)[None, None]
    out = case(
        "DINOLoss(teacher_temp=0.04, student_temp=0.1, center_momentum=0.9)(teacher, student), "
        "the center set by hand",
        "As the authors' code: mean over the 6 pairs of a global crop and another crop; the center "
        "is that of the steps before, and moves to the mean of the teacher's raw outputs after. "
        "The gradient reaches the teacher: the caller must cut it.",
        lambda teacher, student: loss(list(teacher), list(student)),
        {"teacher": teacher, "student": student},
        center=center,
    )
    return out | {"center_after": exact(loss.center[0, 0])}


def fix_directions(sigreg, directions):
    """SIGReg draws directions at every call; here they are given: unit columns [D, M]."""
    sigreg._generate_unit_vectors = lambda device, dtype, num_features: torch.tensor(directions)


def sigreg():
    z = np.stack(views(13))
    directions = np.ascontiguousarray(rows(14, 9, D).T)
    loss = losses.SIGReg(num_vectors=9)
    fix_directions(loss, directions)
    return case(
        "SIGReg(num_vectors=9)(z), the directions set by hand",
        "As the authors' code: 17 knots over [0, 3], doubled. The listing in the paper has its "
        "17 knots over [-5, 5].",
        loss,
        {"z": z},
        directions=directions,
    )


def lejepa():
    z = np.float32(np.random.default_rng(15).normal(size=(4, B, D)) * 1.2 + 0.2)
    directions = np.ascontiguousarray(rows(16, 9, D).T)
    loss = losses.LeJEPALoss(sigreg_num_vectors=9)
    fix_directions(loss.sigreg, directions)
    return case(
        "LeJEPALoss(sigreg_num_vectors=9)(global_proj=z_global, local_proj=z_local): lambda 0.05, "
        "the directions set by hand",
        "0.05 SIGReg of all views + 0.95 mean squared distance of all views to the mean of the "
        "global ones; mean over features too. The gradient reaches that mean.",
        lambda z_global, z_local: loss(global_proj=z_global, local_proj=z_local),
        {"z_global": z[:2], "z_local": z[2:]},
        directions=directions,
    )


def main():
    torch.set_num_threads(1)
    cases = {
        "nt_xent_0.1": nt_xent(0.1),
        "nt_xent_0.5": nt_xent(0.5),
        "moco": moco(),
        "info_nce": info_nce(),
        "dcl": dcl(),
        "dclw": dclw(),
        "negative_cosine": negative_cosine(),
        "barlow": barlow(),
        "vicreg": vicreg(),
        "sinkhorn_1": sinkhorn(1),
        "sinkhorn_3": sinkhorn(3),
        "swav": swav(),
        "dino": dino(),
        "sigreg": sigreg(),
        "lejepa": lejepa(),
    }
    versions = {"torch": torch.__version__, "lightly": lightly.__version__, "numpy": np.__version__}
    text = json.dumps({"versions": versions, "cases": cases}, indent=1)
    text = re.sub(r"\[[^][]*\]", lambda row: " ".join(row[0].split()), text)  # a row on a line
    OUT.write_text(text + "\n")


if __name__ == "__main__":
    main()
