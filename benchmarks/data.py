"""What the input side delivers: codes to training, decoded images to encoding.

    PYTHONPATH=. python benchmarks/data.py codes --images=200000 --json=data.jsonl
    PYTHONPATH=. python benchmarks/data.py decode --json=data.jsonl
    PYTHONPATH=. python benchmarks/data.py encode --json=data.jsonl

codes   Time to read codes of LPD-L at 256 px from ArrayRecord files and from one memory-mapped
        array; bytes in memory; images a second that batches supply by one core, over what an H200
        takes at half its bfloat16 peak.
decode  Images a second of 500x375 JPEGs, decoded and cropped as ADM does: by Pillow alone, by the
        source, and by the readers of `encode` with threads and with 1 and 2 processes.
encode  Shares of the time of an encode with a small tokenizer and two processes that decode.
"""

import argparse
import itertools
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageFilter
from rows import leave, tunables
from train import write_codes

from lpd_jax.data import codes as code_dataset
from lpd_jax.data import pipeline, reading
from lpd_jax.data.crop import center_crop
from lpd_jax.data.folder import Folder
from lpd_jax.data.sources import Arrays
from lpd_jax.models.decoder import DecoderConfig
from lpd_jax.training.throughput import PEAKS, decoder_flops

L_256 = DecoderConfig(
    grid=(16, 16), vocab_size=16_384, num_classes=1000, width=1024, depth=24, heads=16
)
BATCH = 256
UTILISATION = 0.5


def seconds(call) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def codes(directory: Path, images: int) -> dict[str, Any]:
    """One core: what a process pays to have the codes, and how fast batches come of them."""
    write_codes(directory / "codes", L_256, images)
    arrays, mapped = {}, directory / "codes.npy"
    read_s = seconds(lambda: arrays.update(code_dataset.load_codes(directory / "codes", "train")))
    np.save(mapped, arrays["codes"])
    mapped_s = seconds(lambda: np.load(mapped, mmap_mode="r").sum())
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    stream = iter(
        pipeline.batches(Arrays(arrays), batch_size=BATCH, transform=pipeline.choose_view)
    )
    next(stream)
    rounds = 100
    supplied = rounds * BATCH / seconds(lambda: [next(stream) for _ in range(rounds)])
    consumed = UTILISATION * PEAKS["NVIDIA H200"] / decoder_flops(L_256)
    disk = sum(file.stat().st_size for file in (directory / "codes").iterdir() if file.is_file())
    return {
        "images": images,
        "read_s": read_s,
        "read_us_an_image": 1e6 * read_s / images,
        "read_s_of_imagenet": read_s / images * 1_281_167,
        "mapped_s": mapped_s,
        "disk_bytes_an_image": disk / images,
        "memory_bytes_an_image": sum(array.nbytes for array in arrays.values()) / images,
        "supplied_images_per_s": supplied,
        "h200_images_per_s": consumed,
        "supplied_over_consumed": supplied / consumed,
    }


def write_images(path: Path, images: int) -> Folder:
    """JPEGs of 500x375 pixels that take as many bytes as ImageNet's do (110 kB on average)."""
    rng = np.random.default_rng(0)
    (path / "class").mkdir(parents=True)
    for i in range(images):
        noise = rng.normal(128, 40, (375, 500, 3)).clip(0, 255).astype(np.uint8)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((500, 375))
        both = Image.blend(coarse, Image.fromarray(noise), 0.5).filter(
            ImageFilter.GaussianBlur(0.8)
        )
        both.save(path / f"class/{i:04d}.jpg", quality=95)
    return Folder(path, "all", 256)


def bare(file: Path) -> np.ndarray:
    """Decoding and the same crop with nothing of ours around them."""
    with Image.open(file) as image:
        return np.asarray(center_crop(image.convert("RGB"), 256))


