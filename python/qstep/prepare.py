"""prepare: from a float network to one with quantizers.

The network is traced with ``torch.fx``. Each operation is one of four kinds: a *layer* that makes new values and so gets a quantized module
of its own, with batch norm and a ReLU behind it fused; a *movement* that keeps values and grids (max pooling, view, chunk, ...) and
stays as it is; an operation on sizes; or unsupported, which is an error that names the place and what to do.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as tF
from torch import Tensor, fx, nn

from . import nn as qnn
from .config import QConfig
from .operations import (
    ADD,
    CONCAT,
    MEAN,
    MULTIPLY,
    SIZES,
    ShapesAndSizes,
    UnsupportedError,
    activation_of,
    arguments_of,
    is_dropout,
    is_movement,
    padding_of,
    pair,
)
from .quantizers import ACTIVATION_METHODS, WEIGHT_METHODS, ActivationQuantizer, WeightQuantizer


class _Preparation:
    """One run of prepare over one traced network."""

    def __init__(self, root: fx.GraphModule, config: QConfig) -> None:
        self.root = root
        self.graph = root.graph
        self.config = config
        self.modules = dict(root.named_modules())
        self.quantizer_of: dict[fx.Node, ActivationQuantizer] = {}  # of every node whose value lies on a grid
        self.noisy: set[fx.Node] = set()  # values that a dropout moves off their grid in training
        self.call_sites: dict[str, list[qnn.AffineLayer]] = {}  # layers made of one module of the float network
        self.replaced: set[str] = set()
        order = [
            n
            for n in self.graph.nodes
            if n.op == "call_module" and isinstance(self.modules[str(n.target)], nn.Conv2d | nn.Linear)
        ]
        self.first = order[0] if order else None
        self.last = order[-1] if order else None

    def unsupported(self, node: fx.Node, reason: str, advice: str) -> UnsupportedError:
        what = (
            f"{node.op} {node.target}"
            if node.op != "call_module"
            else f"{node.target} ({type(self.modules[str(node.target)]).__name__})"
        )
        where = ""
        if node.meta.get("nn_module_stack"):
            where = " in " + (list(node.meta["nn_module_stack"].keys())[-1] or "the network itself")
        return UnsupportedError(f"prepare: {what}, node '{node.name}'{where}: {reason}. {advice}")

    # --- reading the graph ---

    def tensor_inputs(self, node: fx.Node) -> list[fx.Node]:
        return [n for n in node.all_input_nodes if "tensor_meta" in n.meta]

    def is_tensor(self, node: Any) -> bool:
        return isinstance(node, fx.Node) and "tensor_meta" in node.meta

    def shape(self, node: fx.Node) -> torch.Size:
        return node.meta["tensor_meta"].shape

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def is_movement(self, node: fx.Node) -> bool:
        return is_movement(node, self.module(node))

    def single_user(self, node: fx.Node) -> fx.Node | None:
        return next(iter(node.users)) if len(node.users) == 1 else None

    def consumers(self, node: fx.Node) -> list[fx.Node]:
        """Nodes that compute with the value, seen through movements."""
        found = []
        for user in node.users:
            if self.is_movement(user):
                found += self.consumers(user)
            elif user.op == "output" or "tensor_meta" in user.meta:
                found.append(user)
        return found

    # --- making quantizers ---

    def activation_bits(self, node: fx.Node, path: str) -> int:
        """Width of the tensor `node`, which `path` makes: what its consumers need."""
        override = self.config.override(path, "act_bits")
        if override is not None:
            return override
        bits = self.config.activation.bit_width
        consumers = self.consumers(node)
        if self.first in consumers and self.config.first_layer_bits is not None:
            bits = max(bits, self.config.first_layer_bits)
        if self.last in consumers and self.config.last_layer_bits is not None:
            bits = max(bits, self.config.last_layer_bits)
        if consumers and all(self._is_table(c) for c in consumers):
            bits = max(bits, self.config.preactivation_bits)
        if all(c.op == "output" for c in consumers):
            bits = max(bits, self.config.last_layer_bits or bits)
        return bits

    def _is_table(self, node: fx.Node) -> bool:
        activation = activation_of(node, self.modules)
        return activation is not None and activation.clamp is None

    def output_quantizer(self, node: fx.Node, path: str, nonnegative: bool) -> ActivationQuantizer:
        scheme = self.config.override(path, "activation") or self.config.activation.with_bits(
            self.activation_bits(node, path)
        )
        quantizer = ACTIVATION_METHODS[scheme.method](scheme.bit_width, nonnegative, **scheme.options)
        quantizer.path = f"{path}.output_quantizer"
        return quantizer

    def weight_quantizer(self, node: fx.Node, weight: Tensor, path: str) -> WeightQuantizer:
        bits = self.config.override(path, "weight_bits")
        if bits is None and node is self.first:
            bits = self.config.first_layer_bits
        if bits is None and node is self.last:
            bits = self.config.last_layer_bits
        scheme = self.config.override(path, "weight") or self.config.weight.with_bits(bits)
        quantizer = WEIGHT_METHODS[scheme.method](scheme.bit_width, weight.shape, **scheme.options)
        quantizer.path = f"{path}.weight_quantizer"
        return quantizer

    # --- putting layers in ---

    def free_name(self, wanted: str, *, replaces: bool = False) -> str:
        """A module name that nothing has; ``replaces`` says that the float module of that name is what the new one stands for."""
        name, count = wanted, 0
        while name in self.replaced or (name in self.modules and not (replaces and name == wanted)):
            count += 1
            name = f"{wanted}_{count}"
        self.replaced.add(name)
        return name

    def insert(self, node: fx.Node, layer: qnn.Layer, path: str, inputs: Sequence[fx.Node], last: fx.Node) -> None:
        """Replaces `last`, the end of the chain that starts at `node`, by a call of `layer`."""
        layer.path = path
        layer.policy = self.config.requantization
        self._set_module(path, layer)
        with self.graph.inserting_before(last):
            call = self.graph.call_module(path, tuple(inputs))
        call.meta = dict(last.meta)
        last.replace_all_uses_with(call)
        while True:
            parent = last.all_input_nodes[0] if last is not node else None
            self.graph.erase_node(last)
            if parent is None:
                break
            last = parent
        if layer.output_quantizer is not None:
            self.quantizer_of[call] = layer.output_quantizer

    def _set_module(self, path: str, module: nn.Module) -> None:
        parent: nn.Module = self.root
        *parents, leaf = path.split(".")
        for name in parents:
            if not hasattr(parent, name):
                parent.add_module(name, nn.Module())
            parent = getattr(parent, name)
        setattr(parent, leaf, module)

    def fuse_activation(self, node: fx.Node) -> tuple[fx.Node, qnn.Activation | None]:
        """The end of the chain when a ReLU-like function follows `node` and nobody else reads it."""
        user = self.single_user(node)
        activation = activation_of(user, self.modules) if user is not None else None
        return (user, activation) if user is not None and activation is not None and activation.clamp else (node, None)

    def grids(self, node: fx.Node, inputs: Sequence[fx.Node]) -> list[ActivationQuantizer]:
        for source in inputs:
            if source not in self.quantizer_of:
                raise self.unsupported(
                    node,
                    f"its input '{source.name}' is not a quantized tensor",
                    "Constants and float tensors cannot enter a quantized layer",
                )
        return [self.quantizer_of[source] for source in inputs]

    # --- one function per kind of node ---

    def quantize_input(self, node: fx.Node) -> None:
        if not self.is_tensor(node):
            return
        users = list(node.users)
        path = self.free_name(f"{node.name}_quantizer")
        quantizer = self.output_quantizer(node, path, nonnegative=self.config.nonnegative_input)
        quantizer.hold_real_values(entering=True)
        layer = qnn.Quantize(quantizer)
        layer.path = path
        layer.policy = self.config.requantization
        self.root.add_module(path, layer)
        with self.graph.inserting_after(node):
            call = self.graph.call_module(path, (node,))
        call.meta = dict(node.meta)
        for user in users:
            user.replace_input_with(node, call)
        self.quantizer_of[call] = layer.output_quantizer  # type: ignore[assignment]

    def affine(self, node: fx.Node, module: nn.Conv2d | nn.Linear) -> None:
        inputs = self.tensor_inputs(node)
        (grid,) = self.grids(node, inputs)
        if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
            raise self.unsupported(
                node, f"padding_mode '{module.padding_mode}'", "Only zero padding has an integer definition here"
            )
        target = str(node.target)
        path = self.free_name(target, replaces=True)
        last, batch_norm = node, None
        user = self.single_user(node)
        norm = {4: nn.BatchNorm2d, 2: nn.BatchNorm1d}.get(len(self.shape(node)), ())
        if user is not None and isinstance(self.module(user), norm):
            last, batch_norm = user, self.module(user)
        last, activation = self.fuse_activation(last)
        earlier = self.call_sites.setdefault(target, [])
        for other in earlier:
            if other.batch_norm is not batch_norm and other.fold:
                raise self.unsupported(
                    node, "a shared layer with different batch norms cannot be folded", "Use batch_norm='absorb'"
                )
        weight_quantizer = earlier[0].weight_quantizer if earlier else self.weight_quantizer(node, module.weight, path)
        direct_output = all(c.op == "output" for c in last.users)
        output = (
            None
            if direct_output and activation is None
            else self.output_quantizer(last, path, nonnegative=activation is not None and activation.nonnegative)
        )
        options: dict[str, Any] = {"batch_norm": batch_norm, "activation": activation}
        options["fold"] = batch_norm is not None and self.config.batch_norm == "fold"
        options["fold_batch"] = self.config.batch_norm == "fold_batch"
        layer: qnn.AffineLayer
        if isinstance(module, nn.Conv2d):
            layer = qnn.Conv2d(
                module.weight, module.bias, grid, weight_quantizer, output,
                stride=pair(module.stride), padding=padding_of(module), dilation=pair(module.dilation), groups=module.groups, **options,
            )  # fmt: skip
        else:
            layer = qnn.Linear(module.weight, module.bias, grid, weight_quantizer, output, **options)
        layer.noisy_input = inputs[0] in self.noisy
        earlier.append(layer)
        self.insert(node, layer, path, inputs, last)

    def simple(
        self, node: fx.Node, make: Callable[..., qnn.Layer], inputs: Sequence[fx.Node], nonnegative: bool = False
    ) -> None:
        """A layer without weights: add, multiply, pool; a following ReLU is fused."""
        grids = self.grids(node, inputs)
        last, activation = self.fuse_activation(node)
        path = self.free_name(node.name)
        nonnegative = activation.nonnegative if activation else nonnegative
        quantizer = self.output_quantizer(last, path, nonnegative)
        try:
            layer = make(grids, quantizer, activation)
        except NotImplementedError as error:
            raise self.unsupported(node, str(error), "Leave it out of the prepared part") from None
        self.insert(node, layer, path, inputs, last)

    def binary(self, node: fx.Node, kind: type[qnn.Layer]) -> None:
        args, kwargs = arguments_of(node)
        operands = list(args[:2]) + [kwargs[k] for k in ("input", "other") if k in kwargs]
        if not all(self.is_tensor(o) for o in operands):
            raise self.unsupported(
                node, "one operand is a number or a constant tensor", "Fold the constant into a neighbouring layer"
            )
        if node.kwargs.get("alpha", 1) != 1:
            raise self.unsupported(node, f"alpha={node.kwargs['alpha']}", "Fold the factor into a neighbouring layer")
        left, right = operands
        if self.shape(left) != self.shape(node):
            left, right = right, left
        if self.shape(left) != self.shape(node):
            raise self.unsupported(node, f"both operands are broadcast, {tuple(self.shape(left))} and {tuple(self.shape(right))}",
                                   "One operand must have the shape of the result")  # fmt: skip
        self.simple(node, kind, (left, right), self._sign(left) and self._sign(right))

    def _sign(self, node: fx.Node) -> bool:
        """Whether the quantizer of the node's value has unsigned codes."""
        quantizer = self.quantizer_of.get(node)
        return quantizer is not None and quantizer.quant_min == 0

    def average(self, node: fx.Node) -> bool:
        """Average pools and means over height and width. Returns whether the node is one."""
        module = self.module(node)
        args, kwargs = arguments_of(node)
        x = args[0] if args else kwargs.get("input")
        arguments: dict[str, Any]
        if isinstance(module, nn.AvgPool2d):
            arguments = {
                k: getattr(module, k)
                for k in ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
            }
        elif node.op == "call_function" and node.target in (tF.avg_pool2d, torch._C._nn.avg_pool2d):
            names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
            arguments = {**dict(zip(names, args[1:], strict=False)), **kwargs}
        elif isinstance(module, nn.AdaptiveAvgPool2d) or node.target is tF.adaptive_avg_pool2d:
            size = module.output_size if module is not None else (args[1] if len(args) > 1 else kwargs["output_size"])
            sizes = (size, size) if isinstance(size, int) or size is None else tuple(size)  # type: ignore[arg-type]
            sizes = tuple(s or 0 for s in sizes)
            self._adaptive_pool(node, x, sizes)
            return True
        elif node.target in MEAN and node.op != "call_module":
            self._mean(node)
            return True
        else:
            return False
        divisor = arguments.get("divisor_override")
        if divisor is not None and not 1 <= divisor < 2**31:
            raise self.unsupported(node, f"divisor_override={divisor}", "Use a positive one")
        kernel = pair(arguments["kernel_size"])
        stride, padding = arguments.get("stride") or kernel, arguments.get("padding", 0)
        options: dict[str, Any] = {"kernel": kernel, "stride": pair(stride), "padding": pair(padding), "ceil_mode": bool(arguments.get("ceil_mode", False)),
                   "count_include_pad": bool(arguments.get("count_include_pad", True)), "divisor_override": divisor}  # fmt: skip
        kind = qnn.AvgPool2d
        if self._shift_only:
            if options["ceil_mode"] or (any(options["padding"]) and not options["count_include_pad"]):
                raise self.unsupported(
                    node,
                    "average pooling over windows of differing sizes",
                    "F8Net divides all sums by one power of two",
                )
            kind = qnn.ShiftAvgPool2d
        self._pool(node, x, lambda g, q, a: kind(g, q, a, **options))
        return True

    def _adaptive_pool(self, node: fx.Node, x: Any, sizes: tuple[int, ...]) -> None:
        if not self._shift_only:
            self._pool(node, x, lambda g, q, a: qnn.AdaptiveAvgPool2d(g, q, a, output_size=sizes))
            return
        kernel = []
        for size, outputs in zip(self.shape(x)[-2:], sizes, strict=True):
            if outputs and size % outputs:
                raise self.unsupported(
                    node, f"adaptive average pooling of {size} to {outputs}", "F8Net needs windows of one size"
                )
            kernel.append(size // outputs if outputs else 1)
        options = {"kernel": kernel, "stride": kernel, "padding": (0, 0)}
        self._pool(node, x, lambda g, q, a: qnn.ShiftAvgPool2d(g, q, a, **options))

    @property
    def _shift_only(self) -> bool:
        return self.config.requantization == "shift"

    def _pool(self, node: fx.Node, x: Any, make: Callable[..., qnn.Layer]) -> None:
        if not self.is_tensor(x) or len(self.shape(x)) != 4:
            raise self.unsupported(node, "pooling needs a 4-dimensional tensor [N, C, H, W]", "Add the batch dimension")
        self.simple(node, make, (x,), self._sign(x))

    def _mean(self, node: fx.Node) -> None:
        args, kwargs = arguments_of(node)
        x = args[0]
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        keep = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
        dims = [dims] if isinstance(dims, int) else dims
        if not self.is_tensor(x) or dims is None or len(self.shape(x)) != 4 or sorted(d % 4 for d in dims) != [2, 3]:  # type: ignore[union-attr]
            raise self.unsupported(
                node, "a mean over other dimensions than height and width", "Use mean((2, 3)) or adaptive_avg_pool2d"
            )
        if not keep:
            with self.graph.inserting_after(node):
                flat = self.graph.call_function(torch.flatten, (node, 1))
            flat.meta = dict(node.meta)
            node.replace_all_uses_with(flat, delete_user_cb=lambda user: user is not flat)
            node.meta["tensor_meta"] = node.meta["tensor_meta"]._replace(shape=torch.Size((*self.shape(x)[:2], 1, 1)))
        self._adaptive_pool(node, x, (1, 1))
        if not keep:
            self.movement(flat)

    def concat(self, node: fx.Node) -> None:
        args, kwargs = arguments_of(node)
        tensors = args[0] if args else kwargs["tensors"]
        axis = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
        if not all(self.is_tensor(t) for t in tensors):  # type: ignore[union-attr]
            raise self.unsupported(
                node, "it concatenates something that is not a tensor of the network", "Concatenate activations only"
            )
        inputs = list(tensors)  # type: ignore[arg-type]
        grids = self.grids(node, inputs)
        path = self.free_name(node.name)
        quantizer = self.output_quantizer(node, path, all(self._sign(t) for t in inputs))
        self.insert(node, qnn.Concat(grids, quantizer, int(axis)), path, inputs, node)  # type: ignore[arg-type]

    def follow_mode(self, node: fx.Node) -> fx.Node:
        """Puts a module in place of a dropout function."""
        args, kwargs = arguments_of(node)
        function: Any = node.target
        bound = inspect.signature(function).bind(*args, **kwargs).arguments
        source, *_ = bound.values()
        arguments = {k: v for k, v in list(bound.items())[1:] if k != "training"}
        path = self.free_name(node.name)
        self._set_module(path, qnn.RandomDrop(function, arguments))
        with self.graph.inserting_before(node):
            call = self.graph.call_module(path, (source,))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        self.graph.erase_node(node)
        return call

    def pad(self, node: fx.Node) -> fx.Node:
        """Puts a :class:`qstep.nn.Pad` in place of a padding with zeros."""
        module = self.module(node)
        (source,) = self.tensor_inputs(node)
        if module is not None:
            padding, mode, value = module.padding, "constant", getattr(module, "value", 0)
        else:
            args, kwargs = arguments_of(node)
            bound = inspect.signature(tF.pad).bind(*args, **kwargs)
            bound.apply_defaults()
            padding, mode, value = (bound.arguments[k] for k in ("pad", "mode", "value"))
        if mode != "constant" or value not in (None, 0, 0.0):
            raise self.unsupported(node, f"padding with mode '{mode}', value {value}", "Only padding with zeros has an integer definition here")  # fmt: skip
        path = self.free_name(str(node.target), replaces=True) if module is not None else self.free_name(node.name)
        self._set_module(path, qnn.Pad(self.quantizer_of[source], padding))  # type: ignore[arg-type]
        with self.graph.inserting_before(node):
            call = self.graph.call_module(path, (source,))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        self.graph.erase_node(node)
        self.modules[path] = self.root.get_submodule(path)
        return call

    def movement(self, node: fx.Node) -> None:
        """The value keeps its grid. Parts of a tuple (chunk, split) share it."""
        sources = [n for n in node.all_input_nodes if n in self.quantizer_of]
        if not sources:
            return  # sizes
        module = self.module(node)
        if is_dropout(node, module):
            node = self.follow_mode(node) if module is None else node
            self.noisy.add(node)
        elif sources[0] in self.noisy:
            self.noisy.add(node)
        if isinstance(module, nn.ZeroPad2d | nn.ConstantPad2d) or node.target is tF.pad:
            node = self.pad(node)
        if isinstance(module, nn.MaxPool2d) and module.return_indices:
            raise self.unsupported(node, "return_indices", "Indices have no integer definition here")
        self.quantizer_of[node] = self.quantizer_of[sources[0]]

    def run(self) -> fx.GraphModule:
        for node in list(self.graph.nodes):
            if node not in self.graph.nodes or node.op in ("output", "get_attr"):
                continue
            self._dispatch(node)
        for node in self.graph.find_nodes(op="output"):
            for source in node.all_input_nodes:
                self._leave_network(source)
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.root.delete_all_unused_submodules()
        self.root.recompile()
        return self.root

    def _check_fixed_point(self, node: fx.Node, activation: qnn.Activation | None) -> None:
        advice = "F8Net defines convolutions, linear layers, batch norm and ReLU behind them, additions, pooling and movements"
        if activation is not None:
            raise self.unsupported(node, "a table of a function has no fixed-point definition", advice)
        if node.target in CONCAT or (node.op != "call_module" and node.target in MULTIPLY):
            raise self.unsupported(node, "the operands' clipping levels differ", advice)

    def _leave_network(self, source: fx.Node) -> None:
        layer = self.root.get_submodule(str(source.target)) if source.op == "call_module" else None
        if source not in self.quantizer_of or (isinstance(layer, qnn.Layer) and layer.output_quantizer is None):
            return
        try:
            self.quantizer_of[source].hold_real_values(entering=False)
        except NotImplementedError as error:
            raise self.unsupported(source, str(error), "Let a convolution or linear layer follow") from None

    def _dispatch(self, node: fx.Node) -> None:
        module = self.module(node)
        activation = activation_of(node, self.modules)
        if self._shift_only and self.is_tensor(node):
            self._check_fixed_point(node, activation)
        if node.op == "placeholder":
            self.quantize_input(node)
        elif not any(n in self.quantizer_of for n in node.all_input_nodes):
            if self.is_tensor(node):
                raise self.unsupported(
                    node, "it does not depend on the input of the network", "Compute constants before prepare"
                )
        elif isinstance(module, nn.Conv2d | nn.Linear):
            self.affine(node, module)
        elif activation is not None:
            self.simple(
                node,
                lambda g, q, _: qnn.Elementwise(g, q, activation),
                self.tensor_inputs(node),
                activation.nonnegative,
            )
        elif node.op != "call_module" and node.target in ADD and self.is_tensor(node):
            self.binary(node, qnn.Add)
        elif node.op != "call_module" and node.target in MULTIPLY and self.is_tensor(node):
            self.binary(node, qnn.Multiply)
        elif node.target in CONCAT:
            self.concat(node)
        elif self.average(node):
            pass
        elif self.is_movement(node):
            self.movement(node)
        elif node.target in SIZES or not self.is_tensor(node):
            pass  # sizes and arithmetic on them
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise self.unsupported(
                node,
                "batch norm that does not directly follow a convolution or linear layer",
                "Move it behind one, or remove it",
            )
        else:
            raise self.unsupported(
                node,
                "no integer definition",
                "Replace it by a supported operation (docs/supported-operations.md) or leave it out of the prepared part",
            )


def prepare(model: nn.Module, config: QConfig, example_inputs: tuple[Any, ...]) -> fx.GraphModule:
    """A trainable network with quantizers, for :func:`qstep.calibrate` and your own training loop.

    Args:
        model: float network of the operations in ``docs/supported-operations.md``; left as it was.
        config: methods and bit widths.
        example_inputs: arguments of one call, to learn shapes from.

    Returns:
        A ``torch.fx.GraphModule`` whose layers are :mod:`qstep.nn` modules under the names they had. A batch norm moves into the layer it
        follows, as ``<layer>.batch_norm``.

    Raises:
        UnsupportedError: an operation has no integer definition; the message names it, its place and what to do.
    """
    if not isinstance(config, QConfig):
        raise TypeError(f"prepare: config must be a qstep.QConfig, got {type(config).__name__}")
    if not isinstance(example_inputs, tuple | list):
        raise TypeError(f"prepare: example_inputs must be a tuple of arguments, got {type(example_inputs).__name__}")
    try:
        traced = fx.symbolic_trace(copy.deepcopy(model))
    except (fx.proxy.TraceError, TypeError) as error:
        raise UnsupportedError(
            f"prepare: {type(model).__name__} cannot be traced with torch.fx: {error}. Make control flow independent of tensor values"
        ) from error
    training = traced.training
    traced.eval()
    with torch.no_grad():
        ShapesAndSizes(traced).propagate(*example_inputs)
    traced.train(training)
    prepared = _Preparation(traced, config).run()
    return prepared.train(training)
