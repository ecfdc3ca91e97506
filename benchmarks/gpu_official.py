"""The parts of `gpu.py` that run the official PyTorch code; each prints JSON lines.

    python benchmarks/gpu_official.py --source=../lpd generate --model=L --batches=1,64

`--source` is a checkout of mit-han-lab/lpd (f447b83 was read), which is not changed. Settings are
those of its evaluation and training scripts: bfloat16 autocast, guidance, the linear schedule.
Weights, orders and codes are random: time does not depend on them. `--tiny` runs a small model on a
CPU, from a copy in which "cuda" reads "cpu": the code names its device.
"""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

# (model, pixels) -> steps, guidance
SETTINGS = {
    ("L", 256): (20, 4.8),
    ("XL", 256): (20, 4.9),
    ("XXL", 256): (20, 5.9),
    ("L", 512): (48, 7.3),
    ("XL", 512): (48, 7.3),
}

TINY_SIZES = [1, 2, 3, 4, 6]


@contextlib.contextmanager
def importable(source: Path, tiny: bool):
    """The official packages `models` and `util` can be imported inside."""
    with tempfile.TemporaryDirectory() as directory:
        if tiny:
            for file in sorted(source.glob("models/*.py")):
                copy = Path(directory, "models", file.name)
                copy.parent.mkdir(exist_ok=True)
                text = file.read_text().replace(".cuda()", ".cpu()").replace('"cuda"', '"cpu"')
                copy.write_text(text)
            shutil.copytree(source / "orders", Path(directory, "orders"))
            source = Path(directory)
        sys.path.insert(0, str(source))
        try:
            yield source
        finally:
            sys.path.remove(str(source))


