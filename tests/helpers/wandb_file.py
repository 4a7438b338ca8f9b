"""Reads what Weights & Biases writes in its offline mode: a log in the format of LevelDB."""

import json
import pathlib

BLOCK = 32768  # bytes; no chunk crosses the end of a block
HEADER = 7  # bytes: of the file, and of each chunk (CRC, 2 bytes of length, kind)


def records(path):
    """The serialized records of a .wandb file."""
    data = pathlib.Path(path).read_bytes()
    assert data.startswith(b":W&B")
    found, at = [], HEADER
    while at < len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        chunk = data[at + HEADER : at + HEADER + length]
        if kind in (1, 2):  # a whole record, or its first part
            found.append(b"")
        found[-1] += chunk
        at += HEADER + length
    return found


def read_run(path):
    """{"id", "config", "history": [(step, {key: value})], "exit": exit code or None} of a file."""
    from wandb.proto.wandb_internal_pb2 import Record

    run = {"id": "", "config": {}, "history": [], "exit": None}
    for data in records(path):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run["id"] = record.run.run_id
            run["config"] |= {x.key: json.loads(x.value_json) for x in record.run.config.update}
        elif kind == "history":
            values = {
                x.key or "/".join(x.nested_key): json.loads(x.value_json)
                for x in record.history.item
            }
            run["history"].append((int(values.get("_step", record.history.step.num)), values))
        elif kind == "exit":
            run["exit"] = record.exit.exit_code
    return run
