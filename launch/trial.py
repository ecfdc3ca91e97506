"""Tries what a person may get wrong, and prints a table of what each mistake was answered with.

    python launch/trial.py --workdir=runs/digits > trial.md

Every command line must end in one sentence and exit code 2, every call in an `InputError`; the
workdir, a trained one of the digits, must be as it was. Exits with 1 when one does not. A command
runs in a child forked from this process, which has imported the package already.
"""

import argparse
import contextlib
import io
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator

import jax
import numpy as np
from PIL import Image

import lpd_jax
from lpd_jax import __main__ as command
from lpd_jax.generation import editing, orders

Files = dict[str, str]


def broken_files(where: pathlib.Path, workdir: pathlib.Path) -> Files:
    """Files that are wrong in one way each, by name."""
    texts = {
        "syntax.py": "def get_config(:\n",
        "imports.py": "import no_such_module\n\n\ndef get_config():\n    return None\n",
        "raises.py": "def get_config():\n    raise RuntimeError('boom')\n",
        "nothing.py": "x = 1\n",
        "orders.json": "[[0, 1, 2], [0, 1]]",
        "zeros.json": str([[0] * 64] * 10),
        "short.json": str([[*range(16)]] * 10),
        "text.png": "no picture",
        "weights.pth": "no weights",
    }
    for name, text in texts.items():
        (where / name).write_text(text)
    for kind in ("cats", "dogs"):
        (where / "folder" / kind).mkdir(parents=True)
        for i in range(12):
            noise = np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(noise).save(where / "folder" / kind / f"{i}.png")
    shutil.copytree(where / "folder", where / "corrupt")
    (where / "corrupt/cats/0.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (where / "empty").mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(where / "small.png")
    shutil.copytree(workdir, where / "truncated", ignore=shutil.ignore_patterns("checkpoints"))
    for file in (where / "truncated/decoder/model/params").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:100])
    shutil.copytree(workdir, where / "cut", ignore=shutil.ignore_patterns("samples", "report"))
    shutil.rmtree(where / "cut/decoder/model")
    for file in (where / "cut/decoder/checkpoints").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:100])
    shutil.copytree(workdir, where / "damaged", ignore=shutil.ignore_patterns("checkpoints"))
    (where / "damaged/decoder/model/model.json").write_text("{")
    return {path.stem: str(path) for path in where.iterdir()}


