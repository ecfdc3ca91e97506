"""Locality-aware orders: ours, compiled and batched, against plain Python on one core.

    taskset -c 0 python benchmarks/orders.py

Prints one JSON line per setting: orders per second of both, their ratio, compile time, whether a
subset obeys the rule, and, where LPD_REFERENCE_DIR holds official orders, the p-value of the
hypothesis that their statistics and ours come from one distribution. Both run on the cores the
process may use, so pin it to one. Times are the best of several runs, as other processes only add.
"""

import json
import math
import os
import platform
import random
import time
from pathlib import Path

import jax
import numpy as np

from lpd_jax.generation.groups import official
from lpd_jax.generation.orders import LocalityAware
from lpd_jax.generation.schedule import Schedule
from lpd_jax.generation.validity import first_violation, same_distribution
from lpd_jax.viz.orders import statistics

SETTINGS = (  # grid, steps, repulsion, images a batch
    ((16, 16), 20, 2, 64),
    ((16, 16), 32, 2, 64),
    ((16, 16), 20, 3, 64),
    ((32, 32), 48, 4, 64),
)
REFERENCE = Path(os.environ.get("LPD_REFERENCE_DIR", "tests/reference"))


def plain_order(rng, grid, group_sizes, proximity, repulsion):
    """The rule in plain Python, with the sets and running minima a careful reader would use."""
    cells = [(y, x) for y in range(grid[0]) for x in range(grid[1])]
    order = [rng.choice(cells)]
    for size in group_sizes[1:]:
        taken = set(order)
        scored = []
        for y, x in cells:
            if (y, x) not in taken:
                score = 0.0
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        if (y + dy, x + dx) in taken:
                            score += 1 / math.hypot(dy, dx)
                scored.append((score, (y, x)))
        rng.shuffle(scored)
        scored.sort(key=lambda item: -round(item[0], 6))
        near = [cell for score, cell in scored if score >= proximity]
        far = [cell for score, cell in scored if score < proximity]
        order += plain_group(rng, near, far, size, repulsion)
    return [y * grid[1] + x for y, x in order]


def plain_group(rng, near, far, size, repulsion):
    """One group from the near cells, then by farthest-point sampling."""
    group, skipped = [], []
    while near and len(group) < size:
        y, x = near.pop(0)
        close = any(abs(y - v) <= repulsion and abs(x - u) <= repulsion for v, u in group)
        (skipped if close else group).append((y, x))
    rest = far + skipped + near
    if len(rest) <= size - len(group):
        return group + rest
    gaps = [min((math.dist(cell, pick) for pick in group), default=math.inf) for cell in rest]
    while len(group) < size:
        best = gaps.index(max(gaps)) if group else rng.randrange(len(rest))
        group.append(rest[best])
        gaps = [min(gap, math.dist(cell, rest[best])) for gap, cell in zip(gaps, rest, strict=True)]
    return group


def seconds(run, repeats):
    """Best wall time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(grid, steps, repulsion, batch):
    """One setting: the row to print."""
    sizes = official(math.prod(grid), steps)
    order = LocalityAware(1.0, repulsion)
    keys = jax.random.split(jax.random.key(0), 16 * batch)
    draw = jax.jit(lambda order, keys: jax.vmap(lambda k: order.draw(k, grid, sizes))(keys))
    start = time.perf_counter()
    compiled = draw.lower(order, keys[:batch]).compile()
    compile_s = time.perf_counter() - start
    orders = np.concatenate([compiled(order, k) for k in keys.reshape(16, batch)])
    ours = seconds(lambda: compiled(order, keys[:batch]).block_until_ready(), 20) / batch
    plain = min(
        seconds(lambda s=s: plain_order(random.Random(s), grid, sizes, 1.0, repulsion), 1)
        for s in range(5)
    )
    rule = {"proximity": 1.0, "repulsion": repulsion}
    subset = orders[:128]
    return {
        "grid": list(grid),
        "steps": steps,
        "repulsion": repulsion,
        "batch": batch,
        "orders_per_s": round(1 / ours),
        "plain_orders_per_s": round(1 / plain, 2),
        "ratio": round(plain / ours),
        "compile_s": round(compile_s, 2),
        "valid": f"{(first_violation(subset, grid, sizes, **rule) < 0).sum()} of {len(subset)}",
        "agreement_p": agreement(orders, grid, steps, repulsion),
    }


def agreement(orders, grid, steps, repulsion):
    """P-value of equal statistics with the official orders; None where there are none."""
    path = REFERENCE / f"orders_{16 * grid[0]}_{steps}steps_rep{repulsion}.npz"
    if not path.is_file():
        return None
    sizes = official(math.prod(grid), steps)
    features = [
        np.concatenate(list(statistics(np.asarray(schedule.step_map)).values()), 1)
        for schedule in (
            Schedule(orders, sizes, grid),
            Schedule(np.load(path)["orders"].astype(np.int32), sizes, grid),
        )
    ]
    return round(same_distribution(*features, permutations=5000), 3)


def main():
    device = jax.devices()[0]
    machine = {
        "device": device.device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    for setting in SETTINGS:
        print(json.dumps(measure(*setting) | machine), flush=True)


if __name__ == "__main__":
    main()
