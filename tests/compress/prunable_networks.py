"""Small networks, one for each way in which channels are tied together; several break torch-pruning when it is used alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Make = Callable[[], nn.Module]


class Residual(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.down = (
            nn.Identity() if stride == 1 else nn.Sequential(nn.Conv2d(width_in, width, 1, stride), nn.BatchNorm2d(width))
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.down(x))


class ResidualNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.one = Residual(16, 16, 1)
        self.two = Residual(16, 24, 2)
        self.fc = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.two(self.one(torch.relu(self.stem(x)))).mean((2, 3)))
        return logits


class Inverted(nn.Module):
    """Depthwise convolution and squeeze-excite."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(inner, inner, 3, 1, 1, groups=inner), nn.BatchNorm2d(inner), nn.Hardswish())
        self.squeeze = nn.Conv2d(inner, inner // 4, 1)
        self.excite = nn.Conv2d(inner // 4, inner, 1)
        self.project = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.depthwise(self.expand(x))
        scale = torch.sigmoid(self.excite(torch.relu(self.squeeze(inner.mean((2, 3), keepdim=True)))))
        out: Tensor = x + self.project(inner * scale)
        return out


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.blocks = nn.Sequential(Inverted(16, 32), Inverted(16, 32))
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))
        return logits


class Concatenated(nn.Module):
    """The second branch's channels come after the first's, in a batch norm of both."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3, padding=1)
        self.right = nn.Conv2d(3, 16, 1)
        self.norm = nn.BatchNorm2d(24)
        self.join = nn.Conv2d(24, 12, 3)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        both = self.norm(torch.cat([self.left(x), self.right(x)], 1))
        logits: Tensor = self.fc(torch.relu(self.join(both)).mean((2, 3)))
        return logits


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.grouped = nn.Conv2d(16, 32, 3, groups=4)
        self.norm = nn.GroupNorm(8, 32)
        self.conv = nn.Conv2d(32, 16, 1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(self.grouped(torch.relu(self.stem(x))))
        logits: Tensor = self.fc(torch.relu(self.conv(inner)).mean((2, 3)))
        return logits


class Transformer(nn.Module):
    """nn.MultiheadAttention on the residual stream; an MLP; a position embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 9, 32) * 0.1)
        self.norm1 = nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm2 = nn.LayerNorm(32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.fc = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.norm2(x))
        logits: Tensor = self.fc(x.mean(1))
        return logits


