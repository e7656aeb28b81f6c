"""One hand grasps a thin thing, puts it down and grasps a thick one: both grasps are demonstrated, and both are learnt.

The second closing leaves four times the gap of the first. The training takes some ten minutes on a core, so it is slow:
`pytest -n 0 -s -m slow tests/test_two_grasps.py`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo  # before anything renders: afterwards, loading it crashes on Mesa
from command import forked
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from act.agent import PolicyAgent
from act.checkpoint import load_policy
from act.chunking import default_executor
from act.grippers import gripper_events
from act.targets import targets_of
from demos.episode import Episode, find_episodes
from demos.motion import Motion, MotionEngine, Segment, pause
from demos.record import spec_of
from demos.robot import ALOHA_GRIPPER_RANGE as GRIPPER_RANGE
from demos.spec import ALOHA_JOINTS
from demos.tool_poses import CLOSED, OPEN, pitched
from demos.writer import EpisodeWriter
from envs.bimanual import ASSETS, BimanualEnv, pose
from envs.results import evaluate, summarize
from envs.rollout import rollout

HORIZON, STEPS = 650, 5000
SIZES = {"plate": "0.022 0.006 0.022", "block": "0.022 0.022 0.022"}  # m, half of each side; grasped along the second


class TwoGraspsEnv(BimanualEnv):
    """The right hand lifts a plate of 12 mm, puts it down and lifts a block of 44 mm.

    Reward stages: 1 it touches the plate, 2 the plate is off the table, 3 it touches the block after that, 4 the block
    is off the table.
    """

    task = "Lift the plate, put it down, lift the block."
    objects = ("plate", "block")

    def __init__(self, folder: Path, **settings):
        stack = (ASSETS / "stack.xml").read_text().replace("station.xml", str(ASSETS / "station.xml"))
        for old, new in (("left_block", "plate"), ("right_block", "block")):
            stack = stack.replace(f'"{old}" class="block"', f'"{new}" class="block" size="{SIZES[new]}"')
            stack = stack.replace(f'"{old}"', f'"{new}"')
        (folder / "two_grasps.xml").write_text(stack)
        self.model_file = str(folder / "two_grasps.xml")  # pyright: ignore[reportAttributeAccessIssue]
        super().__init__(**settings)

    def sample_object_poses(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        self._lifted = False
        plate, block = rng.uniform((0.14, 0.42), (0.2, 0.48)), rng.uniform((0.14, 0.56), (0.2, 0.62))
        return {"plate": pose(plate, 0.03), "block": pose(block, 0.03)}

    def terms(self, touching: set[frozenset[str]]) -> dict[str, bool]:
        terms = {}
        for name in self.objects:
            terms[f"touches_{name}"] = frozenset(("right_gripper", name)) in touching
            terms[f"{name}_off"] = terms[f"touches_{name}"] and frozenset(("table", name)) not in touching
        self._lifted |= terms["plate_off"]
        return terms | {"plate_was_off": self._lifted}

    def stage(self, terms: dict[str, bool]) -> int:
        if terms["plate_was_off"] and terms["touches_block"]:
            return 4 if terms["block_off"] else 3
        return 2 if terms["plate_was_off"] else int(terms["touches_plate"])

    def goal_reached(self, terms: dict[str, bool]) -> bool:
        return terms["plate_was_off"] and terms["block_off"] and not terms["touches_plate"]


class Person:
    """Demonstrates the task, one environment at a time."""

    cameras: tuple[str, ...] = ()

    def __init__(self):
        self.engine = MotionEngine()

    def reset(self, seeds, observation):
        plate, block = observation["env_state"][0][:2].astype(float), observation["env_state"][0][7:9].astype(float)
        pick = pitched("right")
        here, there, then = ([*place, 0.02] for place in (plate, plate - [0.12, 0.0], block))
        up = np.array([0, 0, 0.09])

        def visit(place, steps, gripper, then):
            over = Segment(steps, place + up, pick, gripper, "over")
            return [over, Segment(35, place, pick, gripper, "reach"), Segment(25, place, pick, then, "close")]

        moves = [
            *visit(here, 80, OPEN, CLOSED),
            Segment(35, here + up, pick, CLOSED),
            *visit(there, 45, CLOSED, OPEN),
            Segment(35, there + up, pick, OPEN),
            *visit(then, 60, OPEN, CLOSED),
            Segment(50, then + up, pick, CLOSED),
        ]
        stay = {"left": [pause(self.engine.home("left"), 1)], "right": moves}
        end = {arm: [pause(stay[arm][-1], 40)] for arm in stay}
        motion = self.engine.from_home(Motion(stay, end))
        (self.commands, _), self.t = self.engine.trajectory(motion), 0

    def needs_images(self) -> bool:
        return False

    def __call__(self, observation):
        self.t += 1
        return self.commands[min(self.t, len(self.commands)) - 1][None]


def worlds(folder: Path, n: int) -> SyncVectorEnv:
    settings = dict(cameras=("top",), height=120, width=160, horizon=HORIZON, lazy=True)
    return SyncVectorEnv([lambda: TwoGraspsEnv(folder, **settings)] * n, autoreset_mode=AutoresetMode.DISABLED)


def demonstrate(folder: Path, episodes: int) -> list[Episode]:
    venv, person = worlds(folder, 1), Person()
    for seed in range(episodes):
        path = folder / f"episode_{seed}.hdf5"
        with EpisodeWriter(path, spec_of(venv.envs[0]), seed=seed, expert="person") as writer:
            for step in rollout(venv, person, [seed], always_render=True):
                observation = {name: value[0] for name, value in step.observation.items()}
                writer.append(observation, step.action[0], float(step.reward[0]))
                if step.t + 1 == len(person.commands):
                    break
            assert step.info["is_success"][0]
            writer.close(True, True)
    venv.close()
    return [Episode(path) for path in find_episodes(folder)]


def test_both_grasps_are_demonstrated(tmp_path):
    (episode,) = demonstrate(tmp_path, 1)
    action, gripper = episode.action, ALOHA_JOINTS.index("right_gripper")
    closings = [(a, b) for a, b in gripper_events(action[:, gripper], 1.0) if action[b, gripper] < action[a, gripper]]
    assert len(closings) == 2
    thin, thick = (episode.qpos[start:stop, gripper].min() for start, stop in closings)
    assert thin - GRIPPER_RANGE[0] < (thick - GRIPPER_RANGE[0]) / 3
    targets = targets_of(episode, 51, drop_idle_steps=True, drop_failed_grasps=True)
    assert targets.failed == []
    np.testing.assert_array_equal(targets.action, action)


@pytest.mark.slow
def test_both_grasps_are_learnt(tmp_path):
    demonstrate(tmp_path, 50)
    flags = ["--preset", "cpu", "--steps", STEPS, "--wandb", "disabled"]
    done = forked("train.py", "--data", tmp_path, "--out", tmp_path / "run", *flags, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    policy = load_policy(tmp_path / "run" / "best.pt", torch.device("cpu"))
    venv = worlds(tmp_path, 10)
    results = evaluate(venv, PolicyAgent(policy, default_executor(policy.chunk_size)), range(100_000, 100_050))
    venv.close()
    summary = summarize(results)
    print(summary)
    assert summary["success_rate"] > 0.7