def commands(f: Files, w: str) -> Iterator[list[str]]:
    """Command lines, each with one mistake."""
    new = f"{f['empty']}/run"
    digits, run = "--config=digits", f"--workdir={w}"
    yield from (
        ["paint", digits, run],
        [digits, run],
        ["sample", "sample", digits, run],
        ["sample", run],
        ["sample", digits],
        ["sample", "--config=digitz", run],
        ["sample", "--config", "wrong.py", run],
        ["sample", "--config=configs/digits.py:L", run],
        ["sample", "--config=lpd_256:M", run],
        ["sample", f"--config={f['syntax']}", run],
        ["sample", f"--config={f['imports']}", run],
        ["sample", f"--config={f['raises']}", run],
        ["sample", f"--config={f['nothing']}", run],
        ["sample", f"--config={f['empty']}", run],
        ["sample", digits, run, "--no_such_flag=1"],
        ["sample", digits, "--workdir=s3://bucket/run"],
        ["sample", digits, "--workdir=/no/such/place"],
        ["sample", digits, run, "--checkpoint=/no/such/place"],
        ["sample", digits, f"--workdir={f['truncated']}", "--config.seed=9"],
        ["sample", digits, f"--workdir={f['damaged']}", "--config.seed=9"],
        ["train", digits, run, "--num_processes=2"],
        ["train", digits, run, "--coordinator=x", "--num_processes=2", "--process_id=0"],
        ["train", digits, run, "--coordinator=a:1", "--num_processes=2", "--process_id=2"],
        ["train_tokenizer", digits, f"--workdir={f['small']}/x"],
        ["train", digits, f"--workdir={f['cut']}"],
        ["encode", digits, f"--workdir={new}"],
        ["train", digits, f"--workdir={new}"],
        ["evaluate", digits, f"--workdir={new}"],
        ["edit", digits, f"--workdir={new}"],
        ["ablate", digits, run],
        ["ablate", "--config=ablations/orders", run, "--config.ablation.only=99"],
        ["convert", digits, f"--workdir={new}"],
        ["convert", digits, f"--workdir={new}", "--config.convert.tokenizer=/no/file.pt"],
        ["convert", digits, f"--workdir={new}", f"--config.convert.tokenizer={f['weights']}"],
        ["convert", digits, run, f"--config.convert.export_decoder={f['text']}"],
    )
    fields = {
        "sample": [
            *("labels=three_hundred", "labels=-1", "labels=11,12", "labels=3.5"),
            *("count=0", "count=-1", "count=two", "steps=0", "steps=65", "steps=2.5", "stepz=3"),
            *("group_sizes=a,", "group_sizes=1,2,3", "group_sizes=64,0", "group_schedule=sine"),
            *("order=spiral", "order_file=/no/file.json", f"order_file={f['orders']}"),
            *(f"order_file={f['zeros']}", f"order_file={f['short']}", "proximity=nan"),
            *("repulsion=inf", "guidance=-1", "guidance=nan", "guidance=inf", "temperature=nan"),
            *("temperature=-1", "temperature=inf", "top_k=-1", "top_p=0", "top_p=1.5", "top_p=nan"),
            *("batch_size=0", "batch_size=-5", "dtype=float8", "quantize=int3", "segments=0"),
            *("guidance_schedule=square", "guidance=much", "params=best"),
        ],
        "train": [
            *(
                "steps=0",
                "steps=-1",
                "steps=many",
                "batch_size=0",
                "batch_size=7000",
                "save_every=0",
            ),
            *("log_every=0", "learning_rate=nan", "label_drop=1", "accumulate=0", "accumulate=3"),
            *("loss_chunk=5", "schedule=square", "warmup_steps=1000000", "schedules=65,", "keep=0"),
            *("ema_decay=1", "init_from=/no/place", "eval_every=-1"),
        ],
        "tokenizer": ["ch=0", "ch_mult=()", "codebook_size=0", "norm_groups=7"],
        "decoder": ["width=0", "heads=3", "depth=0", "dtype=int7", "remat=some", "attention=none"],
        "data": ["source=video", "size=31", "size=0"],
        "mesh": ["data=3", "fsdp=0"],
        "edit": [
            *("images=/no/file.png", f"images={f['text']}", f"images={f['empty']}", "count=0"),
            *("labels=99", "labels=cat", f"mask={f['text']}", f"mask={f['small']}", "mask=/no.png"),
            *("box=0,0,0,0", "box=0,0,2", "box=0,0,99,99", "outside=maybe"),
        ],
        "evaluate": ["steps=0", "steps=65"],
        "orders": ["count=0"],
    }
    task = {"tokenizer": "train_tokenizer", "decoder": "train", "data": "train_tokenizer"}
    task |= {"mesh": "train_tokenizer"}
    for section, mistakes in fields.items():
        where = run if section in ("sample", "edit", "evaluate", "orders") else f"--workdir={new}"
        for mistake in mistakes:
            yield [task.get(section, section), digits, where, f"--config.{section}.{mistake}"]
    yield from ([["sample", digits, run, f"--config.seed={s}"] for s in ("-1", 2**32, 2**64, "x")])
    yield ["pipeline", digits, f"--workdir={new}", "--config.sample.order=spiral"]
    yield ["pipeline", digits, f"--workdir={new}", "--config.sample.labels=dog"]
    yield ["pipeline", "--config=folder", f"--workdir={new}"]
    for path in ("/no/place", f["empty"], f["small"]):
        yield ["pipeline", "--config=folder", f"--workdir={new}", f"--config.data.path={path}"]
    tiny = [f"--config.data.path={f['corrupt']}", "--config.train_tokenizer.batch_size=8"]
    yield ["train_tokenizer", "--config=folder_small", f"--workdir={new}2", *tiny]


