from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper
from pydantic import TypeAdapter, ValidationError

from accel.compress.ignored_scope import IgnoredScope, Subgraph, resolve
from accel.errors import PassFault


@pytest.fixture(scope="module")
def graph() -> onnx.GraphProto:
    """a -> b -> c -> e, and b -> d -> e beside it."""
    nodes = [
        helper.make_node("Relu", ["x"], ["va"], name="net.a/Relu"),
        helper.make_node("Sigmoid", ["va"], ["vb"], name="net.b/Sigmoid"),
        helper.make_node("Relu", ["vb"], ["vc"], name="net.c/Relu"),
        helper.make_node("Tanh", ["vb"], ["vd"], name="net.d/Tanh"),
        helper.make_node("Add", ["vc", "vd"], ["y"], name="net.e/Add"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    return helper.make_graph(nodes, "g", ends[:1], ends[1:])


def test_names_are_exact(graph: onnx.GraphProto) -> None:
    assert resolve(IgnoredScope(names=("net.a/Relu",)), graph) == {"net.a/Relu"}
    with pytest.raises(PassFault, match=r"names: 'net\.a' "):
        resolve(IgnoredScope(names=("net.a",)), graph)


def test_patterns_match_the_whole_name(graph: onnx.GraphProto) -> None:
    assert resolve(IgnoredScope(patterns=(r"net\.[ac]/.*",)), graph) == {"net.a/Relu", "net.c/Relu"}
    with pytest.raises(PassFault, match=r"patterns: 'Relu' \(must match a whole name"):
        resolve(IgnoredScope(patterns=("Relu",)), graph)


def test_types(graph: onnx.GraphProto) -> None:
    assert resolve(IgnoredScope(types=("Relu", "Add")), graph) == {"net.a/Relu", "net.c/Relu", "net.e/Add"}


def test_subgraphs_take_every_path_between_their_ends(graph: onnx.GraphProto) -> None:
    scope = IgnoredScope(subgraphs=(Subgraph(inputs=("net.b/Sigmoid",), outputs=("net.e/Add",)),))
    assert resolve(scope, graph) == {"net.b/Sigmoid", "net.c/Relu", "net.d/Tanh", "net.e/Add"}
    scope = IgnoredScope(subgraphs=(Subgraph(inputs=("net.a/Relu",), outputs=("net.d/Tanh",)),))
    assert resolve(scope, graph) == {"net.a/Relu", "net.b/Sigmoid", "net.d/Tanh"}


def test_a_subgraph_without_a_path_is_named(graph: onnx.GraphProto) -> None:
    scope = IgnoredScope(subgraphs=(Subgraph(inputs=("net.c/Relu",), outputs=("net.d/Tanh",)),))
    with pytest.raises(PassFault, match=r"subgraphs\[0\]: no path leads from"):
        resolve(scope, graph)
    with pytest.raises(PassFault, match=r"subgraphs\[0\]: 'net\.x/Relu' \(did you mean"):
        resolve(IgnoredScope(subgraphs=(Subgraph(inputs=("net.x/Relu",), outputs=("net.e/Add",)),)), graph)


def test_everything_unmatched_is_named_at_once_with_the_nearest(graph: onnx.GraphProto) -> None:
    scope = IgnoredScope(names=("net.a/Rely",), patterns=("zz",), types=("relu", "Add"))
    with pytest.raises(PassFault) as caught:
        resolve(scope, graph)
    message = str(caught.value)
    assert "'net.a/Rely' (did you mean 'net.a/Relu'?)" in message
    assert "patterns: 'zz'" in message
    assert "types: 'relu' (did you mean 'Relu'?)" in message
    assert "'Add'" not in message


def test_validate_false_lets_it_pass(graph: onnx.GraphProto) -> None:
    assert resolve(IgnoredScope(names=("gone", "net.a/Relu"), types=("LSTM",), validate=False), graph) == {"net.a/Relu"}


def test_settings() -> None:
    adapter = TypeAdapter(IgnoredScope)
    scope = adapter.validate_python({"names": ["a"], "subgraphs": [{"inputs": ["a"], "outputs": ["b"]}]})
    assert scope.subgraphs[0].outputs == ("b",) and adapter.validate_python(adapter.dump_python(scope)) == scope
    with pytest.raises(ValidationError, match=r"'\(' is not a regular expression"):
        adapter.validate_python({"patterns": ["("]})
    with pytest.raises(ValidationError, match="name\n"):
        adapter.validate_python({"name": ["a"]})
