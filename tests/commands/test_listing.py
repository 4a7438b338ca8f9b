"""`jssl list` and `jssl config`: what jssl has, and every key of a recipe."""

import json

from conftest import recipes
from helpers.command import jssl

from jssl import methods


def test_everything_is_listed(capfd):
    code, line, err = jssl(capfd, "list")
    assert code == 0
    found = json.loads(line)
    assert found["methods"].keys() == set(methods.names())
    assert len(found["recipes"]) == len(recipes())
    assert all(entry["title"] for entry in found["methods"].values())
    for name, entry in found["recipes"].items():  # whole sentences
        assert entry["description"] and not entry["description"].endswith("et al."), name
    assert "resnet50" in found["encoders"] and "knn" in found["protocols"]
    assert "simclr_cifar10" in err and "2002.05709" in err


def test_every_key_of_a_recipe_is_printed(capfd):
    code, _, err = jssl(capfd, "config", "--config=simclr_cifar10:tiny", "--config.optim.lr=0.5")
    assert code == 0
    (line,) = [line for line in err.splitlines() if " optim.lr " in line]
    assert "0.5" in line and "command line" in line
    assert " steps " in err and "(default" in err
