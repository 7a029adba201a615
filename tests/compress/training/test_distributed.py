from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from accel.compress.training.distributed import World, average_, from_first, gathered, join, require_share, together, wrapped
from accel.errors import DataFault, UsageError

TRAINING = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    import numpy as np, torch
    import torch.distributed as dist
    from torch import nn
    from accel.compress.training.distributed import join
    from accel.compress.train import fit_
    from accel.compress.train_settings import Train
    from accel.compress.training.task_loss import CrossEntropy
    from accel.contracts import Batch, Job, Score
    from accel.errors import AccelError
    from accel.model import Signature, TensorSpec, TorchModel
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    told, reads, failing = [], [], []

    class Task:
        def has(self, split): return split in ("training", "selection")
        def digest(self, split): return split
        def batches(self, seed, count):
            patterns = np.random.default_rng(0).standard_normal((4, 1, 8, 8))
            generator = np.random.default_rng(seed)
            for _ in range(count):
                labels = generator.integers(0, 4, 16)
                images = patterns[labels] + 1.5 * generator.standard_normal((16, 1, 8, 8))
                yield Batch({"image": images.astype(np.float32)}, labels)
        def training(self):
            reads.append("training")
            return self.batches(1, 16)
        def selection(self): return self.batches(2, 16)
        def score(self, predict, split):
            reads.append(split)
            answers = np.concatenate([predict(batch.inputs)[0].argmax(1) == batch.labels for batch in self.selection()])
            return {"top1": Score(float(answers.mean()))}

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.dropout = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.1)
            self.head, self.auxiliary, self.unused = nn.Linear(512, 4), nn.Linear(512, 3), nn.Linear(2, 2)
            self.register_buffer("flag", torch.tensor(True))
        def forward(self, x):
            y = self.dropout(torch.relu(self.bn(self.conv(x)))).flatten(1)
            return self.head(y), self.auxiliary(y)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4) + 0.1 * (dist.get_rank() if dist.is_initialized() else 0))
        def forward(self, inputs, outputs, labels):
            if dist.is_initialized() and dist.get_rank() == 1 and failing:
                return outputs[0].sum() * float("nan")
            return CrossEntropy()(inputs, outputs[0] * self.scale, labels)

    join(use_cuda=False)
    torch.manual_seed(0)
    net, loss = Net().eval(), Loss()
    image = TensorSpec("image", ("batch", 1, 8, 8), "float32")
    outputs = TensorSpec("output_0", ("batch", 4), "float32"), TensorSpec("output_1", ("batch", 3), "float32")
    model = TorchModel(module=net, signature=Signature((image,), outputs))
    place = folder / f"rank{dist.get_node_local_rank(0)}"
    place.mkdir(parents=True, exist_ok=True)
    job = Job.local(place, Task(), progress=lambda *what: told.append(what))
    train = Train(epochs=5, batch_size=15, ema=0.9, keep="best", lr=0.02)
    notes = fit_(model, job, train, loss, name="finetune")
    rank = dist.get_rank() if dist.is_initialized() else 0
    save_file({**net.state_dict(), "loss.scale": loss.scale.detach()}, folder / f"{rank}.safetensors")
    top1 = Task().score(lambda inputs: [net(torch.from_numpy(inputs["image"]))[0].detach().numpy()], "selection")["top1"].value
    record = {"notes": notes, "told": len(told), "reads": reads[:-1], "top1": top1}
    record["files"] = sorted(path.name for path in place.rglob("*") if path.is_file())

    # A module to which it makes no difference who sees which sample: the gradients of all are those of one process.
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 4))
        def forward(self, x): return self.layers(x), x.mean((1, 2, 3))
    torch.manual_seed(0)
    plain, scaled = Pair().eval(), Loss()
    exact = TorchModel(module=plain, signature=Signature((image,), outputs[:1]))
    fit_(exact, job, Train(steps=12, batch_size=15, lr=0.2, clip_norm=0.5, amp="off"), scaled, name="exact")
    save_file({**plain.state_dict(), "loss.scale": scaled.scale.detach()}, folder / f"exact{rank}.safetensors")
    failing.append(True)
    try:
        fit_(model, job, train, loss, name="again")  # a second training in the same processes
    except AccelError as fault:
        record["error"] = f"{type(fault).__name__}: {fault}"
    (folder / f"{rank}.json").write_text(json.dumps(record))
    """
)


def run(folder: Path, processes: int) -> list[dict[str, Any]]:
    folder.mkdir()
    script = folder / "train.py"
    script.write_text(TRAINING)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, str(script), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


def test_two_processes_end_with_the_same_weights_and_the_metric_of_one_and_fail_together(tmp_path: Path) -> None:
    """15 samples a batch: 7 and 8. Only the first process of a machine reads, judges, tells and writes."""
    (alone,) = run(tmp_path / "alone", 1)
    first, second = run(tmp_path / "two", 2)
    weights = [load_file(tmp_path / "two" / f"{rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    untouched = torch.ones(4)
    assert not torch.equal(weights[0]["loss.scale"], untouched)
    assert alone["top1"] > 0.8
    assert abs(first["top1"] - alone["top1"]) <= 0.05
    assert first["top1"] == second["top1"]
    assert first["notes"] == second["notes"]
    assert "85 steps of 15 samples (5 epochs)" in first["notes"][0]
    assert first["reads"] == ["training", *["selection"] * 5]
    assert (second["reads"], second["told"], second["files"]) == ([], 0, [])
    assert "checkpoint.safetensors" in first["files"]
    wanted = load_file(tmp_path / "alone" / "exact0.safetensors")
    for rank in (0, 1):
        found = load_file(tmp_path / "two" / f"exact{rank}.safetensors")
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
    for record in (first, second):  # though only one of them failed
        assert record["error"].startswith("PassFault: again: step 1 of 85 (epoch 1): the loss is nan")


def test_alone_there_is_nobody_to_ask() -> None:
    world = join(use_cuda=False)
    assert world == World(0, 1, 0)
    assert world.first
    assert from_first(world, 3) == 3
    assert gathered(world, 3) == [3]
    tensor = torch.ones(2)
    average_(world, [tensor])
    assert torch.equal(tensor, torch.ones(2))
    net = torch.nn.Linear(2, 2)
    assert wrapped(world, net, torch.device("cpu")) is net
    together(world, None)
    with pytest.raises(DataFault, match="empty"):
        together(world, DataFault("empty"))


def test_shares_cover_every_sample_once() -> None:
    for count in (8, 9, 10, 11):
        parts = [list(range(count))[World(rank, 4, rank).share(count)] for rank in range(4)]
        assert [sample for part in parts for sample in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_ranks_of_one_machine_read_the_data_of_their_first() -> None:
    assert [World(rank, 8, rank % 4).leader for rank in range(8)] == [0, 0, 0, 0, 4, 4, 4, 4]


def test_a_batch_too_small_to_share() -> None:
    require_share(World(0, 4, 0), 8)
    require_share(World(), 1)
    with pytest.raises(UsageError, match=r"batch_size 7 over 4 processes .* at least 8, or start fewer"):
        require_share(World(0, 4, 0), 7)
