"""The part of the account that no batch changes: weights, and what every trainable parameter brings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from course_lib.adapters import Spec
from course_lib.adapters.base import Footprint
from course_lib.catalog import Architecture
from course_lib.quant.adamw import CUDA_PAGE, PAGE, STATE_BLOCK
from course_lib.quant.blockwise import CHUNK
from course_lib.quant.nf4 import SECOND_BLOCK


class Policy(NamedTuple):
    """Bytes of one number of each kind."""

    weight: int
    gradient: int
    state: int  # one of Adam's two
    master: int  # fp32 copy of a trainable weight
    activation: int


DTYPES: dict[str, Policy] = {
    "fp32": Policy(4, 4, 4, 0, 4),
    "bf16": Policy(2, 2, 4, 0, 2),  # 16-bit weights and gradients, fp32 Adam: 12 bytes a parameter
    "fp16": Policy(2, 2, 4, 0, 2),
    "mixed": Policy(2, 4, 4, 4, 2),  # and an fp32 master copy and gradients: 18 bytes a parameter
    "pure-bf16": Policy(2, 2, 2, 0, 2),  # what torch.optim.AdamW makes of bf16 parameters: 8 bytes
}
OPTIMIZERS = ("adamw", "adamw-8bit", "adamw-paged", "adamw-8bit-paged", "sgd", "sgd-momentum")
QUANTIZATIONS = ("none", "nf4", "nf4-dq")
_BLOCK = 64  # numbers that share a scale (Dettmers et al. 2023)
_INDEX = 8  # bytes of an int64
_COUNTER = 4  # bytes of PyTorch's step counter, one a tensor
# of NF4: 16 values and the map of scales for a kernel; 256 pairs of values, and the map if used, on a CPU
_TABLES = {
    "cuda": {"nf4": 4 * (16 + 256), "nf4-dq": 4 * (16 + 256)},
    "cpu": {"nf4": 8 * 256, "nf4-dq": 8 * 256 + 4 * 256},
}
# of two 8-bit maps: the values; and their boundaries for a kernel, a table to round by on a CPU
_STATE_TABLES = {"cuda": 2 * 4 * (256 + 255), "cpu": 2 * (4 * 256 + 5 * 65536)}


@dataclass(frozen=True)
class Setting:
    """All that the account depends on."""

    arch: Architecture
    spec: Spec | None
    policy: Policy
    optimizer: str
    quantization: str
    batch: int
    length: int
    checkpointing: bool
    device: str

    @property
    def trained(self) -> Policy:
        """Bytes of what is trained: an adapter may have a type of its own, which its gradients share."""
        own = getattr(self.spec, "dtype", None)
        if own is None:
            return self.policy
        state = max(self.policy.state, own.itemsize)
        return self.policy._replace(weight=own.itemsize, gradient=own.itemsize, state=state)

    @property
    def states_in_8_bits(self) -> bool:
        return "8bit" in self.optimizer

    @property
    def paged(self) -> bool:
        return self.optimizer.endswith("paged")

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    @property
    def logits(self) -> int:
        """One fp32 copy of the logits of every token."""
        return 4 * self.tokens * self.arch.vocab


def static_parts(setting: Setting, phase: str) -> tuple[dict[str, int], int]:
    """Bytes on the device by category, and bytes paged out of it."""
    weights, constants = _weights(setting)
    trained = setting.trained
    held = footprints(setting)
    adapters = sum((sum(one.trained) + one.frozen) * trained.weight + one.indices * _INDEX for one in held)
    static = {"weights": weights, "quantization_constants": constants, "adapters": adapters}
    if phase == "inference":
        return static | {"gradients": 0}, 0
    trainable = sum(tensor_sizes(setting))
    static |= {"master": trainable * trained.master, "gradients": trainable * trained.gradient}
    states, paged = _states(setting)
    return static | states, paged


def footprints(setting: Setting) -> list[Footprint]:
    """What the adapter of every adapted map holds."""
    spec, arch = setting.spec, setting.arch
    if spec is None:
        return []
    spec.trainable_parameters(arch)  # refuses targets that name nothing
    return [spec.footprint(shape, path) for path, shape in spec.adapted(arch)]


def _weights(setting: Setting) -> tuple[int, int]:
    """Bytes of the weights and of their quantisation constants; biases stay what they are."""
    total, layers = setting.arch.parameter_count(), setting.arch.layers
    if setting.quantization == "none":
        return total * setting.policy.weight, 0
    maps = [shape.d_out * shape.d_in for shape in setting.arch.linear_shapes()]
    scales = [-(-size // _BLOCK) for size in maps]
    if setting.quantization == "nf4":
        constants = sum(4 * count for count in scales)
    else:  # one byte a scale, an fp32 scale for every 256 of those, and one offset a map
        constants = sum(count + 4 * -(-count // SECOND_BLOCK) + 4 for count in scales)
    packed = layers * sum(-(-size // 2) for size in maps)
    others = (total - layers * sum(maps)) * setting.policy.weight
    return packed + others, layers * constants + _TABLES[setting.device][setting.quantization]


def _states(setting: Setting) -> tuple[dict[str, int], int]:
    """What the optimiser keeps on the device, and how many bytes of states outside."""
    sizes, width = tensor_sizes(setting), setting.trained.state
    trainable = sum(sizes)
    if not setting.optimizer.startswith("adamw"):
        return {"optimizer_other": trainable * width if setting.optimizer == "sgd-momentum" else 0}, 0
    other, scales = _COUNTER * len(sizes), 0
    if setting.states_in_8_bits:
        width, other = 1, other + _STATE_TABLES[setting.device]
        scales = sum(2 * 4 * -(-size // STATE_BLOCK) for size in sizes)
    if setting.paged:
        width = 1 if setting.states_in_8_bits else 4
        return {"optimizer_other": other}, 2 * width * trainable + scales
    averages = dict.fromkeys(("adam_mean", "adam_variance"), width * trainable)
    return averages | {"optimizer_other": other + scales}, 0


def tensor_sizes(setting: Setting) -> list[int]:
    """Numbers of every trainable tensor."""
    arch = setting.arch
    if setting.spec is not None:
        return [size for held in footprints(setting) for size in held.trained]
    norm = [arch.hidden] * (2 if arch.norm == "layer" else 1)
    block = norm * 2
    for shape in arch.linear_shapes():
        block += [shape.d_out * shape.d_in] + [shape.d_out] * shape.bias
    table = [arch.max_length * arch.hidden] * (arch.positions == "learned")
    ends = [arch.vocab * arch.hidden] * (1 if arch.tied else 2)
    return ends + table + block * arch.layers + norm


# -- temporary results that depend on no batch either --


def optimizer_workspace(setting: Setting) -> int:
    """What the step makes and frees: for the largest tensor (PyTorch's own), or for the largest page.

    PyTorch's AdamW: √v and the denominator. By pages: states in fp32, √v, and copies of 16-bit numbers; in
    8 bits the most is there while a state is rounded, 14 bytes a number: the number scaled, its cell, the
    cell's boundary, the comparison, the index. Two pages of paged states are on the device.
    """
    if not setting.optimizer.startswith("adamw"):
        return 0
    sizes = sorted(tensor_sizes(setting))
    if setting.optimizer == "adamw":
        return 2 * setting.trained.state * sizes[-1]
    page = CUDA_PAGE if setting.device == "cuda" else PAGE
    n = min(page, sizes[-1])
    following = n if sizes[-1] >= 2 * page else min(page, sizes[-2] if len(sizes) > 1 else 0)
    state = 2 + 2 * 4 / STATE_BLOCK if setting.states_in_8_bits else 8
    if setting.states_in_8_bits:
        # a kernel does it all in registers
        work = 0 if setting.device == "cuda" else (8 + 14 + 4 / STATE_BLOCK) * n
    else:
        work = 4 * n
    copies = 8 * n if setting.trained.weight < 4 and work else 0
    return int(copies + work + setting.paged * state * (n + following))


def unpacked(setting: Setting) -> int:
    """Bytes of a quantised map that is unpacked for its product: whole on a GPU, for the vendor's GEMM.

    On a CPU a chunk at a time: numbers, indices, rounded numbers. A chunk is no less than a row and, for
    16-bit gradients, than a block's width of all rows.
    """
    if setting.quantization == "none":
        return 0
    shapes, width = setting.arch.linear_shapes(), setting.policy.activation
    largest = max(shape.d_out * shape.d_in for shape in shapes)
    if setting.device == "cuda":
        return largest * width
    least = max(max(shape.d_in, _BLOCK * shape.d_out if width < 4 else 0) for shape in shapes)
    return max(least, min(CHUNK, largest)) * (4 + 2 + (width if width < 4 else 0))
