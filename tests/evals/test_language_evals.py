"""Perplexity, fill-mask and generate, against plain loops over the same networks."""

from functools import cache

import jax
import numpy as np
import pytest
from conftest import make_mesh
from scipy.special import erf

from jssl.commands.evaluate import change_free_keys, evaluate
from jssl.config import Config, UserError, load
from jssl.evals import language
from jssl.log import log_progress
from jssl.nn import encoder
from jssl.nn.apply import apply
from jssl.training.loop import train
from jssl.training.setup import setup_run
from jssl.workdir import run_folder

BERT, GPT = "configs/bert_small_books.py:tiny", "configs/gpt_small_books.py:tiny"
STATES = {}  # of step 0, by recipe: settings of evaluation and data do not change it


def opened(recipe, **changes):
    """(run, state, a batch of four rows) of a tiny recipe."""
    run = setup_run(Config(load(recipe, {k.replace("__", "."): v for k, v in changes.items()})),
                  make_mesh(1))  # fmt: skip
    batch = run.data.source.read(np.array([0, 1, 2, len(run.data.source) - 1]))
    batch.pop("damaged")
    if recipe not in STATES:
        STATES[recipe] = run.init() if run.data_info.vocab else run.shapes  # images are refused
    return run, STATES[recipe], batch


@cache
def network(recipe):
    """f(encoder's parameters, tokens, segment) -> hidden states, compiled."""
    net = encoder(Config(load(recipe)).model, 260)

    def hidden(f, tokens, segment):
        return apply(net, f, {}, tokens, segment=segment, train=False)[0]

    return jax.jit(hidden)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return (
        x
        - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - x.max(-1, keepdims=True)
    )


def gpt_logits(state, tokens, segment):
    f = state.params["encoder"]
    hidden = network(GPT)(f, tokens, segment)
    return np.asarray(hidden, np.float64) @ np.asarray(f["tokens"]["embedding"], np.float64).T


def test_gpts_score_is_the_log_likelihood_of_its_rows():
    run, state, batch = opened(GPT)
    tokens, segment = batch["tokens"], batch["segment"]
    log_p = log_softmax(gpt_logits(state, tokens, segment))
    wanted = np.full(tokens.shape, -1.0)
    for b in range(4):
        for i in range(1, tokens.shape[1]):
            if segment[b, i] and segment[b, i] == segment[b, i - 1]:
                wanted[b, i] = -log_p[b, i - 1, tokens[b, i]]
    count = (wanted >= 0).sum(1)
    assert 0 < count[-1] < count[0], "the last row is padded"
    np.testing.assert_allclose(jax.jit(run.method.token_nll)(state, batch), wanted, rtol=1e-5)


def test_berts_score_masks_one_token_at_a_time():
    """Equation 1 of Salazar et al. 2020; special tokens and padding do not count."""
    run, state, batch = opened(BERT, data__pack_documents="False")
    tokens, segment, vocab = batch["tokens"], batch["segment"], run.data_info.vocab
    f, head = state.params["encoder"], jax.tree.map(np.asarray, state.params["head"])
    wanted = np.full(tokens.shape, -1.0)
    for i in range(tokens.shape[1]):
        seen = tokens.copy()
        seen[:, i] = vocab.mask
        hidden = np.asarray(network(BERT)(f, seen, segment), np.float64)
        x = hidden[:, i] @ head["kernel"] + head["bias"]
        x = x * (1 + erf(x / 2**0.5)) / 2  # GELU
        x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
        log_p = log_softmax(x @ np.asarray(f["tokens"]["embedding"]).T)
        for b in range(4):
            if segment[b, i] and tokens[b, i] not in (vocab.start, vocab.end):
                wanted[b, i] = -log_p[b, tokens[b, i]]
    found = jax.jit(run.method.token_nll)(state, batch)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_perplexity_of_a_model_that_knows_nothing(tmp_path):
    """Zero embeddings make all tokens equally likely: the size of the vocabulary, and, as a byte is
    a token, log2 of it bits a byte; ends of documents cost as much and have no bytes, what begins
    one is not predicted and does not count."""
    run, state, _ = opened(GPT, eval__max_rows="7")
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state.params)
    found = language.evaluate(
        run, state.replace(params=params), run.data.source, "perplexity", log_progress
    )
    size = run.data_info.vocab.size
    assert found["rows"] == 7 and found["tokens"] <= 7 * 31
    np.testing.assert_allclose(found["perplexity"], size, rtol=1e-4)
    ends = 0
    for row in language.Subset(run.data.source, 7).rows:
        batch = run.data.source.read(np.array([row]))
        tokens, segment = batch["tokens"][0], batch["segment"][0]
        same = (segment[1:] == segment[:-1]) & (segment[1:] > 0)
        ends += (tokens[1:][same] == run.data_info.vocab.end).sum()
    assert ends > 0, "or the case is not tested"
    bits = np.log2(size) * found["tokens"] / (found["tokens"] - ends)
    np.testing.assert_allclose(found["bits_per_byte"], bits, rtol=1e-4)


