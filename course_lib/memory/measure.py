"""Bytes of a real step, counted storage by storage as PyTorch allocates and frees them (CPU or CUDA)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from course_lib.adapters import Adapter
from course_lib.memory.report import MemoryReport
from course_lib.quant import NF4Linear
from course_lib.quant.adamw import BlockAdamW
from course_lib.quant.nf4 import unpacking_tables

_STATES = {"exp_avg": "adam_mean", "exp_avg_sq": "adam_variance"}


def measure(model: nn.Module, step: Callable[[], Any]) -> MemoryReport:
    """Run ``step()`` once and report where its bytes were; frozen parameters are allowed.

    ``step`` does all that one step does: forward, backward, ``optimizer.step()`` (or a forward pass alone).
    Run it once before where the optimiser's states do not exist yet. Every storage counts once, however many
    tensors view it. All that an adapter keeps counts as adapters, and so do the trainable parameters where
    others are frozen. A step that returns a ``KVCache`` has it counted as ``kv_cache``; other results count
    as workspace. States that a ``PagedAdamW`` keeps outside the device are in ``paged`` and in no sum. On
    CUDA the allocator's own peak stands in ``device_peak``.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    tracker = _Tracker(model)
    with ExitStack() as stack:
        handle = register_optimizer_step_pre_hook(tracker.before_optimizer)
        stack.callback(handle.remove)
        stack.enter_context(tracker)
        result = step()
    tracker.finish(result)
    device_peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return tracker.report(device_peak)