def calls(sampler: lpd_jax.Sampler, workdir: pathlib.Path) -> dict[str, Callable[[], object]]:
    """Calls of the notebook API, each with one mistake."""
    s, images = sampler, np.zeros((1, 32, 32, 3), np.uint8)
    half = editing.rectangle((32, 32), (0.5, 0, 1, 1))
    zeros = np.zeros((1, 64), np.int32)
    nan = float("nan")
    return {
        "s(3)": lambda: s(3),
        "s([])": lambda: s([]),
        "s(['cat'])": lambda: s(["cat"]),
        "s([10, 11])": lambda: s([10, 11]),
        "s([-1])": lambda: s([-1]),
        "s([3.5])": lambda: s([3.5]),
        "s([True, False])": lambda: s([True, False]),
        "s([[1]])": lambda: s([[1]]),
        "s(None)": lambda: s(None),
        "s([3], steps=0)": lambda: s([3], steps=0),
        "s([3], steps=65)": lambda: s([3], steps=65),
        "s([3], steps=2.5)": lambda: s([3], steps=2.5),
        "s([3], steps='ten')": lambda: s([3], steps="ten"),
        "s([3], guidance='x')": lambda: s([3], guidance="x"),
        "s([3], guidance=nan)": lambda: s([3], guidance=nan),
        "s([3], guidance=-1)": lambda: s([3], guidance=-1),
        "s([3], temperature=nan)": lambda: s([3], temperature=nan),
        "s([3], temperature=inf)": lambda: s([3], temperature=float("inf")),
        "s([3], seed=-1)": lambda: s([3], seed=-1),
        "s([3], seed=2**32)": lambda: s([3], seed=2**32),
        "s([3], seed=2**64)": lambda: s([3], seed=2**64),
        "s([3], seed=1.5)": lambda: s([3], seed=1.5),
        "s([3], order='spiral')": lambda: s([3], order="spiral"),
        "s([3], order=zeros)": lambda: s([3], order=zeros),
        "s([3], order=jax zeros)": lambda: s([3], order=jax.numpy.asarray(zeros)),
        "s([3], order=beyond the grid)": lambda: s([3], order=np.arange(1, 65)[None]),
        "s([3], order=1-D)": lambda: s([3], order=np.arange(64)),
        "s([3], order=of 16 cells)": lambda: s([3], order=np.arange(16)[None]),
        "s([3, 4], order=one for two)": lambda: s([3, 4], order=np.arange(64)[None]),
        "s([3], order=floats)": lambda: s([3], order=np.arange(64.0)[None]),
        "s([3], order=nan proximity)": lambda: s([3], order=orders.LocalityAware(nan, 1.0)),
        "s([3], order=7)": lambda: s([3], order=7),
        "sample(sizes of text)": lambda: s.sample([3], ("a",), "random", None),
        "sample(sizes of 6)": lambda: s.sample([3], (1, 2, 3), "random", None),
        "sample(batch_size=0)": lambda: s.sample([3], (64,), "random", None, batch_size=0),
        "sample(batch_size=-5)": lambda: s.sample([3], (64,), "random", None, batch_size=-5),
        "sample(segments=0)": lambda: s.sample([3], (1, 63), "random", None, segments=0),
        "sample(first_index=-1)": lambda: s.sample([3], (64,), "random", None, first_index=-1),
        "edit(floats)": lambda: s.edit(images / 255, half, [3]),
        "edit(one image, two labels)": lambda: s.edit(images, half, [3, 4]),
        "edit(other size)": lambda: s.edit(images[:, :16], half, [3]),
        "edit(a list)": lambda: s.edit([1, 2], half, [3]),
        "edit(mask of another size)": lambda: s.edit(images, half[:5], [3]),
        "edit(mask of 255)": lambda: s.edit(images, half * 255, [3]),
        "edit(mask None)": lambda: s.edit(images, None, [3]),
        "edit(guidance=nan)": lambda: s.edit(images, half, [3], guidance=nan),
        "edit(steps=0)": lambda: s.edit(images, half, [3], steps=0),
        "edit(label 99)": lambda: s.edit(images, half, [99]),
        "rectangle(empty)": lambda: editing.rectangle((32, 32), (0, 0, 0, 0)),
        "load(None)": lambda: lpd_jax.Sampler.load(None),
        "load('/no/place')": lambda: lpd_jax.Sampler.load("/no/place"),
        "load(dtype='float8')": lambda: lpd_jax.Sampler.load(workdir, dtype="float8"),
    }


def run_forked(arguments: list[str]) -> tuple[int, str]:
    """Exit code and output of one command, run in a child of this process."""
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            sys.argv = ["lpd", *map(str, arguments)]
            try:
                command.run()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:  # what a person would see as a stack
                sys.excepthook(*sys.exc_info())
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code or 0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return code, said.read()


def files(directory: pathlib.Path) -> dict[str, int]:
    """What must not change: names and times of the files of a workdir."""
    return {str(p): p.stat().st_mtime_ns for p in directory.rglob("*") if p.is_file()}


def main() -> int:
    """Prints the table; returns 1 if a mistake was answered badly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="trained on the digits")
    parser.add_argument("--only", default="", help="commands that contain this text")
    workdir = parser.parse_args().workdir.absolute()
    only = parser.parse_args().only
    before, bad = files(workdir), 0
    print("| input | exit | answer |\n|---|---:|---|")
    with tempfile.TemporaryDirectory() as scratch:
        names = broken_files(pathlib.Path(scratch), workdir)

        def row(text: str, code: int, said: str) -> None:
            nonlocal bad
            sentences = [x for x in said.splitlines() if x.startswith("lpd")]
            good = code == 2 and len(sentences) == 1 and "Traceback" not in said
            bad += not good
            shown = " ".join(sentences) if good else f"**BAD** {said[-600:]}"
            for path, short in ((str(workdir), "RUN"), (scratch, "SCRATCH")):
                text, shown = text.replace(path, short), shown.replace(path, short)
            print(
                f"| `{text}` | {code} | {' '.join(shown.split()).replace('|', '/')} |", flush=True
            )

        for arguments in commands(names, str(workdir)):
            if only in " ".join(arguments):
                row(" ".join(arguments), *run_forked(arguments))
        if not only or only == "api":
            # Forking ends here: from now on jax has threads.
            sampler = lpd_jax.Sampler.load(workdir)
            for text, call in calls(sampler, workdir).items():
                try:
                    with contextlib.redirect_stderr(io.StringIO()):
                        call()
                    row(text, 0, "nothing was refused")
                except lpd_jax.InputError as error:
                    row(text, 2, f"lpd: {error}")
                except Exception as error:
                    row(text, 1, f"{type(error).__name__}: {error}")
    changed = sorted(files(workdir).items() ^ before.items())
    print(f"\n{bad} answered badly; {len(changed)} files of the workdir changed {changed[:3]}")
    return 1 if bad or changed else 0


if __name__ == "__main__":
    sys.exit(main())
