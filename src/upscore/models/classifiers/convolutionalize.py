"""Conversion of a classifier's fully connected layers to convolutions (FCN section 3.1, figure 2).

A layer that is fully connected to a map of h x w cells is a convolution whose kernel covers that map; the layers after
it are 1x1 convolutions. The weights are unchanged, and the network accepts images of any size.

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
OperationType = Literal["linear", "flatten", "average", "elementwise", "other"]

AVERAGES = (F.adaptive_avg_pool2d, torch.mean, "mean")
FLATTENS = (torch.flatten, torch.reshape, "flatten", "reshape", "view")
ELEMENTWISE = (F.dropout, F.relu, F.gelu, F.silu, F.hardswish, torch.relu, torch.tanh, torch.sigmoid)
ELEMENTWISE_LAYERS = (nn.Dropout, nn.Identity, nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid)


def convolutionalize(classifier: nn.Module, input_size: int | Size = 224, *, pool: bool = True) -> fx.GraphModule:
    """Convert an image classifier to a fully convolutional network that returns a map of logits.

    Networks of torchvision and timm that end in average pooling, flattening and linear layers are supported: VGG,
    AlexNet, ResNet, EfficientNet and similar ones. The classifier is not modified. The result has a copy of its weights
    under the same names; those of converted layers have the shape of a convolution's.

    Images (N, 3, `input_size`) give the classifier's logits, (N, C, 1, 1). Larger images give one cell for each
    position of a window of that size, one stride apart. Where the network pads a window with zeros, the cells of a
    larger image use the pixels around the window. Pooling inside the network, as in squeeze-and-excitation, remains
    global.

    The weights (O, I * h * w) of a linear layer become (O, I, h, w). This is correct for networks that flatten maps in
    the order channel, row, column, as PyTorch does; Keras flattens channels last.

    Args:
        classifier: images (N, 3, H, W) -> logits (N, C).
        input_size: the side, or height and width, of the classifier's training images, at which pooling and the first
            linear layer cover the whole map.
        pool: keep the average pooling over the window. False gives a map of the logits of single cells. If a single
            linear layer follows the pooling, the average of these logits over a window is the window's logit.

    Raises:
        UserError: a layer can't be converted; the message names it.
    """
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    dense = trace(copy.deepcopy(classifier))
    shapes = _shapes(dense, size)
    last_map, head = _head(dense)
    refusal = UserError(
        f"{type(classifier).__name__} can't be converted: only average pooling, flattening and linear layers may "
        f"follow its layer {_name(last_map)}; use a classifier such as resnet50, vgg16 or efficientnet_lite0"
    )
    if len(shapes[last_map.name]) != 4:
        raise refusal
    cells = _cells(shapes, last_map)

    for node in head:
        operation, source = operation_of(dense, node), node.all_input_nodes[0]
        match _operation_type(operation):
            case "average" if _cells(shapes, node) != cells:
                if _cells(shapes, node) != (1, 1):
                    raise UserError(
                        f"layer {_name(node)} does not average over the whole map of images of {size} pixels: give the "
                        "image size of the classifier's training"
                    )
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
    """Convert a linear layer with weights (O, I * h * w) to a convolution (O, I, h, w) over a window of h x w cells."""
    convolution = nn.Conv2d(linear.in_features // (window[0] * window[1]), linear.out_features, window, bias=False)
    convolution.weight = nn.Parameter(linear.weight.detach().reshape(convolution.weight.shape))
    convolution.bias = linear.bias
    return convolution


class _Tracer(fx.Tracer):
    """A tracer that does not enter torch.nn's layers and those that timm marks as untraceable."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.layer = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_notrace_module(type(m)) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m, forward, args, kwargs):
        self.layer = self.path_of_module(m)
        return super().call_module(m, forward, args, kwargs)


def trace(network: nn.Module) -> fx.GraphModule:
    """Trace a network to a graph of its layers, in its present mode (training or evaluation); layers are shared.

    Raises:
        UserError: the control flow of a layer depends on tensor values; the message names it.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(network)
    except (TraceError, TypeError, AttributeError, NotImplementedError) as error:
        raise UserError(f"layer {tracer.layer} of {type(network).__name__} can't be traced: {error}") from error
    return fx.GraphModule(network, graph, type(network).__name__)


def operation_of(network: fx.GraphModule, node: fx.Node) -> object:
    """Return the operation of a node: a layer, a function, or the name of a tensor method."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else node.target


def _operation_type(operation: object) -> OperationType:
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
    """Return the node of the last feature map, and the nodes that compute the logits from it."""
    output = next(node for node in network.graph.nodes if node.op == "output")
    node, head = output.args[0], []
    while isinstance(node, fx.Node) and _operation_type(operation_of(network, node)) != "other":
        head.append(node)
        node = node.args[0]
    if not isinstance(node, fx.Node):
        raise UserError(f"{network._get_name()} returns {node}; it must return a single tensor of logits")
    return node, head[::-1]


def _shapes(network: fx.GraphModule, size: Size) -> dict[str, tuple[int, ...]]:
    """Return node name -> output shape for two images of a size, computed on the meta device."""
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
            raise UserError(f"layer {_name(n)} does not accept images of any size: {error}") from error
        if isinstance(output, torch.Tensor):
            self.shapes[n.name] = tuple(output.shape)
        return output


def _name(node: fx.Node) -> str:
    """Return the name of a node's layer, or of the node itself if it is no layer."""
    return str(node.target) if node.op == "call_module" else node.name


def _cells(shapes: dict[str, tuple[int, ...]], node: fx.Node) -> Size:
    """Return the height and width of a node's output; vectors have one cell."""
    height, width = (*shapes[node.name][2:], 1, 1)[:2]
    return height, width


def _replace(network: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    """Replace a node of the graph by a layer."""
    name = f"{node.name}_window"
    network.add_submodule(name, layer)
    with network.graph.inserting_before(node):
        node.replace_all_uses_with(network.graph.call_module(name, (node.args[0],)))