def test_generate_goes_on_from_the_prompt_by_its_own_likeliest_tokens():
    run, state, _ = opened(GPT, eval__temperature="0", eval__prompt="self", eval__new_tokens="6")
    some = language.prompt(run.data.source, "self", run.config.eval.samples)
    made = np.asarray(jax.jit(run.method.render)(state, some, jax.random.key(0))["generated"])
    assert (made[0] == made[1]).all() and (made[:, 10:] == run.data_info.vocab.pad).all()
    assert made[0, :4].tolist() == run.data.source.tokenizer.encode("self")
    logits = gpt_logits(state, made[:1], None)  # a token does not see those after it
    assert made[0, 4:10].tolist() == logits[0, 3:9].argmax(-1).tolist()
    found = language.evaluate(run, state, run.data.source, "generate", log_progress)
    assert all(words.startswith("self") for words in found["generated"])


def test_generate_keeps_all_of_a_prompt_and_says_what_does_not_fit(caplog):
    words = "zq zw ze zr zt zy zu zi zo zp"  # 29 of the 32 tokens of a row
    run, state, _ = opened(GPT, eval__prompt=words, eval__new_tokens="6")
    with caplog.at_level("WARNING", "jssl"):
        found = language.evaluate(run, state, run.data.source, "generate", log_progress)
    assert all(words in made for made in found["generated"])
    assert "config.eval.new_tokens=6: 3 fit behind 29" in caplog.text


def test_generate_goes_on_from_half_of_a_held_out_row():
    run, state, _ = opened(GPT, eval__samples="1", eval__new_tokens="4", eval__temperature="0")
    source = run.data.source
    made = language.evaluate(run, state, source, "generate", log_progress)["generated"][0]
    row = source.read(np.array([0]))["tokens"][0]
    assert made.startswith(source.tokenizer.decode(row[:16]))
    assert len(source.tokenizer.encode(made)) <= 20


def test_generate_samples_among_the_likeliest_and_stops_at_the_end():
    run, state, batch = opened(GPT, eval__top_k="3", eval__new_tokens="8", eval__temperature="9")
    batch["segment"][:, 16:] = 0
    render = jax.jit(run.method.render)
    first, second = (
        np.asarray(render(state, batch, jax.random.key(i))["generated"]) for i in (0, 1)
    )
    assert (first != second).any()
    assert (first[0, :16] == batch["tokens"][0, :16]).all()
    logits = gpt_logits(state, first[:1], None)
    for i in range(16, 24):
        assert first[0, i] in np.argsort(logits[0, i - 1])[-3:]
    # A model that says the end whatever it sees: one end, and nothing behind it.
    vocab, f = run.data_info.vocab, state.params["encoder"]
    table = np.zeros_like(f["tokens"]["embedding"])
    table[vocab.end] = 1.0
    width = table.shape[1]
    f = f | {
        "tokens": {"embedding": table},
        "norm": {"scale": np.zeros(width, np.float32), "bias": np.full(width, 9.0, np.float32)},
    }
    f = jax.tree.map(lambda x, old: jax.device_put(x, old.sharding), f, state.params["encoder"])
    mute = render(state.replace(params={"encoder": f}), batch, jax.random.key(0))["generated"]
    mute = np.asarray(mute)
    assert mute[0, 16] == vocab.end and (mute[0, 17:] == vocab.pad).all()


def test_fill_mask_changes_masks_alone():
    run, state, batch = opened(BERT)
    made = jax.jit(run.method.render)(state, batch, jax.random.key(0))
    masked, filled = np.asarray(made["masked"]), np.asarray(made["filled"])
    hidden = masked == run.data_info.vocab.mask
    counts = np.maximum(np.round(0.15 * (batch["segment"] > 0).sum(1)), 1)
    assert (hidden.sum(1) <= counts).all() and hidden.sum() > 0
    assert (masked[~hidden] == batch["tokens"][~hidden]).all()
    assert (filled[~hidden] == masked[~hidden]).all()
    some = batch | language.prompt(run.data.source, "a<mask>c", 4)
    made = jax.jit(run.method.render)(state, some, jax.random.key(0))
    assert made["masked"].tolist() == some["tokens"].tolist(), "given masks are the only ones"
    found = language.evaluate(run, state, run.data.source, "fill-mask", log_progress)
    assert len(found["masked"]) == 4 and "<mask>" in "".join(found["masked"])


