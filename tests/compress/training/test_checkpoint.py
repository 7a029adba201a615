from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from accel.compress.training.checkpoint import Checkpoint, clean, path_in, read, write
from accel.errors import StorageFault

TRAINING = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    import numpy as np, torch
    from torch import nn
    from accel.compress.train import fit_
    from accel.compress.train_settings import Augmentation, Train
    from accel.compress.training.task_loss import CrossEntropy
    from accel.contracts import Batch, Job, Score
    from accel.model import Signature, TensorSpec, TorchModel
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    pause = float(sys.argv[3])

    class Task:
        def has(self, split): return split in ("training", "selection")
        def digest(self, split): return split
        def training(self):
            generator = np.random.default_rng(0)
            for _ in range(8):
                labels = generator.integers(0, 4, 16)
                yield Batch({"image": generator.standard_normal((16, 1, 8, 8)).astype(np.float32)}, labels)
        selection = training
        def score(self, predict, split):
            answers = np.concatenate([predict(batch.inputs)[0].argmax(1) == batch.labels for batch in self.training()])
            return {"top1": Score(float(answers.mean()))}

    class Slow(CrossEntropy):
        def __call__(self, inputs, outputs, labels):
            time.sleep(pause)
            return super().__call__(inputs, outputs, labels)

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(216, 4))
    spec = TensorSpec("image", ("batch", 1, 8, 8), "float32"), TensorSpec("logits", ("batch", 4), "float32")
    model = TorchModel(module=net.eval(), signature=Signature(spec[:1], spec[1:]))
    def say(done, total, what):
        print(done, what, flush=True)
    job = Job.local(Path(sys.argv[1]), Task(), progress=say)
    augmentation = Augmentation(flip=True, crop_padding=1, mixup=0.3)
    settings = Train(epochs=5, ema=0.95, keep="best", augmentation=augmentation, checkpoint_every_s=0.1, batch_size=12)
    notes = fit_(model, job, settings, Slow(), name="finetune")
    save_file(net.state_dict(), sys.argv[2])
    print(notes)
    """
)


def start(folder: Path, result: Path, pause: float) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    script = folder / "train.py"
    script.write_text(TRAINING)
    command = [sys.executable, str(script), str(folder), str(result), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    try:
        out, error = process.communicate(timeout=200)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, error
    return out


def test_kill_9_and_the_weights_are_the_same(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    finished(start(tmp_path / "whole", whole, 0.0))
    folder, result = tmp_path / "killed", tmp_path / "killed.safetensors"
    process = start(folder, result, 0.05)
    deadline = time.monotonic() + 100
    try:
        while step_of(folder) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    step = step_of(folder)
    assert 0 < step < 50
    out = finished(start(folder, result, 0.0))
    assert f"{step} goes on after step {step}" in out
    assert "reading the training data" not in out  # the files of the first attempt
    wanted, found = load_file(whole), load_file(result)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())
    assert not list(folder.rglob("*.partial"))


def step_of(folder: Path) -> int:
    """The step of the checkpoint below ``folder``; 0 where there is none.

    It is replaced in one step, so a copy is always whole; safetensors opens a file twice, and would mix an old with a new one.
    """
    for checkpoint in folder.glob("scratch/training_finetune_*"):
        copy = folder / "looked_at"
        copy.mkdir(exist_ok=True)
        if path_in(checkpoint).is_file():
            shutil.copyfile(path_in(checkpoint), path_in(copy))
        found = read(copy)
        if found is not None:
            return int(found.record["step"])
    return 0


def state() -> dict[str, dict[str, Tensor]]:
    image = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    shared = torch.arange(6.0)
    return {
        "module": {"conv.weight": image, "a": shared[:3], "b": shared[3:], "flag": torch.tensor(True), "empty": torch.empty(0)},
        "optimizer": {"module.conv.weight/momentum_buffer": image * 2, "x/step": torch.tensor(3.0)},
    }


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    given = Checkpoint({"step": 3, "loss": 0.1 + 0.2, "losses": [1.5]}, state())
    write(tmp_path / "new", given)
    found = read(tmp_path / "new")
    assert found is not None
    assert found.record == given.record
    assert found.tensors.keys() == given.tensors.keys()
    for group, tensors in given.tensors.items():
        assert tensors.keys() == found.tensors[group].keys()
        for name, value in tensors.items():
            assert torch.equal(found.tensors[group][name], value)
            assert found.tensors[group][name].dtype == value.dtype


def test_nothing_there_is_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) is None


def damage_end(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def damage_record(content: bytes) -> bytes:
    return content.replace(b'step\\": 3', b'step\\": 4')


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit of a tensor": damage_end,
    "a number": damage_record,
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "something else": lambda content: b"PK\x03\x04 not ours at all",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_seen(tmp_path: Path, kind: str) -> None:
    write(tmp_path, Checkpoint({"step": 3}, state()))
    before = path_in(tmp_path).read_bytes()
    after = DAMAGES[kind](before)
    assert after != before
    path_in(tmp_path).write_bytes(after)
    with pytest.raises(ValueError, match=r"checkpoint.safetensors (cannot be read|is damaged)"):
        read(tmp_path)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, Checkpoint({"step": 3}, state()))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFault, match="the disk is full"):
            write(tmp_path, Checkpoint({"step": 4}, state()))
    found = read(tmp_path)
    assert found is not None
    assert found.record["step"] == 3
    assert list(tmp_path.iterdir()) == [path_in(tmp_path)]


def test_half_written_files_are_cleaned_up(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint.safetensors.123.partial").write_bytes(b"half")
    (tmp_path / "other").write_text("stays")
    clean(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "other"]


def test_the_header_is_json_and_any_reader_of_safetensors_reads_it(tmp_path: Path) -> None:
    write(tmp_path, Checkpoint({"step": 3}, state()))
    content = path_in(tmp_path).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["record"]) == {"step": 3}
    assert torch.equal(load_file(path_in(tmp_path))["module:a"], torch.arange(3.0))
