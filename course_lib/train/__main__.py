"""``python -m course_lib.train``: pretrain a language model on the installed Python sources, on one device
or many.

``torchrun --nproc-per-node=8 -m course_lib.train …`` is the same run shared by eight processes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import torch

from course_lib.catalog import Architecture
from course_lib.lm import Llama, save_pretrained
from course_lib.lm.corpus import corpus_fingerprint, documents, token_stream
from course_lib.lm.tokenizer import Tokenizer
from course_lib.train import TrainConfig, TrainResult, distributed, pretrain

_SIZES = {  # the small base model of the course
    "hidden": 192, "layers": 4, "heads": 6, "kv_heads": 2, "head_dim": 32, "intermediate": 512,
    "max_length": 512,
}  # fmt: skip
_TOKENIZER_BYTES = 20_000_000


def main(arguments: list[str] | None = None) -> None:
    """Train, then (with ``--export``) write the model as fp16 with a record of how it was made."""
    options = _parser().parse_args(arguments)
    commit = _commit()  # of the code that runs, not of what the checkout holds when it is done
    device = distributed.join()
    tokenizer = _tokenizer(Path(options.tokenizer), options.vocab)
    arch = Architecture(name=options.name, vocab=tokenizer.vocab_size, tied=True,
                        **{size: getattr(options, size) for size in _SIZES})  # fmt: skip
    config = TrainConfig(**{field.name: getattr(options, field.name) for field in _settable()})
    train_tokens = token_stream(tokenizer, "train", max_tokens=options.max_tokens)
    validation = token_stream(tokenizer, "validation")
    torch.manual_seed(config.seed)
    model = Llama(arch).to(device)
    result = pretrain(model, train_tokens, config, validation=validation, folder=options.out, resume=True)
    if distributed.rank() == 0:
        print(f"validation loss {result.validation_loss:.4f} nats a token; run kept in {options.out}")
        if options.export:
            export(result, tokenizer, config, Path(options.export), len(train_tokens), commit)
    distributed.leave()


def export(
    result: TrainResult, tokenizer: Tokenizer, config: TrainConfig, folder: Path, tokens: int, commit: str
) -> None:
    """Write the trained model in fp16 and, beside it, made.json: how and from what it was made."""
    save_pretrained(result.model.half(), folder, tokenizer)  # type: ignore[arg-type]
    every = max(1, len(result.metrics) // 200)
    made = {
        "command": "python -m course_lib.train " + " ".join(sys.argv[1:]),
        "commit": commit,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}",
        "corpus": corpus_fingerprint() | {"train_tokens": tokens},
        "config": asdict(config),
        "validation_loss_nats_per_token": round(result.validation_loss, 4),
        "loss_curve": [[int(r["step"]), round(r["loss"], 4)] for r in result.metrics[::every]],
        "validation_curve": [
            [int(r["step"]), round(r["validation_loss"], 4)] for r in result.metrics if "validation_loss" in r
        ],
    }
    (folder / "made.json").write_text(json.dumps(made, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m course_lib.train", description=__doc__)
    parser.add_argument(
        "--out", required=True, help="folder of the run: checkpoint and metrics; goes on if there is one"
    )
    parser.add_argument("--export", help="folder to write the finished model to")
    parser.add_argument(
        "--tokenizer", required=True, help="folder that holds tokenizer.json; learnt where there is none"
    )
    parser.add_argument(
        "--vocab", type=int, default=4096, help="ids of a tokenizer that is learnt; default: %(default)s"
    )
    parser.add_argument("--name", default="base", help="name of the model")
    parser.add_argument("--max-tokens", type=int, help="use only so many tokens of the corpus")
    for size, value in _SIZES.items():
        parser.add_argument(
            f"--{size.replace('_', '-')}", type=int, default=value, help="default: %(default)s"
        )
    for field in _settable():
        kind = int if field.name == "micro_batch_size" else type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    return parser


def _tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer in ``folder``; where there is none, one learnt from the corpus's first 20 MB and kept
    there.
    """
    if not (folder / "tokenizer.json").exists():
        if distributed.world_size() > 1:
            raise SystemExit(f"{folder} holds no tokenizer.json; make it by one process first")
        sizes = itertools.accumulate(map(len, documents("train")))
        count = sum(size <= _TOKENIZER_BYTES for size in sizes)
        Tokenizer.train(itertools.islice(documents("train"), count), vocab_size).save(folder)
    return Tokenizer.load(folder)


def _settable() -> list:  # type: ignore[type-arg]
    """The fields of a TrainConfig that a command line can carry: all but the pair and the switch."""
    return [field for field in fields(TrainConfig) if field.name not in ("betas", "checkpointing")]


def _commit() -> str:
    """The checkout's commit, with a mark when files were changed since."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