class OwnAttention(nn.Module):
    """Queries, keys and values from one linear layer, heads by reshape with sizes that are numbers in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.norm1 = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.project = nn.Linear(32, 32)
        self.norm2 = nn.LayerNorm(32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.fc = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        n, tokens, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, tokens, 3, 4, 8).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, 32)
        x = x + self.project(mixed)
        x = x + self.mlp(self.norm2(x))
        logits: Tensor = self.fc(x.mean(1))
        return logits


class Chunked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gated = nn.Conv2d(3, 16, 3)
        self.conv = nn.Conv2d(8, 12, 3)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.gated(x).chunk(2, 1)
        logits: Tensor = self.fc(torch.relu(self.conv(value * torch.sigmoid(gate))).mean((2, 3)))
        return logits


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.before = nn.Conv2d(16, 16, 3, groups=2)
        self.after = nn.Conv2d(16, 16, 3, groups=2)
        self.conv = nn.Conv2d(16, 12, 1)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.before(torch.relu(self.stem(x))))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        logits: Tensor = self.fc(torch.relu(self.conv(self.after(x))).mean((2, 3)))
        return logits


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(3, 16, 3)
        self.conv2 = nn.Conv1d(16, 16, 3)
        self.rnn = kind(16, 8, batch_first=True)
        self.hidden = nn.Linear(8, 12)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.conv2(torch.relu(self.conv1(x[:, :, :3].flatten(2)))).transpose(1, 2)
        logits: Tensor = self.fc(torch.relu(self.hidden(self.rnn(steps)[0][:, -1])))
        return logits


class Padded(nn.Module):
    """The zero-padded shortcut of He et al. 2016: channel i of ``narrow`` is added to channel i + 4 of ``wide``."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 16, 3, padding=1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.narrow(x))
        x = torch.relu(self.wide(x) + functional.pad(x, (0, 0, 0, 0, 4, 4)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Shared(nn.Module):
    """``twice`` runs two times; ``first`` and ``second`` have one weight; ``free`` is free."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.free = nn.Linear(8, 12)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.twice(torch.relu(self.twice(torch.relu(self.stem(x)))))).mean((2, 3))
        x = torch.relu(self.second(torch.relu(self.first(x))))
        logits: Tensor = self.fc(torch.relu(self.free(x)))
        return logits


class Parametrized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
        self.conv = nn.Conv2d(8, 12, 3)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.relu(self.conv(torch.relu(self.stem(x)))).mean((2, 3)))
        return logits


class AddedHeads(nn.Module):
    """The outputs are two convolutions, added and flattened, in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.linear = nn.Conv2d(8, 4, 1)
        self.fc = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.stem(x))
        return {"scores": (self.linear(x) + self.fc(x)).flatten(1)}


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.join = nn.Conv2d(16, 8, 3, padding=1)
        self.act = nn.PReLU(8)
        self.leave = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        out: Tensor = self.leave(self.act(self.join(torch.cat([x, self.up(torch.relu(self.down(x)))], 1))))
        return out


class ScaledLayer(nn.Module):
    """ConvNeXt: layer norm over the last axis between permutes, and a parameter that scales each channel, nearly 0 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 2, 2)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.norm = nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 48), nn.GELU(), nn.Linear(48, 16))
        self.scale = nn.Parameter(torch.full((16, 1, 1), 1e-6))
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        inner = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        logits: Tensor = self.fc((x + self.scale * inner).mean((2, 3)))
        return logits


def plain() -> nn.Module:
    convolutions = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16 * 9, 32), nn.ReLU(), nn.Linear(32, 4))


class Encoder(nn.Module):
    """torch's own transformer layer, which runs as one kernel in evaluation."""

    def __init__(self, flatten: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.fc = nn.Linear(32 * 7 if flatten else 32, 4)
        self.flatten = flatten

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.encoder(self.embedding(x))
        logits: Tensor = self.fc(tokens.flatten(1) if self.flatten else tokens.mean(1))
        return logits


class Case(NamedTuple):
    """``cut``: names of the groups that can be cut. ``kept``: for layers that stay, words of the reason."""

    make: Make
    cut: tuple[str, ...]
    kept: dict[str, str]


CASES: dict[str, Case] = {
    "plain, flatten": Case(plain, ("0", "3", "7"), {"9": "model's output 0"}),
    "residual": Case(ResidualNet, ("stem", "one.conv1", "two.conv1", "two.conv2"), {"fc": "model's output 0"}),
    "depthwise, squeeze-excite": Case(
        MobileNet,
        ("stem", "blocks.0.expand.0", "blocks.0.squeeze", "blocks.1.expand.0", "blocks.1.squeeze"),
        {"fc": "model's output 0"},
    ),
    "concatenation": Case(Concatenated, ("left", "right", "join"), {"fc": "model's output 0"}),
    "groups, group norm": Case(Grouped, ("stem", "grouped", "conv"), {"fc": "model's output 0"}),
    "multi-head attention": Case(Transformer, ("patches", "mlp.0"), {"fc": "model's output 0"}),
    "attention by reshape": Case(OwnAttention, ("patches", "mlp.0"), {"qkv": "does not run", "fc": "output 0"}),
    "chunk": Case(Chunked, ("conv",), {"gated": "does not run", "fc": "model's output 0"}),
    "channel shuffle": Case(Shuffled, ("stem", "after", "conv"), {"before": "computes something else", "fc": "output 0"}),
    "lstm": Case(
        lambda: Recurrent(nn.LSTM),
        ("conv1", "hidden"),
        {"conv2": "pass through rnn (LSTM)", "rnn": "no channels can be cut from a LSTM", "fc": "output 0"},
    ),
    "gru": Case(
        lambda: Recurrent(nn.GRU),
        ("conv1", "hidden"),
        {"conv2": "", "rnn": "no channels can be cut from a GRU", "fc": "output 0"},
    ),
    "padded shortcut": Case(Padded, ("narrow",), {"fc": "model's output 0"}),
    "shared weights": Case(
        Shared,
        ("free",),
        {"stem": "runs twice 2 times", "twice": "runs twice 2 times", "first": "one tensor", "second": "one tensor", "fc": "0"},
    ),
    "parametrization": Case(Parametrized, ("conv",), {"stem": "parametrization", "fc": "model's output 0"}),
    "added outputs": Case(AddedHeads, ("stem",), {"linear, fc": "model's output 0"}),
    "transposed, prelu": Case(UNet, ("enter", "down", "up", "join"), {"leave": "model's output 0"}),
    "layer scale": Case(ScaledLayer, ("stem", "mlp.0"), {"fc": "model's output 0"}),
    "encoder layer": Case(
        lambda: Encoder(False), ("encoder.layers.0.linear1", "encoder.layers.0.linear2"), {"fc": "model's output 0"}
    ),
    "encoder, flattened": Case(  # torch-pruning takes the channels of all tokens for the tokens of a channel
        lambda: Encoder(True),
        ("encoder.layers.0.linear1",),
        {"encoder.layers.0.linear2": "does not run", "fc": "model's output 0"},
    ),
}


def network(name: str) -> tuple[nn.Module, Tensor]:
    """The network in evaluation mode, its weights from a fixed seed and no two channels alike; and two samples."""
    torch.manual_seed(7)
    module = CASES[name].make()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
    example = torch.randint(0, 10, (2, 7)) if name.startswith("encoder") else torch.randn(2, 3, 12, 12)
    return module.eval(), example