def autocast(device: str):
    """bfloat16 on GPUs; on a CPU the official cache would stay float32 under it, and refuse."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda")


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(run, repeats: int, device: str) -> list[float]:
    """Of each call of a function, after two that are not counted."""
    times = []
    for i in range(repeats + 2):
        wait(device)
        start = time.perf_counter()
        run()
        wait(device)
        if i > 1:
            times.append(time.perf_counter() - start)
    return times


def show(device: str, **row) -> None:
    """One line, with what it was measured on."""
    cuda = device == "cuda"
    peak = round(torch.cuda.max_memory_allocated() / 2**30, 3) if cuda else None
    machine = {"device": torch.cuda.get_device_name() if cuda else "cpu", "peak_gib": peak}
    print(json.dumps(row | machine | {"torch": torch.__version__}), flush=True)


def networks(args, device: str):
    """Decoder and VQ model with random weights."""
    from models import lpd, vqgan

    if args.tiny:
        size = {"decoder_embed_dim": 32, "decoder_depth": 2, "decoder_num_heads": 2}
        norm = partial(torch.nn.LayerNorm, eps=1e-6)
        decoder = lpd.LPD(img_size=64, vqgan_vocab_size=32, norm_layer=norm, **size)
        tokenizer = vqgan.VQModel(32, encoder_ch_mult=[1] * 5, decoder_ch_mult=[1] * 5)
    else:
        decoder = getattr(lpd, f"lpd_{args.model.lower()}")(img_size=args.pixels)
        tokenizer = vqgan.VQModel()
    return decoder.to(device), tokenizer.to(device).eval()


def sizes_of(source: Path, pixels: int, steps: int) -> list[int]:
    table = json.loads((source / "orders/group_sizes_lookup.json").read_text())
    sizes = table[f"{pixels} resolution"][f"{steps} steps"]
    return json.loads(sizes) if isinstance(sizes, str) else sizes


def seen_so_far(sizes: list[int], device: str):
    """The attention mask of `engine.create_block_causal_mask`: float32 [1 + N, 1 + N]."""
    group = torch.repeat_interleave(torch.arange(len(sizes) + 1), torch.tensor([1, *sizes]))
    hidden = group[:, None] < group[None]
    return torch.zeros(hidden.shape).masked_fill(hidden, float("-inf")).to(device)


def generation(args, source: Path, device: str) -> None:
    """Latency and throughput, one line for each batch; ends at the first that does not fit."""
    decoder, tokenizer = networks(args, device)
    decoder.eval()
    steps, guidance = (len(TINY_SIZES), 4.8) if args.tiny else SETTINGS[args.model, args.pixels]
    sizes = TINY_SIZES if args.tiny else sizes_of(source, args.pixels, steps)
    rng, side, mask = np.random.default_rng(0), int(sum(sizes) ** 0.5), seen_so_far(sizes, device)
    if args.compile:
        for block in decoder.blocks:
            block.forward_inference = torch.compile(block.forward_inference)
        tokenizer.decode = torch.compile(tokenizer.decode)

    def codes(batch: int):
        orders = np.stack([rng.permutation(sum(sizes)) for _ in range(batch)])
        return decoder.sample_tokens(
            bsz=batch,
            cfg=guidance,
            cfg_schedule="linear",
            labels=torch.arange(batch, device=device) % 1000,
            group_sizes=sizes,
            attn_mask=mask,
            orders=torch.tensor(orders, device=device),
        )

    def images(batch: int):
        made = codes(batch)
        return tokenizer.decode_code(made, shape=(batch, -1, side, side))

    for batch in map(int, args.batches.split(",")):
        row = {"what": "official_generate", "model": args.model, "pixels": args.pixels}
        row |= {"batch": batch, "steps": steps, "compile": args.compile}
        try:
            with torch.no_grad(), autocast(device):
                for name, run in (("codes", codes), ("images", images)):
                    start = time.perf_counter()
                    run(batch)
                    wait(device)
                    row[f"{name}_first_s"] = round(time.perf_counter() - start, 1)
                    repeats = 2 if args.tiny else 8
                    times = seconds(partial(run, batch), repeats, device)
                    row |= {f"{name}_s": round(float(np.median(times)), 5)}
                    row[f"{name}_images_per_s"] = round(batch / float(np.median(times)), 3)
        except torch.OutOfMemoryError:
            show(device, **row, out_of_memory=True)
            return
        show(device, **row)


def train(args, source: Path, device: str) -> None:
    """The training step of `engine.train_one_epoch`, from codes that are on the device."""
    decoder, _ = networks(args, device)
    decoder.train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-4, betas=(0.9, 0.95))
    scaler = torch.GradScaler(device, enabled=device == "cuda")
    sizes = TINY_SIZES if args.tiny else sizes_of(source, args.pixels, 20)
    vocab = decoder.head.out_features
    for batch in map(int, args.batches.split(",")):
        codes = torch.randint(vocab, (batch, sum(sizes)), device=device)
        labels = torch.randint(1000, (batch,), device=device)

        def step(codes=codes, labels=labels):
            with autocast(device):
                loss = decoder(codes, labels, sizes)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(decoder.parameters(), 3.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            return loss.item()

        row = {"what": "official_train", "model": args.model, "batch": batch}
        try:
            times = seconds(step, 2 if args.tiny else 10, device)
        except torch.OutOfMemoryError:
            show(device, **row, out_of_memory=True)
            return
        second = float(np.median(times))
        row |= {"step_s": round(second, 5), "images_per_s": round(batch / second, 2)}
        show(device, **row)


def main() -> None:
    jobs = {"generate": generation, "train": train}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=jobs)
    parser.add_argument("--source", type=Path, required=True, help="checkout of mit-han-lab/lpd")
    parser.add_argument("--model", default="L", choices=("L", "XL", "XXL"))
    parser.add_argument("--pixels", type=int, default=256, choices=(256, 512))
    parser.add_argument("--batches", default="64", help="comma-separated")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.batches = "2"
    with importable(args.source, args.tiny) as source:
        jobs[args.job](args, source, "cpu" if args.tiny else "cuda")


if __name__ == "__main__":
    main()
