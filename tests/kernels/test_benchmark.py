"""The GPU benchmark runs from end to end, on a CPU and on sizes that say nothing about speed."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from course_lib.catalog import Architecture

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
SMALL = Architecture(
    name="small", hidden=64, layers=1, heads=2, kv_heads=1, head_dim=32, intermediate=128, vocab=50,
    max_length=64,
)  # fmt: skip
SIZES = {
    "dequantise": {"sizes": (64,)},
    "linear": {"size": 64, "rows": (1, 3)},
    "fused": {"size": 64, "rows": (2,)},
    "lora": {"size": 64, "rows": 5, "rank": 2},
    "optimiser": {"count": 4096},
    "last_layer": {"tokens": 10, "width": 8, "vocabulary": 30},
    "svft": {"n": 12, "tokens": 4, "d": 2},
    "predicted": {"arch": SMALL, "batch": 1, "length": 16},
    "qlora_step": {"arch": SMALL, "batch": 1, "length": 16},
}
PEERS = {"linear": ["bitsandbytes"], "optimiser": ["bitsandbytes"], "qlora_step": ["bitsandbytes", "peft"]}


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(FILE.parent))
    try:
        spec = importlib.util.spec_from_file_location("kernels_benchmark", FILE)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FILE.parent))
    return module


def test_every_case_is_run_here(benchmark):
    assert {case.__name__ for case in benchmark.CASES} == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_a_case_runs(benchmark, name):
    for peer in PEERS.get(name, ()):
        pytest.importorskip(peer)

    def once(function):
        function()
        return 1.0

    case = getattr(benchmark, name)
    rows = list(case("cpu", once, **SIZES[name]))
    assert rows
    assert all(row.ours > 0 and row.other > 0 for row in rows)


def test_what_is_kept_is_what_the_notebook_reads(benchmark, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(benchmark, "ROOT", tmp_path)
    path = benchmark.save([benchmark.Row("a case", 1.0, 2.0, 0, 1, "ms")], "NVIDIA H100 80GB HBM3")
    assert path == tmp_path / "data" / "benchmarks" / "nvidia-h100-80gb-hbm3.json"
    kept = json.loads(path.read_text())
    assert "NVIDIA H100" in kept["machine"]
    assert (
        kept["rows"][0] | {"case": "a case", "ours": 1.0, "other": 2.0, "unit": "ms", "ratio": 0.5}
        == kept["rows"][0]
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a CUDA device")
def test_without_a_device_it_says_so(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    benchmark.main()
    assert capsys.readouterr().out == "not measured: no CUDA device here\n"
