"""The folders of `jssl export`: their files, their program, and what cannot be exported."""

import json
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from helpers.command import refused
from interop.test_read import folder_of
from safetensors import safe_open
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import jssl
from jssl import cli
from jssl.config import UserError
from jssl.data.sources import digits
from jssl.data.text import tokenizer
from jssl.interop import export as exporting
from jssl.interop import read, to_onnx, torch_models, verify, verify_onnx
from jssl.interop.tokenizer_files import write_tokenizer

FEW = ["--config.steps=2", "--config.eval.every=0", "--config.checkpoint.every=0"]
RECIPES = {"image": "mae_imagenette:tiny", "text": "bert_small_books:tiny"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{"image": a workdir of MAE, "text": one of BERT}."""
    folder = tmp_path_factory.mktemp("runs")
    for name, recipe in RECIPES.items():
        words = ["train", f"--config={recipe}", f"--workdir={folder / name}", *FEW]
        assert cli.main(words) == 0
    return {name: folder / name for name in RECIPES}


def export(workdir, out, kind, *more):
    words = ["export", f"--workdir={workdir}", f"--out={out}", f"--format={kind}", *more]
    assert cli.main(words) == 0
    return out


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_a_folder_for_transformers_has_what_it_needs(runs, tmp_path):
    out = export(runs["image"], tmp_path / "mae", "hf", "--heads")
    config = config_of(out)
    assert config["model_type"] == "vit_mae" and config["layer_norm_eps"] == 1e-6
    assert config["decoder_hidden_size"] == 16 and config["norm_pix_loss"] is True
    processor = json.loads((out / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.485, 0.456, 0.406]
    assert processor["crop_size"] == {"height": 32, "width": 32}
    with safe_open(out / "model.safetensors", framework="np") as file:
        names = set(file.keys())
        facts = file.metadata()
    assert "vit.embeddings.position_embeddings" in names, "fixed positions are written as values"
    assert "decoder.decoder_layers.0.intermediate.dense.weight" in names
    assert "decoder.decoder_pos_embed" in names
    assert facts["format"] == "pt" and facts["jssl_step"] == "2" and facts["jssl_config"]
    card = (out / "README.md").read_text()
    assert card.startswith('---\nlicense: "other"\n') and "mae_imagenette:tiny" in card
    assert oct((out / "model.safetensors").stat().st_mode)[-3:] == "644"


def test_a_folder_for_timm_states_the_statistics_of_training(runs, tmp_path):
    config = config_of(export(runs["image"], tmp_path / "timm", "timm"))
    assert config["architecture"] == "vit_base_patch16_224"  # `model_args` has the true sizes
    assert config["model_args"]["embed_dim"] == 32 and config["model_args"]["depth"] == 2
    assert config["pretrained_cfg"]["mean"] == [0.485, 0.456, 0.406]
    assert config["num_classes"] == 0 and config["global_pool"] == "token"


def test_dinov2_has_a_whole_ratio_of_widths(tmp_path):
    """transformers 5 refuses others; SwiGLU's width is two thirds, rounded up to eights."""
    weights = read.read_weights(folder_of(tmp_path, "dinov2_swiglu"))
    target = exporting.target_of(weights, {}, "hf", 3)
    assert target.config["mlp_ratio"] == 4 and target.config["use_swiglu_ffn"] is True
    odd = weights._replace(model=weights.model | {"mlp_width": 40})
    with pytest.raises(UserError, match="no feed-forward layer of width 40 beside 32 features"):
        exporting.target_of(odd, {}, "hf", 3)


def test_text_brings_its_tokenizer(runs, tmp_path):
    out = export(runs["text"], tmp_path / "bert", "hf", "--heads")
    assert config_of(out)["architectures"] == ["BertForMaskedLM"]
    made = Tokenizer.from_file(str(out / "tokenizer.json"))
    own = tokenizer.ByteTokenizer()
    text = "Ärger, 3 <mask>s\n"
    ids = made.encode(text).ids
    assert ids[0] == own.vocab["start"] and ids[-1] == own.vocab["end"]
    plain = "Ärger, 3 %s\n\t~"
    assert made.encode(plain, add_special_tokens=False).ids == own.encode(plain)
    assert made.decode(own.encode(plain)) == plain
    special = json.loads((out / "tokenizer_config.json").read_text())
    assert special["mask_token"] == "<mask>" and special["pad_token"] == "<pad>"
    with safe_open(out / "model.safetensors", framework="np") as file:
        assert "cls.predictions.transform.dense.weight" in file.keys()


def test_a_trained_tokenizer_gives_the_same_ids(tmp_path):
    own = tokenizer.train(["the cat sat on the mat " * 20, "a hat"], 300)
    write_tokenizer(tmp_path, own, 16)
    made = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert made.encode("the cat", add_special_tokens=False).ids == own.encode("the cat")


def test_the_program_gives_the_features_of_the_encoder(runs, tmp_path):
    """In a process that imports only jax and numpy; for another number of images."""
    pytest.importorskip("flatbuffers", reason="the bytes of jax.export need it")
    out = export(runs["image"], tmp_path / "program", "stablehlo")
    images = digits.load("test")[0][:3]
    np.save(tmp_path / "x.npy", images)
    code = (
        "import sys, numpy as np; sys.path.insert(0, '.'); from load import features; "
        "np.save('z.npy', features(np.load('../x.npy'))); assert 'jssl' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=out, check=True)
    want = jssl.load(runs["image"]).embed(images)
    np.testing.assert_allclose(np.load(out / "z.npy"), want, atol=1e-4)
    assert (out / "encoder.stablehlo").stat().st_size > 1000


def test_the_program_of_text_has_its_features(runs, tmp_path):
    """Row 1 is row 0 with padding in the place of its last tokens."""
    pytest.importorskip("flatbuffers", reason="the bytes of jax.export need it")
    out = export(runs["text"], tmp_path / "program", "stablehlo")
    program = jax.export.deserialize((out / "encoder.jax").read_bytes())
    length = program.in_avals[0].shape[1]
    own = tokenizer.ByteTokenizer()
    text = "a few words of text "[: length - 2]
    ids = np.full((2, length), own.vocab["pad"], np.int32)
    ids[:, : len(text) + 2] = [own.vocab["start"], *own.encode(text), own.vocab["end"]]
    segments = (ids != own.vocab["pad"]).astype(np.int32)
    ids[1, len(text) + 2 :] = own.vocab["mask"]
    features = np.asarray(program.call(ids, segments))
    want = jssl.load(runs["text"]).embed([text])
    np.testing.assert_allclose(features, np.repeat(want, 2, 0), atol=1e-4)


def test_an_onnx_program_that_differs_is_not_written(runs, tmp_path, capfd, monkeypatch):
    def write(folder, *args):
        (folder / "encoder.onnx").write_bytes(b"")

    monkeypatch.setattr(to_onnx, "write", write)
    monkeypatch.setattr(verify, "check_possible", lambda kind: None)
    monkeypatch.setattr(verify_onnx, "compare", lambda *args: {"random": 2e-4})
    words = ["export", f"--workdir={runs['image']}", f"--out={tmp_path / 'x'}", "--format=onnx"]
    with pytest.raises(SystemExit, match="1"):
        cli.main([*words, "--verify"])
    assert "a difference is above 0.0001; nothing was written" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert cli.main(words) == 0
    card = (tmp_path / "x" / "README.md").read_text()
    assert 'session.run(["features"], {"pixels": images})[0]\n# uint8 [B, size, size, C]' in card


def test_an_error_of_pytorch_is_one_line(runs, tmp_path, capfd, monkeypatch):
    def load(kind, folder, weights):
        assert (folder / "model.safetensors").exists()
        raise RuntimeError("operator\n not supported")

    monkeypatch.setattr(torch_models, "missing", lambda packages: [])
    monkeypatch.setattr(torch_models, "load", load)
    words = [f"--workdir={runs['image']}", f"--out={tmp_path / 'x'}", "--format=onnx"]
    line = refused(capfd, "export", *words)
    assert "timm or PyTorch fails: operator not supported; use --format=stablehlo" in line
    assert list(tmp_path.iterdir()) == []


def test_verify_says_what_it_needs(runs, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(torch_models, "missing", list)
    words = [f"--workdir={runs['image']}", f"--out={tmp_path / 'x'}", "--format=onnx", "--verify"]
    assert "--verify needs onnxruntime here" in refused(capfd, "export", *words)


@pytest.mark.parametrize(
    ("run", "words", "message"),
    [
        ("image", ["--format=onxx"], "--format='onxx': not known"),
        ("image", ["--format=torchvision"], "only a ResNet has torchvision's names"),
        ("image", ["--format=timm", "--heads"], "--heads needs --format=hf"),
        ("image", ["--format=onnx", "--heads"], "--heads needs --format=hf"),
        ("image", ["--format=stablehlo", "--verify"], "--verify is for --format=timm, hf, torch"),
        ("text", ["--format=timm"], "timm has no text encoders; use --format=hf"),
        ("image", ["--format=hf", "--part=teacher"], "has no teacher"),
        ("image", [], "--format is missing"),
    ],
)
def test_what_cannot_be_exported_is_one_line(run, words, message, runs, tmp_path, capfd):
    out = tmp_path / "x"
    line = refused(capfd, "export", f"--workdir={runs[run]}", f"--out={out}", *words)
    assert message in line
    assert list(tmp_path.iterdir()) == [], "nothing half-written is left"


def test_a_folder_that_exists_is_not_overwritten(runs, tmp_path, capfd):
    (tmp_path / "mine").write_text("x")
    words = [f"--workdir={runs['image']}", "--format=timm", f"--out={tmp_path}"]
    assert "exists already" in refused(capfd, "export", *words)
    assert (tmp_path / "mine").read_text() == "x"


def test_a_full_disk_leaves_nothing(runs, tmp_path, capfd, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "save_file", full)
    words = [f"--workdir={runs['image']}", "--format=timm", f"--out={tmp_path / 'x'}"]
    assert "the disk is full" in refused(capfd, "export", *words)
    assert list(tmp_path.iterdir()) == []


def test_a_fine_tuned_classifier_is_written_with_its_classes(runs, tmp_path, capfd):
    out = tmp_path / "classifier"
    words = ["eval", f"--workdir={runs['image']}", "--protocol=finetune", "--format=timm"]
    few = ["--config.finetune.epochs=1", "--config.finetune.batch_size=64"]
    assert cli.main([*words, *few, f"--out={out}"]) == 0
    config = config_of(out)
    assert config["num_classes"] == 10 and config["global_pool"] == "avg"
    assert config["pretrained_cfg"]["label_names"] == [str(i) for i in range(10)]
    with safe_open(out / "model.safetensors", framework="np") as file:
        assert file.get_tensor("head.weight").shape == (10, 32)
        assert np.abs(file.get_tensor("head.weight")).max() > 1e-4, "it has been trained"
    capfd.readouterr()
    assert "exists already" in refused(capfd, *words, f"--out={out}")
    as_program = [*words[:3], "--format=onnx", f"--out={tmp_path / 'x'}"]
    assert "--format='onnx': has no classifiers" in refused(capfd, *as_program)
    knn = [*words[:2], "--protocol=knn", f"--out={tmp_path / 'x'}"]
    assert "is for --protocol=finetune" in refused(capfd, *knn)


@pytest.mark.parametrize(("name", "kind"), [("image", "timm"), ("text", "hf")])
def test_a_finished_run_holds_its_encoder_for_other_libraries(runs, tmp_path, name, kind):
    result = json.loads((runs[name] / "result.json").read_text())
    assert result["export"] == {"folder": "export", "format": kind}
    same = export(runs[name], tmp_path / "same", kind)
    made = runs[name] / "export"
    assert sorted(path.name for path in made.iterdir()) == sorted(
        path.name for path in same.iterdir()
    )
    for file in same.glob("*[!s]"):
        assert (made / file.name).read_bytes() == file.read_bytes(), file.name
    tensors, wanted = (load_file(folder / "model.safetensors") for folder in (made, same))
    chex.assert_trees_all_equal(tensors, wanted)


def test_a_longer_run_replaces_its_export_and_an_error_is_a_warning(tmp_path, monkeypatch, capfd):
    words = ["train", "--config=simclr_digits:tiny", f"--workdir={tmp_path}", *FEW]
    assert cli.main(words) == 0
    before = (tmp_path / "export" / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "write_own", full)
        assert cli.main([*words, "--extend", "--config.steps=3"]) == 0
    assert f"no {tmp_path}/export: " in (log := capfd.readouterr().err) and "disk is full" in log
    assert json.loads((tmp_path / "result.json").read_text())["export"] is None
    assert (tmp_path / "export" / "model.safetensors").read_bytes() == before
    assert cli.main([*words, "--extend", "--config.steps=4"]) == 0
    assert (tmp_path / "export" / "model.safetensors").read_bytes() != before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".export")]


def full(*args, **kw):
    raise OSError(28, "No space left on device")