class _Tracker(TorchDispatchMode):
    """Sees every operation; knows which storages are alive, what each is for, and when the most were."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.vocab = _vocabulary(model)
        # address of a storage that is alive → its number, since addresses come again
        self.serial: dict[int, int] = {}
        self.size: list[int] = []  # number → bytes
        self.category: dict[int, str] = {}  # number → what it is for
        self.references: dict[int, Any] = {}
        self.total = self.peak = 0
        self.at_peak: set[int] = set()
        self.phase, self.moment = "forward", "forward"
        self.most: dict[str, int] = {}
        self.timeline: list[tuple[str, int]] = []  # live bytes beyond those that existed before the step
        self.existed = 0  # bytes of these
        self.products: set[int] = set()  # gradients of weights, that may be as wide as the vocabulary
        self.more_logits = False
        self.optimizers: list[torch.optim.Optimizer] = []
        self.paged: dict[int, int] = {}  # address of an optimiser's state outside the device → bytes
        self._label_model()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.phase == "forward" and torch._C._current_graph_task_id() != -1:
            self._end_of_forward()
        self._add_all((args, kwargs), existed=True)
        out = func(*args, **(kwargs or {}))
        # the head's gradient is a product with rows as long as the logits' own
        product = self.phase == "backward" and func is torch.ops.aten.mm.default
        self._add_all(out, existed=False, weight_gradient=product)
        self._note(str(func))
        return out

    def add(
        self,
        tensor: Tensor,
        category: str | None = None,
        existed: bool = False,
        weight_gradient: bool = False,
    ) -> None:
        """Count the tensor's storage, once. ``existed``: it was there before the step, so also at the peak
        so far.
        """
        for part in _dense_parts(tensor):
            storage = part.untyped_storage()
            if storage._cdata in self.paged:
                continue
            number = self.serial.get(storage._cdata)
            if number is None:
                number = self._register(storage, existed)
            if weight_gradient:
                self.products.add(number)
            if category is not None:
                self.category[number] = category
            elif number not in self.products and number not in self.category and self._is_logits(part):
                self.category[number] = "logits"
                self.more_logits = True

    def _is_logits(self, tensor: Tensor) -> bool:
        return tensor.ndim > 0 and tensor.shape[-1] == self.vocab and tensor.is_floating_point()

    def before_optimizer(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """The backward pass is over: every gradient is there, and the states are those of earlier steps."""
        self._end_of_forward()
        self.phase = "optimizer step"
        self.optimizers.append(optimizer)
        self._label_states(optimizer)
        self._keep_most()

    def finish(self, result: Any) -> None:
        """After the step: states that a first step has made, and the cache where the step returns one."""
        for optimizer in self.optimizers:
            self._label_states(optimizer)
        for name in ("keys", "values"):
            if isinstance(part := getattr(result, name, None), Tensor):
                self.add(part, "kv_cache")
        self._keep_most()
        self.references.clear()

    def report(self, device_peak: int | None) -> MemoryReport:
        """Sum the storages of the peak by category; what belongs to none was a temporary of that moment."""
        then = self._sums(self.at_peak)
        names = set(then) | set(self.most)
        most = {name: max(then.get(name, 0), self.most.get(name, 0)) for name in names}
        timeline = tuple((name, size + self.existed) for name, size in self.timeline)
        return MemoryReport(most, then, self.moment, timeline, device_peak, sum(self.paged.values()))

    # -- what is what --

    def _label_model(self) -> None:
        parameters = list(self.model.parameters())
        some_frozen = any(p.requires_grad for p in parameters) and not all(
            p.requires_grad for p in parameters
        )
        for parameter in parameters:
            self.add(
                parameter, "adapters" if some_frozen and parameter.requires_grad else "weights", existed=True
            )
            if parameter.grad is not None:
                self.add(parameter.grad, "gradients", existed=True)
            if parameter.requires_grad:
                hook = parameter.register_post_accumulate_grad_hook(self._label_gradient)
                self.references[-id(parameter)] = hook
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                self.add(buffer, _kind(module, name), existed=True)
            if isinstance(module, NF4Linear):
                for table in unpacking_tables(module.quantized):
                    self.add(table, "quantization_constants", existed=True)

    def _label_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.add(parameter.grad, "gradients")

    def _label_states(self, optimizer: torch.optim.Optimizer) -> None:
        for parameter, state in optimizer.state.items():
            paged = isinstance(optimizer, BlockAdamW) and optimizer.outside(parameter)
            for name, value in state.items():
                if paged and name != "step":
                    self._page_out(value)
                elif isinstance(value, Tensor):
                    self.add(value, _STATES.get(name, "optimizer_other"), existed=True)

            for table in optimizer.tables(parameter.device) if isinstance(optimizer, BlockAdamW) else ():
                self.add(table, "optimizer_other", existed=True)

    def _page_out(self, state: Tensor) -> None:
        """Bytes that are not on the device: counted apart, and in no sum."""
        storage = state.untyped_storage()
        if storage._cdata not in self.paged:
            self.paged[storage._cdata] = storage.nbytes()
            if (number := self.serial.get(storage._cdata)) is not None:  # made in this very step
                self.total -= self.size[number]
                self.size[number] = 0

    def _end_of_forward(self) -> None:
        """What is alive now and belongs to nothing else was saved for the backward pass."""
        if self.phase == "forward":
            self.phase = "backward"
            for number in self.serial.values():
                self.category.setdefault(number, "activations")
            self._keep_most()

    # -- what is alive --

    def _add_all(self, tree: Any, existed: bool, weight_gradient: bool = False) -> None:
        for tensor in tree_leaves(tree):
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                self.add(tensor, existed=existed, weight_gradient=weight_gradient)

    def _register(self, storage: torch.UntypedStorage, existed: bool) -> int:
        number, address = len(self.size), storage._cdata
        self.serial[address] = number
        self.size.append(storage.nbytes())
        self.total += storage.nbytes()
        self.references[address] = weakref.ref(storage, lambda _: self._free(address, number))
        if existed:
            self.peak += storage.nbytes()
            self.at_peak.add(number)
            self.existed += storage.nbytes()
        return number

    def _free(self, address: int, number: int) -> None:
        if self.serial.get(address) == number:
            del self.serial[address]
            self.total -= self.size[number]

    def _note(self, operation: str) -> None:
        self.timeline.append((f"{self.phase}: {operation}", self.total - self.existed))
        if self.more_logits:  # the loss is the one place where they are most, in no other category's moment
            self.more_logits = False
            self._keep_most()
        if self.total > self.peak:
            self.peak, self.moment = self.total, self.phase
            self.at_peak = set(self.serial.values())

    def _keep_most(self) -> None:
        for name, size in self._sums(self.serial.values()).items():
            if name != "workspace":
                self.most[name] = max(size, self.most.get(name, 0))

    def _sums(self, numbers: Iterable[int]) -> dict[str, int]:
        sums: dict[str, int] = {}
        for number in numbers:
            name = self.category.get(number, "workspace")
            sums[name] = sums.get(name, 0) + self.size[number]
        return sums


def _kind(module: nn.Module, buffer: str) -> str:
    """The category of a module's buffer."""
    if isinstance(module, NF4Linear) and buffer != "packed":
        return "quantization_constants"
    return "adapters" if isinstance(module, Adapter) else "weights"


def _dense_parts(tensor: Tensor) -> Iterable[Tensor]:
    """A tensor subclass (a quantised weight, say) is made of plain tensors; those hold the bytes."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _dense_parts(getattr(tensor, name))
    else:
        yield tensor


def _vocabulary(model: nn.Module) -> int:
    """The length of a row of logits; −1 where the model does not say."""
    for holder in (getattr(model, "architecture", None), getattr(model, "config", None)):
        for name in ("vocab", "vocab_size"):
            if isinstance(size := getattr(holder, name, None), int):
                return size
    return -1
