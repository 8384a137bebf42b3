"""The fully connected layers of a classifier are converted to convolutions (FCN section 3.1, figure 2).

A layer that is fully connected to a map of h x w cells is a convolution whose kernel covers that map; the layers after
it are 1x1 convolutions. Nothing is learned anew, and the network slides over images of any size.

N images, C classes, O outputs, I inputs, h w cells of a map, H W pixels.
"""

from __future__ import annotations

import copy
from itertools import chain
from typing import Literal

import torch
from timm.models import get_notrace_functions, is_notrace_module
from torch import fx, nn
from torch.fx.proxy import TraceError
from torch.nn import functional as F

from upscore.errors import UserError

Size = tuple[int, int]
Kind = Literal["linear", "flatten", "average", "elementwise", "other"]

AVERAGES = (F.adaptive_avg_pool2d, torch.mean, "mean")
FLATTENS = (torch.flatten, torch.reshape, "flatten", "reshape", "view")
ELEMENTWISE = (F.dropout, F.relu, F.gelu, F.silu, F.hardswish, torch.relu, torch.tanh, torch.sigmoid)
ELEMENTWISE_LAYERS = (nn.Dropout, nn.Identity, nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid)


def convolutionalize(classifier: nn.Module, input_size: int | Size = 224, *, pool: bool = True) -> fx.GraphModule:
    """Turn an image classifier into a network that gives a map of its logits.

    Takes the networks of torchvision and timm that end in average pooling, flattening and linear layers: VGG, AlexNet,
    ResNet, EfficientNet and their like. The classifier itself is left alone: the result has weights of its own, under
    the same names, those of a converted layer in the shape of a convolution's.

    Images (N, 3, `input_size`) give (N, C, 1, 1), the classifier's own logits. Larger ones give a cell for each place
    where a window of that size can stand, a stride apart; where the network pads, a cell sees the window's surroundings
    in place of the zeros. Pooling inside the network, as in squeeze-and-excitation, stays global.

    A linear layer's (O, I * h * w) weights become (O, I, h, w), which is right for networks that flatten their maps in
    the order channel, row, column, as PyTorch's do; Keras flattens the channels last.

    Args:
        input_size: the side, or height and width, of the images that the classifier was trained on. It is the size at
            which pooling and the first linear layer see the whole map.
        pool: without it the average over the window is left out, and each cell is judged by itself: a finer map. Where
            one linear layer follows, the average of its logits over a window is the window's own.

    Raises:
        UserError: a layer can't be converted; it is named.
    """
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    dense = trace(copy.deepcopy(classifier))
    shapes = _shapes(dense, size)
    last_map, head = _head(dense)
    refusal = UserError(
        f"{type(classifier).__name__} can't be made convolutional: after its layer {_name(last_map)} should come "
        "average pooling, flattening and linear layers, and before it none of them"
    )
    if len(shapes[last_map.name]) != 4:
        raise refusal
    cells = _cells(shapes, last_map)

    for node in head:
        operation, source = operation_of(dense, node), node.all_input_nodes[0]
        match _kind(operation):
            case "average" if _cells(shapes, node) != cells:
                if _cells(shapes, node) != (1, 1):
                    raise UserError(f"layer {_name(node)} is no average over the whole map for images of {size} pixels")
                if pool:
                    _replace(dense, node, nn.AvgPool2d(cells, stride=1))
                else:
                    node.replace_all_uses_with(source)
                cells = (1, 1)
            case "average" | "flatten":
                node.replace_all_uses_with(source)
            case "linear":
                assert isinstance(operation, nn.Linear)
                dense.set_submodule(str(node.target), linear_to_conv(operation, cells))
                cells = (1, 1)

    dense.graph.eliminate_dead_code()
    dense.delete_all_unused_submodules()
    dense.recompile()
    output = _shapes(dense, (2 * size[0], 2 * size[1]))["output"]
    if len(output) != 4 or output[-2:] == (1, 1):
        raise refusal
    return dense


