"""all-MiniLM-L6-v2: the model, the tokenizer and the sentences of ``minilm.yaml`` and its siblings.

The model is BERT (Devlin et al. 2018) with 6 layers of width 384 (Wang et al. 2020, MiniLM), its tokens averaged and normalised
as sentence-transformers does (Reimers and Gurevych 2019). Module names are those of the public weights, so that these load
strictly: ``fetch_minilm.py`` gets them. The tokenizer is WordPiece as BERT's uncased models have it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, LAYERS, HEADS, INNER, WORDS, POSITIONS, TYPES = 384, 6, 12, 1536, 30522, 512, 2


def _norm() -> nn.LayerNorm:
    return nn.LayerNorm(WIDTH, eps=1e-12)


class Embeddings(nn.Module):
    """Token, position and token type, added."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(WORDS, WIDTH, padding_idx=0)
        self.position_embeddings = nn.Embedding(POSITIONS, WIDTH)
        self.token_type_embeddings = nn.Embedding(TYPES, WIDTH)
        self.LayerNorm = _norm()

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        tokens = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        found: Tensor = self.LayerNorm(tokens + self.position_embeddings(positions))
        return found


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (self._by_head(part(x)) for part in (self.query, self.key, self.value))
        shares = functional.softmax(query @ key.transpose(-1, -2) / math.sqrt(WIDTH // HEADS) + bias, dim=-1)
        return (shares @ value).transpose(1, 2).flatten(2)

    @staticmethod
    def _by_head(x: Tensor) -> Tensor:
        return x.unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2)


class Output(nn.Module):
    """A projection, what went into the block added, normalised."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, WIDTH)
        self.LayerNorm = _norm()

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        found: Tensor = self.LayerNorm(self.dense(x) + before)
        return found


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self = SelfAttention()
        self.output = Output(WIDTH)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        found: Tensor = self.output(self.self(x, bias), x)
        return found


class Intermediate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(WIDTH, INNER)

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(self.dense(x))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.intermediate = Intermediate()
        self.output = Output(INNER)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.attention(x, bias)
        found: Tensor = self.output(self.intermediate(x), x)
        return found


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x, bias)
        return x


class MiniLm(nn.Module):
    """Three times (n, length) int64 to embeddings (n, 384) of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = Encoder()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        mask = attention_mask.to(torch.float32)
        tokens = self.encoder(self.embeddings(input_ids, token_type_ids), (1.0 - mask[:, None, None, :]) * -1e4)
        mean = (tokens * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1e-9)
        return functional.normalize(mean, dim=1)


def minilm() -> nn.Module:
    """22,565,376 parameters."""
    return MiniLm().eval()


def tokenizer(vocabulary: str = "data/minilm/vocab.txt", max_length: int = 128) -> Callable[[str], dict[str, list[int]]]:
    """``tokenize(text)``: token ids, mask and token types, at most ``max_length``. ``vocabulary``: relative to this file."""
    lines = (Path(__file__).parent / vocabulary).read_text(encoding="utf-8").splitlines()
    ids = {token: index for index, token in enumerate(lines)}

    def tokenize(text: str) -> dict[str, list[int]]:
        pieces = [piece for word in _words(text) for piece in _pieces(word, ids)][: max_length - 2]
        found = [ids["[CLS]"], *(ids[piece] for piece in pieces), ids["[SEP]"]]
        return {"input_ids": found, "attention_mask": [1] * len(found), "token_type_ids": [0] * len(found)}

    return tokenize


def _words(text: str) -> list[str]:
    """Lower case without accents; punctuation and Chinese characters stand alone."""
    plain = unicodedata.normalize("NFD", text.lower())
    spaced = []
    for character in plain:
        kind = unicodedata.category(character)
        if kind == "Mn" or character in "\0\ufffd" or (kind.startswith("C") and character not in "\t\n\r"):
            continue
        alone = kind.startswith("P") or character in "$+<=>^`|~" or "\u4e00" <= character <= "\u9fff"
        spaced.append(f" {character} " if alone else character)
    return "".join(spaced).split()


def _pieces(word: str, ids: dict[str, int]) -> list[str]:
    """The longest token that the rest of the word starts with, and on; a word that is not made of tokens is unknown."""
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in ids), 0)
        if not end or len(word) > 100:
            return ["[UNK]"]
        found.append(prefix + word[start:end])
        start = end
    return found


def sentences(file: str | None = None) -> list[str]:
    """Real English sentences of 6 to 60 words, each once, in a fixed order.

    ``file``: a text, relative to this file; by default Python's own language reference, which every Python brings along as
    ``pydoc_data.topics`` (licence of the PSF): about technical things only, but written by people, and nothing to download.
    """
    if file is not None:
        texts = [(Path(__file__).parent / file).read_text(encoding="utf-8")]
    else:
        from pydoc_data.topics import topics

        texts = [topics[name] for name in sorted(topics)]
    found: dict[str, None] = {}
    for text in texts:
        for paragraph in re.split(r"\n\s*\n", text):
            if file is None and re.search(r"^\s{5,}|>>>|::=|\*{3,}|={3,}|-{3,}", paragraph, re.MULTILINE):
                continue  # code, grammar and headings
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
                words = sentence.split()
                if 6 <= len(words) <= 60 and sentence[0].isupper() and sentence[-1] in ".!?":
                    found[sentence] = None
    return list(found)
