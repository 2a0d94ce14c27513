"""Name nodes, values and initializers after Keras layers, in an order that the graph alone decides.

Never changes: anything but names and the order of nodes and initializers. Graph inputs and outputs
keep the names they have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from cnnexport.text import free_name


def depth_first(graph: ir.Graph) -> list[ir.Node]:
    """The nodes in topological order, each as late as its first reader from the outputs allows."""
    order: list[ir.Node] = []
    done: set[ir.Node] = set()
    for output in graph.outputs:
        stack = [(output.producer(), False)]
        while stack:
            node, expanded = stack.pop()
            if node is None or node in done or node.graph is not graph:
                continue
            if expanded:
                done.add(node)
                order.append(node)
                continue
            stack.append((node, True))
            inputs = [v for v in node.inputs if v is not None]
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    for inner in attribute.as_graph().all_nodes():
                        inputs += [v for v in inner.inputs if v is not None]
            stack.extend((v.producer(), False) for v in reversed(inputs))
    return order


class NameAfterLayers(ir.passes.InPlacePass):
    """``layer_of`` maps a node's old name to its Keras layer's path.

    ``roles`` names the initializer at an operator's input. A node of no layer goes with the one before it.
    """

    def __init__(self, layer_of: Callable[[str], str | None], roles: Mapping[str, str]) -> None:
        super().__init__()
        self._layer_of = layer_of
        self._roles = roles

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        order = depth_first(graph)
        fixed = {v.name for v in [*graph.inputs, *graph.outputs] if v.name}
        used: set[str] = set(fixed)

        def unique(name: str) -> str:
            used.add(found := free_name(name, used))
            return found

        graph.remove(order)
        graph.extend(order)
        initializers = list(graph.initializers.values())
        graph.initializers.clear()
        arranged: dict[int, ir.Value] = {}
        layers: dict[ir.Node, str | None] = {}
        for node in order:
            makers = [v.producer() for v in node.inputs if v is not None]
            before = next((m for m in makers if m is not None), None)
            layer = self._layer(node) or (layers.get(before) if before is not None else None)
            layers[node] = layer
            leaving = next((v.name for v in node.outputs if v.is_graph_output()), None)
            # An Identity between an input and an output belongs to no layer.
            owner = layer or leaving
            node.name = unique(f"{owner}/{node.op_type}" if owner else node.op_type)
            for i, value in enumerate(node.outputs):
                if not value.is_graph_output():
                    value.name = node.name if i == 0 else f"{node.name}:{i}"
            nodes = [node]
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    nodes += list(attribute.as_graph().all_nodes())
            for reader in nodes:
                for place, value_in in enumerate(reader.inputs):
                    if value_in is None or id(value_in) in arranged or value_in.const_value is None:
                        continue
                    if value_in.producer() is not None or value_in.graph not in (graph, None):
                        continue
                    arranged[id(value_in)] = value_in
                    role = self._roles.get(f"{reader.op_type}:{place}", f"constant_{place}")
                    value_in.name = unique(f"{layer}/{role}" if layer else role)
                    value_in.const_value.name = value_in.name
        leftover = [v for v in initializers if id(v) not in arranged and v.is_graph_output()]
        for value in [*arranged.values(), *leftover]:
            graph.register_initializer(value)
        return ir.passes.PassResult(model, True)

    def _layer(self, node: ir.Node) -> str | None:
        layer = self._layer_of(node.name or "")
        for value in node.outputs:
            layer = layer or self._layer_of(value.name or "")
        return layer