def linear_to_conv(linear: nn.Linear, window: Size) -> nn.Conv2d:
    """The same layer with its (O, I * h * w) weights laid out as kernels (O, I, h, w) over a window of h x w cells."""
    convolution = nn.Conv2d(linear.in_features // (window[0] * window[1]), linear.out_features, window, bias=False)
    convolution.weight = nn.Parameter(linear.weight.detach().reshape(convolution.weight.shape))
    convolution.bias = linear.bias
    return convolution


class _Tracer(fx.Tracer):
    """Looks into every layer but torch.nn's own and those that timm knows to be untraceable."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.layer = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_notrace_module(type(m)) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m, forward, args, kwargs):
        self.layer = self.path_of_module(m)
        return super().call_module(m, forward, args, kwargs)


def trace(network: nn.Module) -> fx.GraphModule:
    """The network as a graph of layers, which are the network's own, in the mode (training, evaluation) that it is in.

    Raises:
        UserError: what a layer does depends on the values it is given; it is named.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(network)
    except (TraceError, TypeError, AttributeError, NotImplementedError) as error:
        raise UserError(f"layer {tracer.layer} of {type(network).__name__} can't be traced: {error}") from error
    return fx.GraphModule(network, graph, type(network).__name__)


def operation_of(network: fx.GraphModule, node: fx.Node) -> object:
    """What a node does: a layer, a function, or the name of a tensor's method."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else node.target


def _kind(operation: object) -> Kind:
    if isinstance(operation, nn.Linear):
        return "linear"
    if isinstance(operation, nn.Flatten) or operation in FLATTENS:
        return "flatten"
    if isinstance(operation, nn.AdaptiveAvgPool2d) or operation in AVERAGES:
        return "average"
    if isinstance(operation, ELEMENTWISE_LAYERS) or operation in ELEMENTWISE:
        return "elementwise"
    return "other"


def _head(network: fx.GraphModule) -> tuple[fx.Node, list[fx.Node]]:
    """The last map of features, and what makes logits of it: all that a classifier has after its convolutions."""
    output = next(node for node in network.graph.nodes if node.op == "output")
    node, head = output.args[0], []
    while isinstance(node, fx.Node) and _kind(operation_of(network, node)) != "other":
        head.append(node)
        node = node.args[0]
    if not isinstance(node, fx.Node):
        raise UserError(f"{network._get_name()} gives {node}, not one tensor of logits")
    return node, head[::-1]


def _shapes(network: fx.GraphModule, size: Size) -> dict[str, tuple[int, ...]]:
    """Node -> the shape of its output for two images of a size; nothing is computed, and no statistics change."""
    without_data = {id(t): t.detach().to("meta") for t in chain(network.parameters(), network.buffers())}
    recorder = _ShapeRecorder(copy.deepcopy(network, without_data))
    dtype = next(network.parameters()).dtype
    recorder.run(torch.zeros(2, 3, *size, device="meta", dtype=dtype))
    return recorder.shapes


class _ShapeRecorder(fx.Interpreter):
    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.extra_traceback = False
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> object:
        try:
            output = super().run_node(n)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise UserError(f"layer {_name(n)} does not take images of every size: {error}") from error
        if isinstance(output, torch.Tensor):
            self.shapes[n.name] = tuple(output.shape)
        return output


def _name(node: fx.Node) -> str:
    """What a user knows a node by: a layer's own name wherever there is one."""
    return str(node.target) if node.op == "call_module" else node.name


def _cells(shapes: dict[str, tuple[int, ...]], node: fx.Node) -> Size:
    """Height and width of a node's output; vectors are maps of one cell."""
    height, width = (*shapes[node.name][2:], 1, 1)[:2]
    return height, width


def _replace(network: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    """Let a layer do what a node did."""
    name = f"{node.name}_window"
    network.add_submodule(name, layer)
    with network.graph.inserting_before(node):
        node.replace_all_uses_with(network.graph.call_module(name, (node.args[0],)))
