"""What to measure on a GPU in 25 minutes: each part is a process with a limit of its own.

    python benchmarks/gpu.py --out=DIR --official=../lpd            # a checkout of mit-han-lab/lpd
    python benchmarks/gpu.py --out=DIR --tiny                       # rehearsal on a CPU, minutes

Needs jax with CUDA, flax, optax, einops, tqdm and pytest, and for the official code PyTorch and
timm: what a bare machine for such work has. Every measurement is a line in DIR/results.jsonl as
soon as it is made; what was printed is in DIR/log.txt. A part that fails, or runs past its limit,
leaves a line that says so and the next one begins. The same command goes on where it stopped: parts
that ended well are not run again, nor those in the files of `--resume`.

correct     ceilings of the card; tests and parity in float32; the error of bfloat16
generation  labels to codes and to images beside the official code (eager, compiled): latency at
            batch 1, throughput at 64 and more, peak memory, compile time
profile     where the time goes: XLA's dearest operations from a trace, compiler flags, layouts
training    the step from cached codes beside the official one: images/s, share of the peak, memory
"""

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
JOBS, OFFICIAL = HERE / "gpu_jobs.py", HERE / "gpu_official.py"
GRAPHS = "--xla_gpu_enable_command_buffer="


@dataclasses.dataclass(frozen=True)
class Part:
    """A process to run.

    Attributes:
        item: of the list above.
        name: unique.
        command: after the Python of this process; prints JSON lines among others.
        seconds: its limit.
        flags: added to XLA_FLAGS.
    """

    item: str
    name: str
    command: tuple[str, ...]
    seconds: int
    flags: str = ""


def parts(args) -> list[Part]:
    """All of them, the most telling first: the time may end before the list does."""
    tests = ("-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider")
    one = "tests/models/test_parts.py"  # of the rehearsal

    def ours(item, name, seconds, *what, flags=""):
        tiny = ("--tiny",) if args.tiny else ()
        return Part(item, name, (str(JOBS), *what, *tiny), seconds, flags)

    def theirs(item, name, seconds, *what):
        tiny = ("--tiny",) if args.tiny else ()
        command = (str(OFFICIAL), f"--source={args.official}", *what, *tiny)
        return [Part(item, f"official_{name}", command, seconds)] if args.official else []

    suite = (one,) if args.tiny else ("tests/models", "tests/generation")
    parity = (one,) if args.tiny else ("tests/parity",)
    found = [
        ours("correct", "ceilings", 60, "ceilings"),
        ours("generation", "L256", 150, "generate", "--model=L", "--batches=1,64"),
        *theirs("generation", "L256", 120, "generate", "--model=L", "--batches=1,64"),
        Part("correct", "tests", (*tests, *suite, "-k", "not devices"), 180),
        Part("correct", "parity", (*tests, *parity), 120),
        ours("correct", "precision", 90, "precision"),
        ours("profile", "profile1", 90, "profile", "--model=L", "--batches=1"),
        ours("training", "train_xla", 100, "train", "--attention=xla"),
        *theirs("training", "train", 90, "train"),
        ours("training", "train_cudnn", 100, "train", "--attention=cudnn"),
        ours("training", "train_tokamax", 100, "train", "--attention=tokamax"),
    ]
    quick = ("generate", "--model=L", "--batches=1", "--no-pixels")
    found += [
        ours("profile", "graphs_off", 70, *quick, flags=GRAPHS),
        ours("profile", "graphs_all", 70, *quick, flags=f"{GRAPHS}FUSION,CUBLAS,CUBLASLT,WHILE"),
        ours("profile", "segments_4", 60, *quick, "--segments=4"),
        ours("profile", "stacked", 60, *quick, "--layers=scan"),
        ours("profile", "profile64", 90, "profile", "--model=L", "--batches=64"),
    ]
    for model, pixels in (("XL", 256), ("XXL", 256), ("L", 512), ("XL", 512)):
        what = ("generate", f"--model={model}", f"--pixels={pixels}", "--batches=1,64")
        found.append(ours("generation", f"{model}{pixels}", 150, *what))
        found += theirs("generation", f"{model}{pixels}", 120, *what)
    compiled = ("generation", "L256_compiled", 240, "generate", "--model=L")
    found += [
        ours("generation", "L256_best", 120, "generate", "--model=L", "--batches=128,256,512"),
        *theirs("generation", "L256_best", 100, "generate", "--model=L", "--batches=128,256"),
        *theirs(*compiled, "--batches=1,64", "--compile"),
    ]
    return [
        part
        for part in found
        if part.item in args.items and (not args.only or part.name in args.only)
    ]


def ended_well(files: list[Path]) -> set[str]:
    """Names of the parts that files of results say are done."""
    lines = [line for file in files if file.is_file() for line in file.read_text().splitlines()]
    rows = map(json.loads, filter(None, lines))
    return {row["part"] for row in rows if row.get("status") == "done"}


def run(part: Part, limit: float, results: Path, log: Path) -> str:
    """Runs a part and writes down what it measured; how it ended."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {part.flags}".strip()
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "XLA_FLAGS": flags}
    environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    if part.name in ("tests", "parity"):
        # The suite asks for a CPU unless told, and for products in float32.
        environment.setdefault("JAX_PLATFORMS", "cuda")
        environment["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    begin = time.monotonic()
    with log.open("a") as file:
        file.write(f"\n== {part.name}: {' '.join(part.command)}\n")
        file.flush()
        process = subprocess.Popen(
            [sys.executable, *part.command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            start_new_session=True,  # so that what it started ends with it
        )
        try:
            printed, _ = process.communicate(timeout=limit)
            status = "done" if process.returncode == 0 else f"failed ({process.returncode})"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed, _ = process.communicate()
            status = f"stopped after {limit:.0f} s"
        file.write(printed)
    rows = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    if part.name in ("tests", "parity"):
        # Failures are a result, and which ones: the summary that pytest prints last.
        lines = printed.splitlines()
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        rows = [{"summary": lines[-1] if lines else "", "failed": failed}]
        status = "done" if lines and " passed" in lines[-1] else status
    end = {"status": status, "seconds": round(time.monotonic() - begin, 1)}
    with results.open("a") as file:
        for row in (*rows, end):
            about = {"part": part.name, "item": part.item, "flags": part.flags}
            file.write(json.dumps(about | row) + "\n")
    return status


def arguments() -> argparse.Namespace:
    items = ("correct", "generation", "profile", "training")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--official", type=Path, help="checkout of mit-han-lab/lpd")
    parser.add_argument("--items", nargs="*", default=items, choices=items)
    parser.add_argument("--only", nargs="*", help="names of parts")
    parser.add_argument("--minutes", type=float, default=25, help="of all parts together")
    parser.add_argument("--resume", type=Path, nargs="*", default=[], help="earlier results.jsonl")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, on any device")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.tiny:  # compiled for a rehearsal, not for speed; where the machine may be busy
        os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
        os.environ["JAX_PLATFORMS"] = "cpu"
    args.out.mkdir(parents=True, exist_ok=True)
    results, log = args.out / "results.jsonl", args.out / "log.txt"
    end = time.monotonic() + 60 * args.minutes
    done = ended_well([results, *args.resume])
    for part in parts(args):
        left = end - time.monotonic()
        if part.name in done or left < 20:
            print(f"{part.name}: {'there already' if part.name in done else 'no time left'}")
            continue
        limit = 10 * part.seconds if args.tiny else part.seconds
        print(f"{part.name}: {run(part, min(limit, left), results, log)}", flush=True)


if __name__ == "__main__":
    main()
