"""How each method lies in a file: tensors of one linear map, and the configuration beside them.

LoRA and DoRA lie as Hugging Face peft writes them: ``lora_A.weight`` (r, d_in) is our Bᵀ and
``lora_B.weight`` (d_out, r) our A. PiSSA and MiLoRA lie as a LoRA of rank 2r on the unchanged W: [B,
−B₀]ᵀ and [A, A₀]. The others have layouts of their own:

| method  | tensors of one map                                                            |
|---------|-------------------------------------------------------------------------------|
| LoRA-XS | ``lora_xs.R`` (r, r), ``basis``                                               |
| SVF     | ``svf.z`` (n,)                                                                |
| SVFT    | ``svft.m`` (k,), ``svft.cells`` (2, k) int32, ``svft.g`` (1,) if any, ``basis`` |

U, S and V are made again from W. ``basis`` (2, n) is how U and V look from one fixed direction each:
where another machine finds other singular vectors (W has nearly equal singular values), loading says so
instead of going on.
"""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.adapters.base import Adapter, Spec
from course_lib.adapters.dora import DoRA, DoRAAdapter
from course_lib.adapters.linear import dense_weight, sizes
from course_lib.adapters.lora import LoRA, LoRAAdapter
from course_lib.adapters.lora_xs import LoRAXS, LoRAXSAdapter
from course_lib.adapters.pissa import MiLoRA, PiSSA, SubspaceAdapter
from course_lib.adapters.spectrum import Spectrum
from course_lib.adapters.svf import SVF, SVFAdapter
from course_lib.adapters.svft import SVFT, SVFTAdapter

METHODS: dict[str, type[Spec]] = {c.__name__: c for c in (LoRA, DoRA, PiSSA, MiLoRA, LoRAXS, SVF, SVFT)}


def to_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """What the file holds of one adapter, by the part of the key after the map's name."""
    if isinstance(adapter, SubspaceAdapter):
        A, B = torch.cat([adapter.A, adapter.A0], 1), torch.cat([adapter.B, -adapter.B0], 1)
        return {"lora_A.weight": B.T, "lora_B.weight": A}
    if isinstance(adapter, LoRAAdapter):
        magnitude = {"lora_magnitude_vector": adapter.m} if isinstance(adapter, DoRAAdapter) else {}
        return {"lora_A.weight": adapter.B.T, "lora_B.weight": adapter.A, **magnitude}
    if isinstance(adapter, LoRAXSAdapter):
        return {"lora_xs.R": adapter.R, "basis": basis(adapter.US, adapter.V)}
    if isinstance(adapter, SVFAdapter):
        return {"svf.z": adapter.z}
    if isinstance(adapter, SVFTAdapter):
        gate = {"svft.g": adapter.g} if adapter.g is not None else {}
        found = {"svft.m": adapter.m, "svft.cells": adapter.cells.int(), **gate}
        return {**found, "basis": basis(adapter.U, adapter.V)}
    raise ValueError(f"there is no file layout for {type(adapter).__name__}")


def from_tensors(spec: Spec, scale: float, path: str, linear: nn.Module, found: dict[str, Tensor]) -> Adapter:
    """The adapter that ``to_tensors`` took apart; ValueError for a wrong key, shape or a NaN."""
    for key, value in found.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{path}.{key} holds a NaN or an infinity")
    if isinstance(spec, (LoRA, PiSSA, MiLoRA)):
        return _low_rank(spec, scale, path, linear, found)
    if isinstance(spec, SVFT):
        _expect(path, found, {"svft.m": None, "svft.cells": None, "basis": None, "svft.g": None}, ("svft.g",))
        made = _svft(spec, path, linear, found)
        own = {"m": found["svft.m"]} | ({"g": found["svft.g"]} if made.g is not None else {})
        _same_basis(path, basis(made.U, made.V), found["basis"])
    elif isinstance(spec, LoRAXS):
        _expect(path, found, {"lora_xs.R": (spec.rank, spec.rank), "basis": (2, spec.rank)})
        made, own = _make(spec, path, linear), {"R": found["lora_xs.R"]}  # type: ignore[assignment]
        _same_basis(path, basis(made.US, made.V), found["basis"])  # type: ignore[arg-type]
    else:
        _expect(path, found, {"svf.z": (min(sizes(linear)),)})
        made, own = _make(spec, path, linear), {"z": found["svf.z"]}  # type: ignore[assignment]
    for name, value in own.items():
        getattr(made, name).data = value.to(made.V.device).clone()
    return made


