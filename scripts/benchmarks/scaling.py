"""Speed by batch size, cameras, picture size, environments, processes and ranks."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch

from act.policies import make_policy
from act.presets import PRESETS
from act.run_folder import RunFolder
from demos.record import RecordConfig, record
from demos.robot import ALOHA
from demos.spec import EpisodeSpec
from envs import TASKS
from scripts.benchmarks import SIZES
from scripts.benchmarks.learning import make_batch, modes_of, stepping, timed
from scripts.benchmarks.simulation import evaluation_cases, record_cases
from scripts.benchmarks.timing import Case

TRAIN = Path(__file__).parents[1] / "train.py"
BATCH = 16
CONFIG = PRESETS["cpu"][0]


def scaling_cases(device: torch.device, folder: Path, workers: int, steps: int = 5, episodes: int = 8) -> list[Case]:
    """The work of the cpu preset, with one thing varied at a time.

    Args:
        folder: for the episodes that the ranks train on.
        workers: the largest number of processes.
        steps: training steps per measurement.
        episodes: recorded or evaluated per measurement.
    """
    small, large = SIZES
    shapes = {f"batch {batch}": (batch, 1, small) for batch in (8, BATCH, 32, 64)}
    shapes |= {f"batch {BATCH}, {n} cameras": (BATCH, n, small) for n in (2, 4)}
    shapes |= {f"batch {BATCH}, {h} x {w}": (BATCH, 1, (h, w)) for h, w in ((2 * small[0], 2 * small[1]), large)}
    cases = [
        Case(f"training, {name}", "samples/s", partial(_samples_per_s, *shape, steps, device))
        for name, shape in shapes.items()
    ]
    for num_envs in (1, 2, 4, 8):
        cases += evaluation_cases(None, episodes, num_envs, str(device))
    for n in sorted({1, workers}):
        cases += record_cases(episodes, n)
        cases.append(Case(f"training, ranks: {n}", "samples/s", _ranks(folder, n, 10 * steps)))
    return cases


def _samples_per_s(batch_size: int, cameras: int, size: tuple[int, int], steps: int, device: torch.device) -> float:
    spec = EpisodeSpec(ALOHA, {f"camera_{i}": size for i in range(cameras)}, env_state_dim=7)
    policy = make_policy(CONFIG, spec, pretrained=False).to(device)
    batch = make_batch(spec, CONFIG.chunk_size, batch_size, device)
    with stepping(policy, modes_of(device)[-1], device) as step:
        return batch_size / timed(lambda: step(batch), steps, device)


def _ranks(folder: Path, ranks: int, steps: int) -> Callable[[], float]:
    """Training by several processes that share the cores and a batch, started by torchrun."""

    def take() -> float:
        data = folder / "episodes"
        if not data.exists():
            record(RecordConfig(TASKS["transfer_cube"], {"top": SIZES[0]}), data, 3)
        with tempfile.TemporaryDirectory() as out:
            flags = f"--preset cpu --batch-size {BATCH} --steps {steps} --log-every {max(1, steps // 5)}"
            words = [*flags.split(), "--wandb", "disabled", "--data", str(data), "--out", f"{out}/run"]
            engine = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
            threads = str((os.cpu_count() or 1) // ranks)
            subprocess.run(
                [sys.executable, *engine, str(TRAIN), *words],
                check=True,
                capture_output=True,
                env={**os.environ, "OMP_NUM_THREADS": threads},
            )
            history = RunFolder(Path(out) / "run").history()
        return median([row["train/samples_per_s"] for row in history if "train/samples_per_s" in row][1:])

    return take
