"""Trains ``digits_network`` from nothing on the training split of ``mnist_digits`` and writes its weights.

    python recipes/train_digits.py

About ten minutes on one core. The validation split is read once, at the end; nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from digits_network import digits_network  # type: ignore[import-not-found,unused-ignore]  # beside this script
from mnist_digits import Split, digits  # type: ignore[import-not-found,unused-ignore]
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

MEAN, STD = 0.1307, 0.3081  # of the pixels / 255 of all of MNIST, and what quickstart.yaml says


def split(name: Split) -> tuple[Tensor, Tensor]:
    """Normalised images (n, 1, 28, 28) float32, and labels (n,) int64."""
    images, labels = digits(name)
    return (torch.from_numpy(images).float().unsqueeze(1) / 255 - MEAN) / STD, torch.from_numpy(labels)


def distorted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image shifted, turned, scaled, sheared and bent by chance, as hands do (Simard et al. 2003); background stays."""
    n = len(images)

    def uniform(limit: float, *shape: int) -> Tensor:
        return (torch.rand(n, *shape, generator=generator) * 2 - 1) * limit

    angle, shear = uniform(math.radians(14)), uniform(0.2)
    scale, shift = 1 + uniform(0.14, 2), uniform(0.16, 2)  # of half the image's width: 0.16 is 2.2 pixels
    rows = torch.stack(
        [
            torch.stack([angle.cos() * scale[:, 0], shear - angle.sin(), shift[:, 0]], dim=1),
            torch.stack([angle.sin(), angle.cos() * scale[:, 1], shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    bend = functional.interpolate(uniform(0.12, 2, 6, 6), size=images.shape[2:], mode="bicubic", align_corners=False)
    bent = functional.grid_sample(images - images.min(), grid + bend.permute(0, 2, 3, 1), align_corners=False)
    return bent + images.min()


def top1(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The fraction that the model gets right, in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        answers = torch.cat([model(batch).argmax(1) for batch in torch.split(images, 250)])
    return float((answers == labels).double().mean())


def train(epochs: int, batch_size: int, learning_rate: float, seed: int) -> nn.Module:
    """SGD with Nesterov momentum over one cycle of the learning rate, in bfloat16 where that is safe."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images, labels = split("training")
    model: nn.Module = digits_network()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs forget this form
    optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * (len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.2)
    started = time.monotonic()
    for epoch in range(epochs):
        model.train()
        total = 0.0
        order = torch.randperm(len(images), generator=generator)
        chunks = torch.split(order[: len(order) // batch_size * batch_size], batch_size)
        for chosen in chunks:
            batch = distorted(images[chosen], generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(batch)
            loss = functional.cross_entropy(logits.float(), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}/{epochs}: loss {total / len(chunks):.4f}, {time.monotonic() - started:.0f} s", flush=True)
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="the result depends on it in the last digits")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("digits_network.safetensors"))
    chosen = parser.parse_args(arguments)

    torch.set_num_threads(chosen.threads)
    model = train(chosen.epochs, chosen.batch_size, chosen.learning_rate, chosen.seed)
    accuracy = top1(model, *split("validation"))
    command = [f"--epochs={chosen.epochs}", f"--batch-size={chosen.batch_size}", f"--learning-rate={chosen.learning_rate}"]
    command += [f"--seed={chosen.seed}", f"--threads={chosen.threads}"]
    metadata = {
        "format": "pt",
        "command": shlex.join(["python", "recipes/train_digits.py", *command]),
        "torch": torch.__version__,
        "validation_top1": f"{accuracy:.4f}",
    }
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    partial = chosen.output.with_name(chosen.output.name + ".partial")
    save_file(weights, partial, metadata)
    partial.replace(chosen.output)
    print(f"{accuracy:.2%} top-1 on the validation split; wrote {chosen.output}")


if __name__ == "__main__":
    main()
