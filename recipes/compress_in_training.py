"""Compression inside a training loop of your own: no recipe, no YAML; take what you need.

    python recipes/compress_in_training.py --steps 80 --output out/compress_in_training

A trained network loses half of its channels, learns from its untouched self while half of the weights that are left become
zero, goes on in INT8 arithmetic, and is written twice: as ``model.onnx``, which ONNX Runtime and OpenVINO run in INT8, and as
``checkpoint``, without pickle, to train further. Twenty seconds on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from digits_network import digits_network  # type: ignore[import-not-found,unused-ignore]  # beside this script
from safetensors.torch import load_file
from torch import Tensor, nn
from train_digits import split, top1  # type: ignore[import-not-found,unused-ignore]

from accel.compress import saved
from accel.compress.distill import DistillationLoss
from accel.compress.edits import masks_of
from accel.compress.export_onnx import ExportOnnx
from accel.compress.loss_settings import LossTerm
from accel.compress.prune import prune_channels
from accel.compress.quantize_aware import convert_qat, prepare_qat
from accel.compress.sparsify import Sparsifier
from accel.contracts import Job
from accel.model import Signature, TensorSpec, TorchModel

WEIGHTS = Path(__file__).with_name("digits_network.safetensors")
SIGNATURE = Signature(
    (TensorSpec("image", ("batch", 1, 28, 28), "float32"),), (TensorSpec("logits", ("batch", 10), "float32"),)
)
TERMS = (LossTerm("logits", weight=0.9, temperature=4.0), LossTerm("task", weight=0.1))


def train(
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    rate: float,
    after: Callable[[], None],
) -> None:
    """Your loop: nothing in it is ours but the loss, and ``after`` each step."""
    optimizer = torch.optim.SGD(student.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    student.train()
    with DistillationLoss(TERMS, student, teacher, example=images[:8]) as loss:
        for _ in range(steps):
            chosen = torch.randint(len(images), (64,))
            value = loss(images[chosen], student(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            after()
    student.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80, help="of the whole training; a quarter of them in INT8")
    parser.add_argument("--output", type=Path, default=Path("out/compress_in_training"))
    chosen = parser.parse_args(arguments)
    quantized_steps = max(1, chosen.steps // 4)
    chosen.output.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    net = digits_network()
    net.load_state_dict(load_file(WEIGHTS))
    images, labels = split("training")
    test_images, test_labels = split("validation")

    # Fewer channels: a new module, `net` stays as it was and teaches.
    small = prune_channels(net, example=images[:2], pruning_ratio=0.5, tell=print)

    # Zeros, more of them from step to step: no faster on a CPU, but the file packs smaller.
    steps = chosen.steps - quantized_steps
    sparsifier = Sparsifier(small, sparsity=0.5, schedule="cubic", total_steps=steps, update_every=5)
    train(small, net, images, labels, steps=steps, rate=0.05, after=sparsifier.step)
    sparsifier.finish()

    # INT8 as the CPU runtimes compute it, first ranges from real images; `small` stays as it was.
    quantized = prepare_qat(small, example=images[:256], profile="cpu")
    masks = masks_of(quantized)  # what is zero stays zero

    def keep_zeros() -> None:
        for name, mask in masks.items():
            quantized.get_parameter(name).data.mul_(mask)

    train(quantized, net, images, labels, steps=quantized_steps, rate=0.002, after=keep_zeros)

    # To be trained further, some other day: saved.load(folder, factory=digits_network).
    saved.save(quantized, chosen.output / "checkpoint", factory=digits_network, example=images[:2])
    deployed = convert_qat(quantized)
    exported = ExportOnnx()(TorchModel(module=deployed, signature=SIGNATURE), Job.local(chosen.output))

    for name, model in (("untouched", net), ("pruned, distilled, sparse", small), ("in INT8", deployed)):
        print(f"{name}: {top1(model, test_images, test_labels):.2%} top-1 on the validation split")
    print(f"wrote {exported.path}, {exported.path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
