"""An ONNX graph in the making: names, known values and nodes, while a program is walked through.

Read next: operations.py (operation by operation), export.py (reads the program).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ppcls_lite.errors import UserError

OPSET = 17
_IR_VERSION = 8  # the oldest that goes with the operator set: older engines read it as well
BATCH = "batch"


class GraphWriter:
    """Walks through a program's operations in order and writes their ONNX nodes.

    `operations` are those of the program's only block, `parameters` the weights by the names that
    it uses, and `translations` what writes each kind of operation (operations.py).
    """

    def __init__(
        self,
        operations: list[Any],
        parameters: dict[str, np.ndarray],
        translations: dict[str, Translation],
    ) -> None:
        self._translations = translations
        self._operations = operations
        self._parameters = parameters
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, np.ndarray] = {}  # values known now, by the program's ids
        self.lists: dict[str, list[Any]] = {}  # builtin.combine and split: values of several
        self._names: dict[str, str] = {}  # program's id -> name in the graph
        self._initializers: dict[str, np.ndarray] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._makers: dict[str, onnx.NodeProto] = {}  # name in the graph -> the node that makes it
        self._rows: set[str] = set()  # values whose first axis is not the batch, by the ids
        self._uses = Counter(v.id for op in operations for v in sources(op))

    def write(self, name: str) -> onnx.ModelProto:
        """The whole model; call once.

        Raises:
            UserError: an operation or a setting of one has no translation here.
        """
        for op in self._operations:
            translate = self._translations.get(op.name())
            if translate is None:
                raise UserError(
                    f"ONNX: the program's operation {op.name()} has no translation; "
                    f"known: {', '.join(sorted(self._translations))}"
                )
            translate(self, op)
        nodes = self._needed()
        read = {source for node in nodes for source in node.input} | {o.name for o in self._outputs}
        weights = [
            numpy_helper.from_array(array, key)
            for key, array in self._initializers.items()
            if key in read
        ]
        graph = helper.make_graph(nodes, name, self._inputs, self._outputs, weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = _IR_VERSION
        model.producer_name = "ppcls_lite"
        return model

    def _needed(self) -> list[onnx.NodeProto]:
        """The nodes that an output depends on: a translation may write one for what several do."""
        wanted, kept = {output.name for output in self._outputs}, []
        for node in reversed(self._nodes):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                kept.append(node)
        return kept[::-1]

    # What the translations use.

    def constant(self, value: Any) -> np.ndarray | None:
        """The value if it is known before the network runs."""
        return self._constants.get(value.id)

    def know(self, value: Any, array: np.ndarray) -> None:
        self._constants[value.id] = array

    def name(self, value: Any) -> str:
        """The name in the graph of a value; a known one becomes an initializer."""
        if value.id not in self._names:
            self._names[value.id] = self.weight(self._constants[value.id])
        return self._names[value.id]

    def set_name(self, value: Any, name: str) -> None:
        """`value` is called `name` in the graph from now on."""
        self._names[value.id] = name

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self._initializers)}"
        self._initializers[name] = np.asarray(array, order="C")  # a number stays without axes
        return name

    def node(
        self, kind: str, inputs: list[str], outputs: list[Any] | int = 1, **attributes: Any
    ) -> str:
        """Add a node; `outputs` are the program's values, or how many nameless ones."""
        first = f"{kind.lower()}_{len(self._nodes)}"
        many = range(outputs) if isinstance(outputs, int) else range(len(outputs))
        names = [first if index == 0 else f"{first}_{index}" for index in many]
        made = helper.make_node(kind, inputs, names, name=first, **attributes)
        self._nodes.append(made)
        for index, name in enumerate(names):
            self._makers[name] = made
            if not isinstance(outputs, int):
                self._names[outputs[index].id] = name
        return first

    def only_user_of(self, value: Any, kind: str) -> onnx.NodeProto | None:
        """The `kind` node that makes `value`, if nobody else reads it."""
        made = self._makers.get(self._names.get(value.id, ""))
        alone = made is not None and self._uses[value.id] == 1
        return made if alone and made.op_type == kind else None

    def rename(self, old: Any, new: Any) -> None:
        """`new` is the value that the node of `old` gives from now on."""
        self._names[new.id] = self._names[old.id]

    def lists_rows(self, value: Any) -> None:
        """The first axis of `value` counts something else than the batch."""
        self._rows.add(value.id)

    def parameter(self, op: Any) -> None:
        self.know(op.results()[0], self._parameters[op.attrs()["parameter_name"]])

    def input(self, op: Any) -> None:
        (value,) = op.results()
        name = op.attrs()["name"]
        self._names[value.id] = name
        free = [BATCH, None, "height", "width"]
        shape = [free[i] if size == -1 else size for i, size in enumerate(value.shape)]
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def output(self, op: Any) -> None:
        (value,) = op.operands_source()
        name = self.name(value)
        if name in self._initializers or name in {known.name for known in self._outputs}:
            name = self.node("Identity", [name])
        first = None if value.id in self._rows else BATCH
        free = [first, *[None] * len(value.shape)]
        shape = [free[i] if size == -1 else size for i, size in enumerate(value.shape)]
        kind = helper.np_dtype_to_tensor_dtype(dtype_of(value))
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def scale_weight(self, node: onnx.NodeProto, scale: np.ndarray, shift: np.ndarray) -> None:
        """Fold `scale * y + shift` over output channels into the convolution `node`."""
        weight = self._initializers[node.input[1]]
        shape = (-1,) + (1,) * (weight.ndim - 1)
        self._initializers[node.input[1]] = (weight * scale.reshape(shape)).astype(weight.dtype)
        if len(node.input) > 2:
            shift = self._initializers[node.input[2]] * scale + shift
            self._initializers[node.input[2]] = shift.astype(weight.dtype)
        else:
            node.input.append(self.weight(shift.astype(weight.dtype)))


Translation = Callable[[GraphWriter, Any], None]


def sources(op: Any) -> list[Any]:
    """The values that an operation reads, without the optional ones that are not given."""
    return [value for value in op.operands_source() if value.initialized()]


def dtype_of(value: Any) -> np.dtype:
    """The type of a value's numbers."""
    return numpy_type(value.dtype)


def numpy_type(dtype: Any) -> np.dtype:
    """A type of the program as one of arrays."""
    name = str(dtype).rpartition(".")[2].lower()
    return np.dtype(_TYPES.get(name, name))


_TYPES = {"boolean": "bool", "bool_": "bool"}


def simple(kind: str, **attributes: Any) -> Translation:
    """The translation to one node `kind` with the operation's inputs and outputs."""

    def translate(graph: GraphWriter, op: Any) -> None:
        graph.node(kind, [graph.name(v) for v in sources(op)], op.results(), **attributes)

    return translate


def required(graph: GraphWriter, op: Any, value: Any, what: str) -> np.ndarray:
    """A value that has to be known now; UserError if the network computes it."""
    known = graph.constant(value)
    if known is None:
        raise UserError(f"ONNX: {op.name()} with a computed {what} has no translation")
    return known


def required_numbers(graph: GraphWriter, op: Any, value: Any, what: str) -> list[int]:
    """The same as a list of whole numbers."""
    return [int(number) for number in required(graph, op, value, what).reshape(-1)]


def int64(graph: GraphWriter, *numbers: int) -> str:
    """The name of a constant list."""
    return graph.weight(np.array(numbers, np.int64))