def _low_rank(spec: Spec, scale: float, path: str, linear: nn.Module, found: dict[str, Tensor]) -> Adapter:
    d_out, d_in = sizes(linear)
    rank = len(found["lora_A.weight"]) if "lora_A.weight" in found else 1
    wanted: dict[str, tuple[int, ...] | None] = {
        "lora_A.weight": (rank, d_in),
        "lora_B.weight": (d_out, rank),
    }
    if isinstance(spec, DoRA):
        wanted["lora_magnitude_vector"] = (d_out,)
    _expect(path, found, wanted)
    A, B = found["lora_B.weight"], found["lora_A.weight"].T
    if isinstance(spec, (PiSSA, MiLoRA)):
        half = rank // 2
        start = Spectrum(A[:, half:].contiguous(), A.new_ones(half), -B[:, half:].contiguous())
        adapter: Any = SubspaceAdapter(start, A.dtype)
        A, B = A[:, :half], B[:, :half]
    else:
        assert isinstance(spec, LoRA)
        with torch.random.fork_rng(devices=[]):  # the random start is replaced: keep the caller's stream
            adapter = LoRAAdapter(linear, rank, scale, spec.dropout, A.dtype)
        if isinstance(spec, DoRA):
            adapter = DoRAAdapter(linear, adapter)
            adapter.m.data = found["lora_magnitude_vector"].clone()
    adapter.A.data, adapter.B.data = A.contiguous().clone(), B.contiguous().clone()
    return adapter.to(dense_weight(linear).device)  # type: ignore[no-any-return]


def _make(spec: Spec, path: str, linear: nn.Module) -> Any:
    """The adapter at its start, with nothing drawn."""
    start = {"start": "zero"} if hasattr(spec, "start") else {}
    return replace(spec, **start).make(path, linear)  # type: ignore[type-var]


def _svft(spec: SVFT, path: str, linear: nn.Module, found: dict[str, Tensor]) -> SVFTAdapter:
    n, cells, m = min(sizes(linear)), found["svft.cells"].long(), found["svft.m"]
    if cells.shape != (2, len(m)) or (len(m) and not 0 <= int(cells.min()) <= int(cells.max()) < n):
        raise ValueError(
            f"{path}.svft.cells must be (2, {len(m)}) indices below {n}, got {tuple(cells.shape)}"
        )
    at_start = _make(replace(spec, pattern="plain", off_diagonals=0), path, linear)
    return SVFTAdapter(at_start.U, at_start.V, cells, at_start.U.dtype, gated="svft.g" in found)


def _expect(
    path: str,
    found: dict[str, Tensor],
    wanted: dict[str, tuple[int, ...] | None],
    optional: tuple[str, ...] = (),
) -> None:
    missing = [key for key in wanted if key not in found and key not in optional]
    strange = [key for key in found if key not in wanted]
    if missing or strange:
        raise ValueError(
            f"the file's tensors for {path}: missing {missing or 'none'}, unexpected {strange or 'none'}"
        )
    for key, shape in wanted.items():
        if shape is not None and tuple(found[key].shape) != shape:
            raise ValueError(f"{path}.{key} has shape {tuple(found[key].shape)}; this model needs {shape}")


def basis(U: Tensor, V: Tensor) -> Tensor:
    """(2, n) fp32: every column of U and of V seen from one fixed direction."""
    seen = [torch.cos(torch.arange(len(M), device=M.device).float() ** 2) @ M.float() for M in (U, V)]
    return torch.stack(seen)


def _same_basis(path: str, here: Tensor, there: Tensor) -> None:
    if here.shape != there.shape or (here - there.to(here)).norm() > 1e-2 * here.norm():
        raise ValueError(
            f"the singular vectors that this machine finds for {path} are not those of the file (its "
            "singular values lie too close together); the adapter means something else on them"
        )


# -- configuration