@pytest.mark.parametrize(
    ("recipe", "protocol", "changes", "said"),
    [
        (BERT, "generate", {}, "config.method='bert' cannot do it; known: fill-mask"),
        (GPT, "fill-mask", {}, "config.method='gpt' cannot do it; known: generate"),
        (GPT, "generate", {"eval__prompt": "a" * 40}, "has 40 tokens; use 1 to 30"),
        (GPT, "generate", {"eval__top_k": "-3"}, "config.eval.top_k=-3: must be at least 0"),
        (GPT, "generate", {"eval__temperature": "-1"}, "eval.temperature=-1.0: must be at least 0"),
        (GPT, "generate", {"eval__new_tokens": "0"}, "eval.new_tokens=0: must be at least 1"),
        (
            GPT,
            "perplexity",
            {"eval__max_rows": "-1"},
            "config.eval.max_rows=-1: must be at least 0",
        ),
        ("configs/simclr_digits.py:tiny", "perplexity", {}, "holds images"),
    ],
)
def test_wrong_input_is_one_line(recipe, protocol, changes, said):
    with pytest.raises(UserError, match=said):
        run, state, _ = opened(recipe, **changes)
        language.evaluate(run, state, run.data.source, protocol, log_progress)


def test_what_a_run_is_asked_afterwards(tmp_path, monkeypatch):
    """Held-out text is only needed without a prompt. Another tokenizer is refused, by eval and
    resume: the one of the run is remembered by what it does, not by its name."""
    first = jax.devices()[:1]  # a checkpoint of copies on eight costs a program for each slice
    monkeypatch.setattr(jax, "devices", lambda: first)
    tree = load(GPT, {"steps": "2", "eval.max_rows": "3"})
    train(tree, tmp_path)
    stored = run_folder.RunFolder(tmp_path).config
    vocab = run_folder.RunFolder(tmp_path).data_info.vocab
    assert vocab.fingerprint and vocab.size == 260
    assert evaluate(stored, run_folder.RunFolder(tmp_path), "perplexity")["step"] == 2
    none = stored.copy_and_resolve_references()
    change_free_keys(none, {"eval.split": "dev[", "eval.prompt": "a"})
    assert (
        len(evaluate(none, run_folder.RunFolder(tmp_path), "generate")["generated"])
        == none.eval.samples
    )
    with pytest.raises(UserError, match=r"config.eval.split='dev\['"):
        evaluate(none, run_folder.RunFolder(tmp_path), "perplexity")
    from jssl.data.text import tokenizer

    class Other(tokenizer.ByteTokenizer):
        def __init__(self):
            super().__init__()
            self.fingerprint = "another"

    monkeypatch.setattr(tokenizer, "ByteTokenizer", Other)
    (tmp_path / "result.json").unlink()
    for again in (
        lambda: evaluate(stored, run_folder.RunFolder(tmp_path), "perplexity"),
        lambda: train(tree, tmp_path),
    ):
        with pytest.raises(UserError, match="config.data.tokenizer='bytes': not the one"):
            again()


def test_a_mask_stands_for_a_word_with_its_space(tmp_path):
    """Byte-level BPE spells a word with the space before it: a prompt's space before <mask> is part
    of what is masked. A byte is a byte."""
    import types

    from jssl.data.text import packing, tokenizer
    from jssl.data.text.corpora import open_corpus

    corpus = open_corpus(source="pydoc", name="", path="", dir="", split="train")
    packing.train(corpus, 400, str(tmp_path / "bpe.json"))
    for tokens, spaces in (
        (tokenizer.load(str(tmp_path / "bpe.json")), 1),
        (tokenizer.ByteTokenizer(), 2),
    ):
        source = types.SimpleNamespace(vocab=tokens.vocab, length=64, tokenizer=tokens, pack=True)
        made = language.prompt(source, "is the <mask> of a <mask>", 1)
        ids = made["tokens"][0][made["segment"][0] > 0]
        assert (ids == tokens.vocab["mask"]).sum() == 2
        parts = np.split(ids, np.flatnonzero(ids == tokens.vocab["mask"]))
        shown = [tokens.decode(part) for part in parts]
        assert shown == (["is the", " of a", ""] if spaces == 1 else ["is the ", " of a ", ""])
