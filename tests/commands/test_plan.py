"""`jssl plan`: collectives from HLO text, the roofline, a real compilation for local devices."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_mesh

from jssl import cli
from jssl.commands import plan
from jssl.config import Config, UserError, load
from jssl.parallel import mesh
from jssl.perf import accelerators, datasheet, hlo, roofline, sharding_report
from jssl.training.setup import setup_run

HLO = """
HloModule jit_step, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], bf16[4,128])) -> (s32[], bf16[4,128]) {
  %gathered = bf16[16,128]{1,0} all-gather(%x), replica_groups=[2,4]<=[8]
  ROOT %out = (s32[], bf16[4,128]) tuple(%i, %y)
}

%cond (p: (s32[], bf16[4,128])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%all-reduce-scatter.3 (input: f32[512]) -> f32[64] {
  %input = f32[512]{0} parameter(0)
  %sum = f32[512]{0} all-reduce(%input), replica_groups={}, to_apply=%add
  ROOT %mine = f32[64]{0} dynamic-slice(%sum, %i), dynamic_slice_sizes={64}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %q = f32[64]{0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.3
  %n = f32[512]{0} all-gather(%h), replica_groups={}, x={async_collective_name="s"}
  %w = (s32[], bf16[4,8]) while(%t), condition=%cond, body=%body, x={"known_trip_count":{"n":"24"}}
  %r = f32[1024]{0} all-reduce(%g), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %s = (f32[256]{0}, f32[2048]{0}) all-gather-start(%h), replica_groups={}
  %d = f32[2048]{0} all-gather-done(%s)
  %many = (f32[1000]{0:T(8)S(1)}, bf16[7,7,3]{2,1,0}) all-reduce(%a, %b), replica_groups=[4,2]<=[8]
  %part = (f32[100]{0}) reduce-scatter(%a), replica_groups={}
  ROOT %p = f32[8]{0} collective-permute(%r), source_target_pairs={{0,1},{1,0}}
}
"""


def test_collectives_count_loops_groups_and_starts():
    assert {tuple(one) for one in hlo.Program(HLO).collectives(8)} == {
        ("all-gather", 16 * 128 * 2, 4, 24, False),
        ("all-reduce", 4096, 8, 1, False),
        ("all-gather", 8192, 8, 1, True),
        ("all-gather", 2048, 8, 1, True),
        ("all-reduce", 4000 + 294, 2, 1, False),
        ("reduce-scatter", 3200, 8, 1, False),
        ("reduce-scatter", 2048, 8, 1, False),
        ("collective-permute", 32, 2, 1, False),
    }


@pytest.mark.parametrize(
    ("kind", "start", "made", "wanted"),
    [
        ("all-reduce", True, "(f32[3], f32[5]{0})", 32),  # its start repeats nothing
        ("all-gather", False, "f32[40]{0}", 160),
        ("all-gather", True, "((f32[2], f32[3]), (f32[8], f32[12]))", 80),
        ("reduce-scatter", True, "((f32[8], f32[12]), (f32[2], f32[3]))", 80),
        ("all-to-all", False, "(f32[2], f32[2], f32[2], f32[2])", 32),
        ("collective-permute", True, "(bf16[32,2]{1,0}, bf16[32,2]{1,0})", 128),
    ],
)
def test_bytes_of_joined_and_asynchronous_collectives(kind, start, made, wanted):
    assert hlo.exchanged(kind, start, made, 4) == wanted


@pytest.mark.parametrize(
    ("kind", "dims", "wanted"), [("f32", "2,3", 24), ("bf16", "", 2), ("pred", "5", 5),
                                 ("f8e4m3fn", "4", 4), ("s4", "3", 2), ("u8", "7", 7)],
)  # fmt: skip
def test_sizes(kind, dims, wanted):
    assert hlo.size(kind, dims) == wanted


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("replica_groups={}", 8),
        ("replica_groups={{0,2},{4,6},{1,3},{5,7}}", 2),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=[4,2]<=[2,2,2]T(2,1,0)", 2),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", 4),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}", 8),
        ("replica_groups=mesh['axis_0'=8] {'axis_0':(2)4}", 4),
        ("replica_groups=mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'b'}", 4),
        ("source_target_pairs={{0,1},{1,0}}", 2),
    ],
)
def test_groups(said, wanted):
    assert (
        hlo.group(f"%r = f32[2] all-reduce(%g), channel_id=2, {said}, to_apply=%add", 8) == wanted
    )


def test_groups_that_are_not_known_are_not_guessed():
    with pytest.raises(ValueError, match="groups"):
        hlo.group("%r = f32[2] all-reduce(%g), replica_groups=new(8)", 8)


LOOP = """
%body (p: (s32[], f32[24,8,4])) -> (s32[], f32[24,8,4]) {
  %p = (s32[], f32[24,8,4]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %w = f32[24,8,4]{2,1,0} get-tuple-element(%p), index=1
  %one = f32[8,4]{1,0:T(8,128)S(1)} fusion(%w, %i), kind=kLoop, calls=%slice
  %new = f32[24,8,4]{2,1,0} fusion(%w, %one, %i), kind=kLoop, calls=%update
  ROOT %out = (s32[], f32[24,8,4]{2,1,0}) tuple(%i, %new)
}

%slice (a: f32[24,8,4], b: s32[]) -> f32[8,4] {
  %a = f32[24,8,4]{2,1,0} parameter(0)
  %b = s32[] parameter(1)
  %part = f32[1,8,4]{2,1,0} dynamic-slice(%a, %b, %z, %z), dynamic_slice_sizes={1,8,4}
  ROOT %cut = f32[8,4]{1,0} bitcast(%part)
}

%update (c: f32[24,8,4], d: f32[8,4], e: s32[]) -> f32[24,8,4] {
  %d = f32[8,4]{1,0} parameter(1)
  %c = f32[24,8,4]{2,1,0} parameter(0)
  %e = s32[] parameter(2)
  %row = f32[1,8,4]{2,1,0} bitcast(%d)
  ROOT %put = f32[24,8,4]{2,1,0} dynamic-update-slice(%c, %row, %e, %z, %z)
}

%cond (q: (s32[], f32[24,8,4])) -> pred[] {
  %q = (s32[], f32[24,8,4]{2,1,0}) parameter(0)
  %n = s32[]{:T(128)} constant(24)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %lt = pred[]{:T(512)} compare(%j, %n), direction=LT
}

ENTRY %main (x: (s32[], f32[24,8,4])) -> (s32[], f32[24,8,4]) {
  %x = (s32[], f32[24,8,4]{2,1,0}) parameter(0)
  ROOT %w = (s32[], f32[24,8,4]{2,1,0}) while(%x), condition=%cond, body=%body
}
"""


def test_traffic_of_a_loop_by_hand():
    """24 times: a slice of 128 bytes is read into on-chip memory, and written back in its place;
    each fusion and the condition read the counter, and the condition makes a byte."""
    program = hlo.Program(LOOP)
    assert program.times["body"] == program.times["cond"] == 24
    assert program.traffic() == 24 * ((128 + 4) + (128 + 4) + (4 + 4 + 1))


def test_traffic_is_what_xla_counts_and_loops_count_as_often_as_they_run():
    def scanned(weights, x):
        return jnp.sum(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w) + x, None), x, weights)[0] ** 2)

    def unrolled(weights, x):
        for w in weights:
            x = jnp.tanh(x @ w) + x
        return jnp.sum(x**2)

    found = {}
    for loss, give in ((scanned, jnp.asarray), (unrolled, list)):
        weights = give(np.ones((8, 128, 128), np.float32))
        compiled = jax.jit(jax.value_and_grad(loss)).lower(weights, jnp.ones((64, 128))).compile()
        found[loss] = hlo.Program(compiled.as_text()).traffic()
    assert found[unrolled] == pytest.approx(compiled.cost_analysis()["bytes accessed"], rel=1e-3)
    assert 1 <= found[scanned] / found[unrolled] < 4  # the loop copies what it hands on


def test_an_uninitialized_buffer_moves_nothing():
    program = hlo.Program(
        "ENTRY %main (x: f32[8]) -> f32[8] {\n"
        '  %new = f32[8]{0} custom-call(), custom_call_target="AllocateBuffer"\n'
        '  ROOT %two = f32[8]{0} add(%new, %new), metadata={op_name="jit(step)/jvp(ViT)/a/3/add"}\n'
        "}\n"
    )
    moved = [(one.op.name, one.bytes) for one in program.moved()]
    assert moved == [("new", 0), ("two", 96)]
    found = roofline.traffic_of(program)
    assert found["parts"] == {"networks, the rest": 96}
    row = {"source": "forward: ViT/a/*/add", "kind": "add", "times": 1, "bytes": 96}
    assert found["largest"] == [row | {"array": "f32[8]"}]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('fusion(%a), metadata={op_name="jit(step)/jvp(augment)/jit(_where)/select_n"}', "views"),
        ('fusion(%a), metadata={op_name="jit(step)/jvp(V)/0/attn/sub"}', "attention weights"),
        ('fusion(%a), metadata={op_name="jit(step)/jvp(V)/0/attn/qkv/dot_general"}', "products"),
        (
            'fusion(%a), metadata={op_name="jit(step)/jvp(R)/c/conv_general_dilated"}',
            "convolutions",
        ),
        ('fusion(%a), metadata={op_name="jit(step)/jvp(V)/0/norm1/mul"}', "norms and sums"),
        ('fusion(%a), metadata={op_name="jit(step)/jit(_where)/select_n"}', "update"),
        ('fusion(%a), calls=%all-reduce-scatter.3, metadata={op_name="x/jvp(V)"}', "collectives"),
        ("all-gather-start(%a), replica_groups={}", "collectives"),
    ],
)
def test_parts_of_a_step(line, wanted):
    op = hlo.Op("a", "f32[8]", *line.split("(", 1), root=False)
    assert roofline.part_of(op) == wanted


def test_roofline_by_hand():
    chip = accelerators.Chip(flops=100.0, memory=1e9, bandwidth=10.0, link=2.0)
    summed = {"kind": "all-reduce", "times": 1, "bytes": 8, "group": 8, "overlaps": False}
    found = {"flops_per_device": 300, "traffic": 20.0, "collectives": [summed]}
    out = roofline.roofline(found, chip, 8)
    links = 2 * 7 / 8 * 8 / 2.0
    assert out["seconds"] == {
        "compute": 3.0, "memory": 2.0, "interconnect": links, "exposed": links,
    }  # fmt: skip
    assert out["step_seconds"] == 3.0 + 7.0
    assert out["efficiency"]["8"] == 0.3
    assert out["efficiency"]["256"] == pytest.approx(3 / (3 + 2 * 255 / 256 * 8 / 2))
    meanwhile = {"kind": "reduce-scatter", "times": 1, "bytes": 8, "group": 8, "overlaps": True}
    out = roofline.roofline(found | {"collectives": [summed, meanwhile]}, chip, 8)
    assert out["seconds"]["interconnect"] == links + 3.5 and out["seconds"]["exposed"] == links
    assert out["step_seconds"] == 3.5 + links


def test_a_group_within_a_torus_sends_along_one_of_its_axes():
    chip = accelerators.Chip(flops=1.0, memory=1e9, bandwidth=1.0, link=2.0)
    some = {"kind": "reduce-scatter", "times": 1, "bytes": 8, "group": 4, "overlaps": False}
    found = {"flops_per_device": 1, "traffic": 1.0, "collectives": [some]}
    assert roofline.roofline(found, chip, 16, 2)["seconds"]["exposed"] == 2 * 8 * 3 / 4 / 2.0
    every = found | {"collectives": [some | {"group": 16}]}
    assert roofline.roofline(every, chip, 16, 2)["seconds"]["exposed"] == 8 * 15 / 16 / 2.0


@pytest.mark.parametrize(
    ("topology", "wanted"), [("v5e:16x16", 2), ("v5p:4x8x8", 3), ("v6e:1x8", 1), ("", 1)]
)
def test_axes_of_a_torus(topology, wanted):
    assert roofline.rings(topology) == wanted


def test_what_is_gathered_from_all_grows_with_their_number():
    one = {"kind": "all-gather", "times": 1, "bytes": 80, "group": 8}
    assert roofline.bytes_sent(one, 16, 8) == 160 * 15 / 16
    inner = one | {"group": 4}  # of one axis of the mesh: stays as it is
    assert roofline.bytes_sent(inner, 16, 8) == 80 * 3 / 4


def test_gpus_from_the_data_sheet(capfd):
    """No compiler: model FLOPs, the state on one GPU, the sum of gradients by the slowest link."""
    words = ["plan", "--config=configs/mae_imagenette.py:tiny", "--config.batch_size=64"]
    assert cli.main([*words, "--topology=h100:16", "--config.mesh.fsdp=8"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out.splitlines()[-1])
    assert found["mesh"] == {"data": 2, "fsdp": 8, "tensor": 1} and found["devices"] == 16
    gradients = 4 * found["parameters"] * 2 * 15 / 16
    assert found["seconds"] == pytest.approx(
        {
            "compute": found["flops_per_step"] / 16 / 989e12,
            "memory": 2 * found["bytes_per_device"] / 3350e9,
            "interconnect": gradients / 50e9,
        },
        rel=1e-3,
    )
    assert found["step_seconds"] == max(found["seconds"].values()) and found["fits"] is None
    assert found["chip_hours"] == pytest.approx(16 * found["steps"] * found["step_seconds"] / 3600)
    assert "data sheet" in err and "chip-hours" in err
    assert sum(row["bytes_per_device"] for row in found["placement"]) == found["bytes_per_device"]


def test_a_state_that_is_larger_than_a_gpu(monkeypatch, capfd):
    tiny = accelerators.Chip(1e12, 1000.0, 1e12, 1e11)
    monkeypatch.setitem(accelerators.CHIPS, "NVIDIA L4", tiny)
    assert cli.main(["plan", "--config=configs/mae_imagenette.py:tiny", "--topology=l4:1"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out.splitlines()[-1])["fits"] is False and ": does not fit" in err


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("h100:9", "h100 takes 1 to 8, or a multiple of 8; try h100:8"),
        ("l4:16", "l4 takes 1 to 8; try l4:8"),
        ("a100:0", "a100 takes"),
    ],
)
def test_numbers_of_gpus_that_no_hosts_make(topology, message):
    with pytest.raises(UserError, match=message):
        datasheet.parse(topology)


def test_other_names_are_left_to_the_compiler():
    assert datasheet.parse("v5e:16x16") is None and datasheet.parse("") is None
    assert datasheet.parse("h200:8") == (datasheet.HOSTS["h200"], 8)
    assert {host.kind for host in datasheet.HOSTS.values()} <= set(accelerators.CHIPS)


def test_the_largest_batch_by_hand():
    config = Config(load("configs/simclr_digits.py:tiny", {"batch_size": "16"}))
    run = setup_run(config, make_mesh(4))
    chip = accelerators.Chip(flops=1.0, memory=1000.0, bandwidth=1.0, link=1.0)
    assert plan.largest(run, chip, 100, 100 + 16 * 10) == 88  # 90, in parts of 4 devices


def test_the_step_of_eight_local_devices(capfd):
    words = ["plan", "--config=configs/mae_imagenette.py:tiny", "--devices=8"]
    assert cli.main([*words, "--config.mesh.fsdp=4", "--config.mesh.tensor=2"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out.splitlines()[-1])
    assert found["devices"] == 8 and found["mesh"] == {"data": 1, "fsdp": 4, "tensor": 2}
    assert found["flops_per_step"] > 0 and found["parameters"] > 1000
    assert found["bytes_per_device"] > 0
    reduced = [one for one in found["collectives"] if one["kind"] == "all-reduce"]
    assert {one["group"] for one in reduced} <= {2, 4, 8} and all(one["times"] for one in reduced)
    assert len(reduced) == len({(one["group"], one["overlaps"]) for one in reduced}) > 0
    assert sum(found["moved"]["parts"].values()) == found["traffic"]
    assert "memory traffic" in err
    assert sum(row["bytes_per_device"] for row in found["placement"]) < found["bytes_per_device"]
    assert "params: small ones" in err and "mesh               data 1, fsdp 4, tensor 2" in err


def test_placement_says_where_arrays_lie():
    here = make_mesh(2, 2, 2)
    shapes = {
        "params": {
            f"block{i}": {"qkv": {"kernel": jax.ShapeDtypeStruct((128, 1024), jnp.float32)}}
            for i in range(3)
        },
        "buffers": {"queue": jax.ShapeDtypeStruct((64, 8), jnp.float32)},
    }
    shapes = jax.tree.map(
        lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to),
        shapes, mesh.shardings(shapes, here),
    )  # fmt: skip
    queue, kernels = sorted(sharding_report.rows(shapes), key=lambda row: row["count"])
    assert (queue["arrays"], queue["placed"]) == ("buffers/queue", "data+fsdp+tensor")
    assert queue["bytes_per_device"] == 64 * 8 * 4 // 8
    assert (kernels["arrays"], kernels["count"]) == ("params/block*/qkv/kernel", 3)
    assert kernels["placed"] == "fsdp, tensor" and kernels["largest"] == [128, 1024]
    assert kernels["bytes_per_device"] == 3 * 128 * 1024 * 4 // 4


@pytest.mark.parametrize(
    ("number", "base", "wanted"),
    [(0, 1000, "0"), (999, 1000, "999"), (12_345_678, 1000, "12.3 M"), (1536, 1024, "1.5 Ki")],
)
def test_numbers_for_people(number, base, wanted):
    assert sharding_report.format_si(number, base) == wanted


def test_a_bank_of_examples_has_room_for_imagenet():
    config = Config(load("configs/deepcluster_v2_imagenet.py:tiny"))
    run = plan.planned(config, make_mesh(1), plan.EXAMPLES, 0)
    assert run.data_info.num_examples == 1_281_167
    rows = sharding_report.rows(run.shapes)
    bank = next(row for row in rows if row["arrays"].startswith("buffers/bank"))
    assert bank["largest"][0] >= 1_281_167


def test_random_data_may_have_fewer_images_than_a_batch():
    """64 MB of them are made; the loss of SimCLR compares the examples of a batch."""
    wide = {"data.max_side": "1024", "batch_size": "32"}
    config = Config(load("configs/simclr_digits.py:tiny", wide))
    assert len(plan.planned(config, make_mesh(1), 10**6, 0).data.source) < 32


def test_wrong_input_is_one_line():
    tree = load("configs/mae_imagenette.py:tiny")
    with pytest.raises(UserError, match="--devices=9: only 8 are here"):
        plan.plan(tree, "", 9)


def test_without_libtpu_it_says_how_to_install_it(monkeypatch):
    from jax.experimental import topologies

    def missing(**given):
        raise RuntimeError("JAX TPU support not installed; cannot find libtpu")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    with pytest.raises(UserError, match=r"pip install .*\[plan\]"):
        plan.devices_for("v5e:16x16", 1)


def refuse_to_compile(monkeypatch, said):
    def refuse(self, **given):
        raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: Ran out of memory: {said}")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)


def test_what_the_compiler_refuses_does_not_fit(monkeypatch, capfd):
    """Even if it is less than the chip's memory, of which the system keeps some."""
    chip = accelerators.Chip(1e12, 16 * accelerators.GB, 1e12, 1e11)
    monkeypatch.setitem(accelerators.CHIPS, "cpu", chip)
    refuse_to_compile(monkeypatch, "Used 15.90G of 15.75G hbm")
    assert cli.main(["plan", "--config=configs/simclr_digits.py:tiny", "--devices=8"]) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert not found["fits"] and 15.9 * 2**30 <= found["bytes_per_device"] < found["memory"]


def test_the_other_words_of_the_compiler(monkeypatch):
    refuse_to_compile(monkeypatch, "HLO temporaries (15.90G) exceeds available HBM (15.75G)")
    run = setup_run(Config(load("configs/simclr_digits.py:tiny")), make_mesh(8))
    assert plan.compiled_for(run)["bytes_per_device"] >= 15.9 * 2**30
