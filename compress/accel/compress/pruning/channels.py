"""Which channels of a module belong together, and a copy of it without some of them.

Torch-Pruning (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning") proposes the groups; nothing it says is believed
before ``channel_check.Silenced`` has compared a cut with the whole network. It never touches a module that is given to it or
returned: the cut itself is an edit (``edits.keep_channels_``), the same that is replayed when a saved model is loaded.

The one file that imports torch_pruning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import lcm
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from accel.compress.edits import add_edit_, keep_channels_
from accel.compress.pruning.channel_check import Silenced, copied, leaves, require_runs, said
from accel.compress.pruning.channel_groups import NOT_OURS, Found, Group, Member, Narrowed, edit_for, edit_of, width_notes
from accel.compress.pruning.channel_members import Channels, Piece, makes_channels, piece_of, size_of
from accel.compress.quiet_library import quiet
from accel.errors import MissingBackend, PassFault

Graph = Any  # torch_pruning.DependencyGraph: the library has no types
MOST = 1 << 30
"""More channels than there are: the reach of a padded stream, which has no end that matters."""


def find_groups(module: nn.Module, example: Sequence[Tensor], *, ignored_layers: Collection[str] = (), seed: int = 0) -> Found:
    """Every set of coupled channels of ``module`` that may be cut, each tried out, and a note on every layer that may not.

    ``example``: the module's inputs, any number of samples. ``ignored_layers``: module paths whose output channels stay (their
    inputs may shrink). The module is neither run nor changed. Layers that make the model's outputs are found by trying: a cut
    that changes an output's shape is none. Raises PassFault where the module cannot be copied, traced or run on ``example``.
    """
    proposals = _proposals(module, example, frozenset(ignored_layers))
    notes = [f"{name} left alone: {reason}" for name, reason in proposals.items() if isinstance(reason, str)]
    groups = [group for group in proposals.values() if isinstance(group, Group)]
    if not groups:
        return Found((), tuple(notes))
    silenced = Silenced(module, example, seed=seed)
    trial = {group.name: _half(group, seed + number) for number, group in enumerate(groups)}
    # Shapes first: what cannot be cut is found by halving, and each trial in numbers is two forward passes.
    refused = _refused(groups, lambda some: silenced.misfit(edit_of(some, trial)))
    fitting = [group for group in groups if group.name not in refused]
    refused |= _refused(fitting, lambda some: silenced.objection(edit_of(some, trial)))
    notes += [f"{', '.join(each.layers)} left alone: {refused[each.name]}" for each in groups if each.name in refused]
    return Found(tuple(group for group in groups if group.name not in refused), tuple(notes))


def narrow(
    module: nn.Module,
    example: Sequence[Tensor],
    groups: Sequence[Group],
    widths: Mapping[str, int],
    scores: Mapping[str, Tensor],
    *,
    check: bool = True,
) -> Narrowed:
    """A copy of ``module`` in which each group has its width in ``widths`` (by group name; others stay), the best by
    ``scores``.

    The copy keeps the training flags, and records the edit. ``check``: it must run on 1 and 3 samples, give outputs of the same
    shape that are numbers, and compute what the silenced whole computes. Raises PassFault where it does not or where nothing
    would be removed, ValueError for a width that a group cannot have.
    """
    edit = edit_for(groups, widths, scores)
    if not edit.kept:
        raise PassFault("prune: no channel would be removed; ask for a larger pruning_ratio, or a smaller round_to")
    cut = copied(module, "prune", evaluating=False)
    keep_channels_(cut, edit)
    add_edit_(cut, edit)
    if check:
        require_runs(module, cut, example)
        objection = Silenced(module, example, seed=1).objection(edit)
        if objection is not None:
            raise PassFault(f"prune: the cut network is not right: {objection}; name the layers to spare in ignored_layers")
    return Narrowed(cut, edit, width_notes(groups, widths))


def _half(group: Group, seed: int) -> frozenset[int]:
    """About half of the group's channels, drawn: a cut of every second, or of the last, could fit by chance."""
    order = torch.randperm(group.positions, generator=torch.Generator().manual_seed(seed)).tolist()
    return group.channels_at(order[: group.positions // 2])


def _refused(groups: Sequence[Group], objection: Callable[[Sequence[Group]], str | None]) -> dict[str, str]:
    """Group name to reason for those that cannot be cut: all are tried at once, and halves only where that fails."""
    reason = objection(groups) if groups else None
    if reason is None:
        return {}
    if len(groups) == 1:
        return {groups[0].name: reason}
    middle = len(groups) // 2
    found = {**_refused(groups[:middle], objection), **_refused(groups[middle:], objection)}
    rest = [group for group in groups if group.name not in found]
    if rest and objection(rest) is not None:  # each is right alone and together they are not: keep what goes together
        together: list[Group] = []
        for group in rest:
            told = objection([*together, group])
            if told is None:
                together.append(group)
            else:
                found[group.name] = told
    return found


def _proposals(module: nn.Module, example: Sequence[Tensor], ignored: frozenset[str]) -> dict[str, Group | str]:
    """Path of a layer to the group that it begins, or to the reason why its channels stay; in the order of the module."""
    traced = copied(module, "prune")
    parts = dict(traced.named_modules())
    if not any(makes_channels(part) for part in parts.values()):
        return {}
    attentions = [path for path, part in parts.items() if isinstance(part, nn.MultiheadAttention)]
    graph, calls = _trace(traced, example)
    tensors = _tensors(traced, calls)
    found: dict[str, Group | str] = {}
    done: set[str] = set()
    for path, part in parts.items():
        if path in done or any(path.startswith(f"{each}.") for each in attentions):
            continue
        if not makes_channels(part):
            if size_of(part, True) is None and not list(part.children()) and list(part.parameters(recurse=False)):
                found[path] = f"no channels can be cut from a {type(part).__name__}"
        elif part not in graph.module2node:
            found[path] = "its way to the outputs could not be followed" if calls[path] else "forward does not use it"
        else:
            group = found[path] = _group(graph, path, parts, tensors)
            if isinstance(group, Group):
                done.update(group.layers)
                spared = [each for each in group.layers if each in ignored]
                if spared:
                    found[path] = (
                        "ignored_layers" if spared == [path] else f"ignored_layers names {', '.join(spared)}, tied to it"
                    )
    return _without_overlaps(found)


def _group(graph: Graph, path: str, parts: Mapping[str, nn.Module], tensors: Mapping[str, str | None]) -> Group | str:
    """What Torch-Pruning couples with the outputs of the layer at ``path``, in our terms, or why it stays."""
    root = parts[path]
    width = size_of(root, True) or 0
    try:
        with quiet():
            prune = graph.get_pruner_of_module(root).prune_out_channels
            items = list(graph.get_pruning_group(root, prune, list(range(width))))
    except Exception as error:  # the library fails in any way on graphs it does not know  # noqa: BLE001
        return f"Torch-Pruning cannot follow its channels ({said(error)})"
    names = {part: name for name, part in parts.items()}
    pieces: list[tuple[str, Piece]] = []
    for item in items:
        target, node = item.dep.target.module, item.dep.target
        if any(channel is None for channel in item.root_idxs):
            return "heads share keys and values"
        if isinstance(target, nn.Parameter):
            dim = node.pruning_dim % target.ndim
            place, size = graph._param_to_name[target], target.shape[dim]
        elif target in names:
            makes = item.dep.handler == graph.get_pruner_of_module(target).prune_out_channels
            place, size = names[target], size_of(target, makes)
        else:
            continue  # an operation: what it does to indices is in the mapping already
        if size is not None and not all(0 <= index < size for index in item.idxs):
            return f"Torch-Pruning loses count of them before {place}"
        channels = _mapping(item, size) if size is not None else ()
        if isinstance(target, nn.Parameter):
            pieces.append(("", Piece((Member(place, dim, channels, "other"),), ())))
            continue
        piece = piece_of(place, target, makes, channels)
        if isinstance(piece, str):
            return piece
        pieces.append((place, piece))
    members = tuple(member for _, piece in pieces for member in piece.members)
    for member in members:
        reason = tensors.get(member.tensor, "its weights are computed (parametrization, weight norm, mask), not kept")
        if reason is not None:
            return reason
    group = Group(
        name=path,
        layers=_in_order(parts, (name for name, piece in pieces if piece.makes)),
        readers=_in_order(parts, (name for name, piece in pieces if piece.reads)),
        width=width,
        divisor=lcm(*(piece.divisor for _, piece in pieces)),
        members=members,
        counts=tuple(count for _, piece in pieces for count in piece.counts),
    )
    return _misaligned(group, pieces) or group


def _in_order(parts: Mapping[str, nn.Module], names: Iterable[str]) -> tuple[str, ...]:
    wanted = set(names)
    return tuple(path for path in parts if path in wanted)


def _misaligned(group: Group, pieces: Sequence[tuple[str, Piece]]) -> str | None:
    if group.width % group.divisor:
        return f"its {group.width} channels do not lie in {group.divisor} equal blocks"
    if group.positions == 1:
        return (
            "a single channel" if group.width == 1 else f"its {group.width} channels are one in each of {group.divisor} groups"
        )
    for name, piece in pieces:
        if piece.aligned:
            at = [channel % group.positions if channel != NOT_OURS else NOT_OURS for channel in piece.aligned]
            block = len(at) // piece.divisor
            if any(at[index] != at[index % block] for index in range(len(at))):
                return f"the groups of {name} would lose different channels"
    return None


def _mapping(item: Any, size: int) -> Channels:
    channels = [NOT_OURS] * size
    for index, root in zip(item.idxs, item.root_idxs, strict=True):
        channels[index] = root
    return tuple(channels)


def _without_overlaps(found: Mapping[str, Group | str]) -> dict[str, Group | str]:
    """The same, but two groups that claim one index stay whole: the library gave them different pictures of one thing."""
    claims: dict[tuple[str, int, int], str] = {}
    checked = dict(found)
    for name, group in found.items():
        for member in group.members if isinstance(group, Group) else ():
            for index, channel in enumerate(member.channels):
                other = claims.setdefault((member.tensor, member.dim, index), name) if channel != NOT_OURS else name
                if other != name:
                    checked[name] = f"its channels are partly those of {other}"
                    checked[other] = f"its channels are partly those of {name}"
    return checked


def _tensors(module: nn.Module, calls: Mapping[str, int]) -> dict[str, str | None]:
    """Every parameter and buffer by name, to the reason why it must stay as it is, if there is one."""
    found: dict[str, str | None] = {}
    owners: dict[int, str] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        for leaf, value in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            name = f"{path}.{leaf}" if path else leaf
            found[name] = f"forward runs {path} {calls[path]} times (shared weights)" if path and calls[path] > 1 else None
            first = owners.setdefault(id(value), name)
            if first != name:
                found[name] = found[first] = f"{first} and {name} are one tensor (shared weights)"
    return found


def _trace(module: nn.Module, example: Sequence[Tensor]) -> tuple[Graph, Counter[str]]:
    """Torch-Pruning's graph of ``module``, which it makes trainable; and how often forward calls each part."""
    calls: Counter[str] = Counter()
    handles = [part.register_forward_pre_hook(_counting(calls, path)) for path, part in module.named_modules()]
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())

    def forward(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
        outputs = [leaf for leaf in leaves(model(*inputs)) if leaf.grad_fn is not None]
        if not outputs:
            raise PassFault("prune: no output depends on the weights in a way that autograd sees (detach, argmax, no_grad)")
        seen.extend(outputs)
        return outputs

    seen: list[Tensor] = []
    library = _library()
    try:
        with quiet(), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            graph = library.DependencyGraph()
            _teach_(graph, library)
            graph.build_dependency(module, [each.clone() for each in example], forward_fn=forward, verbose=False)
            _follow_padding_(graph, library)
    except PassFault:
        raise
    except Exception as error:  # what forward raises, and what the library does on a graph it does not know
        if seen:
            told = f"Torch-Pruning cannot follow this model ({said(error)}); use method: depth, sparsify or distill instead"
        else:
            told = f"the model does not run on the example: {said(error)}"
        raise PassFault(f"prune: {told}") from error
    for handle in handles:
        handle.remove()
    return graph, calls


def _counting(calls: Counter[str], path: str) -> Callable[..., None]:
    def count(*_: object) -> None:
        calls[path] += 1

    return count


def _teach_(graph: Graph, library: ModuleType) -> None:
    """Channel counts that the library gets wrong or takes for ever to find: after padding, and of nested concatenations.

    It asks along every path between two layers; with nested concatenations (DenseNet) there are 2**n. Now each is asked once.
    """
    infer = library.dependency.shape_infer.infer_out_channels_recursively
    known = graph.get_out_channels
    counted: dict[Any, int | None] = {}

    def out_channels(place: Any) -> int | None:
        found: int | None = known(place)
        if found is not None or not hasattr(place, "inputs"):
            return found
        pads = _channel_pads(place, library)
        if place not in counted and (pads or place.type == library.ops.OPTYPE.CONCAT):
            parts = [infer(graph, each, [0]) for each in place.inputs]
            counted[place] = None if None in parts else sum(parts) + sum(pads)
        return counted.get(place)

    graph.get_out_channels = out_channels


def _channel_pads(node: Any, library: ModuleType) -> tuple[int, ...]:
    """How many channels of zeros the operation puts before and after those it gets; empty where it does no such thing."""
    if node.type != library.ops.OPTYPE.ELEMENTWISE or node.grad_fn is None or "ConstantPad" not in node.grad_fn.name():
        return ()
    return tuple(getattr(node.grad_fn, "_saved_pad", ()))[4:6]  # pairs from the last axis back: width, height, channels


def _follow_padding_(graph: Graph, library: ModuleType) -> None:
    """Zero channels put before others (the shortcut "option A" of He et al. 2016) move these up by as many.

    The library takes padding for an element-wise operation. It goes wherever the channels go and is never cut itself.
    """
    mapping = library.dependency.index_mapping._ConcatIndexMapping
    for node in list(graph.module2node.values()):
        for before in _channel_pads(node, library)[:1]:
            reach = [before, before + MOST]
            for source in node.inputs:
                for dependency in node.dependencies:
                    if dependency.target is source:
                        dependency.index_mapping[1] = mapping(reach, reverse=True)
                for dependency in source.dependencies:
                    if dependency.target is node:
                        dependency.index_mapping[1] = mapping(reach, reverse=False)


def _library() -> ModuleType:
    try:
        with quiet():
            import torch_pruning
    except ModuleNotFoundError as absent:
        raise MissingBackend("prune: torch-pruning is not installed; pip install 'accel-toolkit[prune]'") from absent
    return torch_pruning  # type: ignore[no-any-return]