def to_config(spec: Spec, adapters: dict[str, Adapter]) -> dict[str, Any]:
    """``adapter_config.json``; for low-rank methods it is one that peft reads."""
    if not isinstance(spec, (LoRA, PiSSA, MiLoRA)):
        return {"peft_type": f"COURSE_LIB_{type(spec).__name__.upper()}", "target_modules": sorted(adapters)}
    stabilized = isinstance(spec, LoRA) and spec.rank_stabilized
    ranks = {path: to_tensors(adapter)["lora_A.weight"].shape[0] for path, adapter in adapters.items()}
    alphas = {
        path: getattr(adapter, "scale", 1.0) * (ranks[path] ** 0.5 if stabilized else ranks[path])
        for path, adapter in adapters.items()
    }
    rank, alpha = max(ranks.values()), max(alphas.values())
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {path: r for path, r in ranks.items() if r != rank},
        "alpha_pattern": {path: a for path, a in alphas.items() if a != alpha},
        "target_modules": sorted(adapters),
        "lora_dropout": getattr(spec, "dropout", 0.0),
        "use_rslora": stabilized,
        "use_dora": isinstance(spec, DoRA),
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }


def from_peft_config(config: dict[str, Any], paths: list[str]) -> tuple[Spec, dict[str, float]]:
    """Spec and scale of every map from a config that peft wrote; ValueError for what we do not have."""
    _refuse_other_features(config)
    stabilized, base = bool(config.get("use_rslora")), int(config["r"])
    ranks = {path: int(_by_pattern(config.get("rank_pattern"), path, base)) for path in paths}
    scales = {}
    for path, rank in ranks.items():
        alpha = float(_by_pattern(config.get("alpha_pattern"), path, config["lora_alpha"]))
        scales[path] = alpha / (rank**0.5 if stabilized else rank)
    method = DoRA if config.get("use_dora") else LoRA
    dropout, alpha = float(config.get("lora_dropout") or 0.0), float(config["lora_alpha"])
    unlike = {path: rank for path, rank in ranks.items() if rank != base}
    return method(base, alpha, stabilized, dropout, targets=tuple(paths), ranks=unlike), scales


def _by_pattern(patterns: dict[str, Any] | None, path: str, default: Any) -> Any:
    """peft's rule: a key is a regular expression for the end of the map's name."""
    return next((v for k, v in (patterns or {}).items() if re.match(rf"(.*\.)?({k})$", path)), default)


def _refuse_other_features(config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise ValueError(
            f"peft_type is {config.get('peft_type')!r}; only LORA (with or without DoRA) can be read"
        )
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.startswith(("pissa", "olora", "corda", "loftq", "lora_ga")):
        raise ValueError(
            f"this adapter was started by {start!r}, which changes the base weights; it means nothing on the "
            "original ones. Convert it in peft first: "
            "save_pretrained(…, path_initial_model_for_weight_conversion=…)"
        )
    names = ("modules_to_save", "layer_replication", "lora_bias", "trainable_token_indices",
             "target_parameters", "use_qalora", "use_bdlora", "alora_invocation_tokens")  # fmt: skip
    used = [name for name in names if config.get(name)]
    used += ["bias"] if config.get("bias", "none") != "none" else []
    if used:
        raise ValueError(f"the adapter uses {', '.join(used)} of peft, which this loader does not have")


def spec_to_json(spec: Spec) -> dict[str, Any]:
    """Every field, types by name."""
    fields = {**asdict(spec), "ranks": dict(spec.ranks)} if isinstance(spec, LoRA) else asdict(spec)  # type: ignore[call-overload]
    return {key: str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
            for key, value in fields.items()}  # fmt: skip


def spec_from_json(method: str, fields: dict[str, Any]) -> Spec:
    """The spec that ``spec_to_json`` wrote; ValueError for a method or field that does not exist."""
    if method not in METHODS:
        raise ValueError(f"the file's method is {method!r}; known are {', '.join(METHODS)}")
    fields = dict(fields)
    if fields.get("dtype"):
        fields["dtype"] = getattr(torch, str(fields["dtype"]), None)
        if not isinstance(fields["dtype"], torch.dtype):
            raise ValueError("the file's settings name a dtype that torch does not have")
    try:
        return METHODS[method](**fields)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"the file's settings for {method} do not fit: {error}") from None