def decode(directory: Path, images: int) -> dict[str, Any]:
    """Images a second; one core for the first two, in turns so that both see the same machine."""
    source = write_images(directory / "images", images)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    spent = {"bare": [], "source": []}
    for _ in range(5):
        spent["bare"].append(seconds(lambda: [bare(file) for file in source.files]))
        spent["source"].append(seconds(lambda: [source[i] for i in range(len(source))]))
    os.sched_setaffinity(0, cores)
    rates = {f"{name}_images_per_s": images / min(times) for name, times in spent.items()}
    kinds = [reading.Workers(threads=t) for t in (1, 8)]
    kinds += [reading.Workers(processes=p, threads=0) for p in (1, 2)]
    wanted = np.tile(np.stack([np.zeros(images, int), np.arange(images)], 1), (16, 1))
    for workers in kinds:
        kind = "processes" if workers.processes else "threads"
        found = by_workers(source, wanted, workers)
        rates |= {f"{max(workers)}_{kind}_{name}": value for name, value in found.items()}
    return rates | {
        "images": images,
        "bytes": float(np.mean([file.stat().st_size for file in source.files])),
        "source_over_bare": min(spent["source"]) / min(spent["bare"]),
    }


def by_workers(source: Folder, wanted: np.ndarray, workers: reading.Workers) -> dict[str, float]:
    """Images a second between the start of the readers and their end, and the seconds of these."""
    begin = time.perf_counter()
    stream = reading.in_order([source], wanted, workers)
    begun = sum(len(next(stream).places) for _ in range(8))
    start, count = time.perf_counter(), 0
    while begun + count < len(wanted):
        count += len(next(stream).places)
    last = time.perf_counter()
    assert next(stream, None) is None
    return {
        "images_per_s": count / (last - start),
        "start_s": start - begin,
        "end_s": time.perf_counter() - last,
    }


def encode(directory: Path, images: int) -> dict[str, Any]:
    """Shares of the time once both processes have started."""
    from lpd_jax.configs import folder
    from lpd_jax.models.initial import init_tokenizer
    from lpd_jax.tasks import build
    from lpd_jax.tasks import encode as task

    write_images(directory / "images", images)
    config = folder.get_config()
    config.data.update(path=str(directory / "images"), size=256)
    config.tokenizer.update(ch=32, ch_mult=(1, 1, 2, 2, 4), num_res_blocks=1)
    network = build.tokenizer(config)
    params = jax.jit(lambda key: init_tokenizer(network, key))(jax.random.key(0))
    run, ways = task._encoder(network, params, 2, 256)
    source = build.source(config.data, "train")
    wanted = np.stack([np.zeros(len(source), int), np.arange(len(source))], 1)
    groups = reading.in_order([source], np.tile(wanted, (4, 1)), reading.Workers(processes=2))
    size = ways * 16
    first = next(groups)
    run(first.records, size)  # compiles
    for _ in itertools.islice(groups, 6):
        pass
    progress = task._Progress(4 * len(source))
    start = time.perf_counter()
    count = sum(1 for _ in task._rows(groups, run, size, progress))
    whole = time.perf_counter() - start
    return {
        "images": count,
        "images_per_s": count / whole,
        "device_share": progress.spent["device"] / whole,
        "decode_share": progress.spent["decode"] / whole,
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = {"codes": (codes, 100_000), "decode": (decode, 128), "encode": (encode, 128)}
    parser.add_argument("what", choices=kinds)
    parser.add_argument("--images", type=int)
    parser.add_argument("--json", type=Path, help="file to append the line to")
    args = parser.parse_args()
    call, images = kinds[args.what]
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory:
        figures = call(Path(directory), args.images or images)
    figures = {name: float(f"{value:.4g}") for name, value in figures.items()}
    machine = {"cores": cores, "load": os.getloadavg()[0], "jax": jax.__version__, **tunables()}
    machine["python"] = platform.python_version()
    leave({"what": args.what} | figures | json.loads(json.dumps(machine)), args.json)


if __name__ == "__main__":
    main()
