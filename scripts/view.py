"""Look at episodes in a browser: in 3-D, with pictures, joints and stages, and what a policy makes of them.

    python scripts/view.py data/transfer_cube                           # a folder, or one file of it
    python scripts/view.py data/transfer_cube --checkpoint runs/cube    # predicted chunks, attention, keypoints, z
    python scripts/view.py results.json                                 # of scripts/rollout.py: acts it again

The page opens at http://127.0.0.1:8081. From another machine: ssh -L 8081:127.0.0.1:8081 HOST.
"""

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm
from tyro.conf import Positional, UseAppendAction

from act.errors import ConfigError
from act.run_folder import find_checkpoint
from demos.episode import Episode, check_dataset, find_episodes
from demos.record import spec_of
from demos.writer import EpisodeWriter
from envs.results import read_results
from envs.rollout import make_vector_env, rollout
from scripts import rollout as rollout_script
from scripts.common import run

if TYPE_CHECKING:  # with torch and timm these take seconds, which nobody waits for to read --help
    from act.policies import Policy


@dataclass(frozen=True)
class Args:
    """Look at episodes in a browser: in 3-D, with pictures, joints and stages, and what a policy makes of them."""

    what: Positional[Path]
    """An episode's file, a folder of episodes, or the JSON that scripts/rollout.py writes with --json."""
    checkpoint: Path | None = None
    """Run folder or checkpoint of a policy to look through; of a rollout's results, its own by default."""
    host: str = "127.0.0.1"
    """Address to listen on. 127.0.0.1: only this machine. Any other, such as 0.0.0.0: whoever has the printed address,
    which then ends in a secret, can look."""
    port: int = 8081
    """Port to listen on."""
    allow_origin: UseAppendAction[tuple[str, ...]] = ()
    """Scheme and host under which browsers reach the page too, such as https://lab.example of a proxy; repeatable."""
    shadows: bool = True
    """Shadows in the 3-D scene; without them a browser that has no GPU draws 1.5 to 2 times as fast."""


def main(args: Args) -> None:
    acts, settings, rows, paths = args.what.suffix == ".json", {}, [], []
    if acts:
        results = read_results(args.what)
        settings, rows = results["settings"], results["episodes"]
    else:
        paths = find_episodes(args.what) if args.what.is_dir() else [args.what]
        check_dataset(paths)
    checkpoint = None if args.checkpoint is None else find_checkpoint(args.checkpoint)

    from act.checkpoint import load_policy
    from scripts.pages.insight import Insight
    from scripts.pages.stage import Stage
    from scripts.pages.viewer import Source, ViewerPage, world_of

    with tempfile.TemporaryDirectory() as folder:
        policy = None if checkpoint is None else load_policy(checkpoint, "cpu")
        if acts:
            acted = _Acted(settings, Path(folder))
            policy = policy or acted.policy
            sources = [Source(_label(row), partial(acted, int(row["seed"]))) for row in rows]
        else:
            sources = [Source(path.stem, partial(Episode, path)) for path in paths]
        first = sources[0].load()
        env, insight, latents = world_of(first), None, None
        if policy is not None:
            insight = Insight(policy)
            _check_shows(policy, first)
            if not acts:  # a rollout is no demonstration: it has no latent
                latents = insight.latents([source.load() for source in tqdm(sources, "latents", leave=False)])
        model = None if env is None else env.model
        stage = Stage(model, args.host, args.port, "Episodes", args.allow_origin, args.shadows)
        try:
            page = ViewerPage(stage, sources, env, insight, latents)
            print(f"open {stage.url} in a browser; Ctrl-C ends", flush=True)
            page.run()
        finally:
            stage.close()


def _check_shows(policy: "Policy", episode: Episode) -> None:
    """ConfigError where the policy cannot look at the episode."""
    spec = episode.spec
    sizes = {name: spec.cameras.get(name) for name in policy.cameras}
    wanted = {name: policy.spec.cameras[name] for name in policy.cameras}
    if sizes != wanted or spec.joint_names != policy.spec.joint_names:
        raise ConfigError(
            f"{episode.path} does not go with the policy: {'; '.join(spec.differences(policy.spec))} "
            "(here: in the file, there: in the checkpoint)"
        )


def _label(row: dict) -> str:
    return f"seed {row['seed']}: {'success' if row['success'] else 'failure'}, stage {row['highest_stage']}"


class _Acted:
    """The episodes of a rollout, acted again when they are asked for: the same policy, settings and seed, up to the
    rounding of another number of environments at once."""

    def __init__(self, settings: dict, folder: Path):
        from act.agent import PolicyAgent
        from act.checkpoint import load_policy
        from act.device import pick_device, pick_dtype

        self._folder, self._settings = folder, settings
        known = {name: settings[name] for name in ("execute", "ensemble", "every", "horizon", "dtype")}
        args = rollout_script.Args(checkpoint=Path(settings["checkpoint"]), **known)
        self.policy = load_policy(args.checkpoint, "cpu")
        executor = rollout_script.executor_for(args, self.policy)
        self._agent = PolicyAgent(self.policy, executor, dtype=pick_dtype(args.dtype, pick_device("cpu")))
        cameras = {name: self.policy.spec.cameras[name] for name in self.policy.cameras}
        self._venv = make_vector_env(settings["env_id"], cameras=cameras, horizon=args.horizon)

    def __call__(self, seed: int) -> Episode:
        path = self._folder / f"seed_{seed}.hdf5"
        if path.exists():
            return Episode(path)
        spec = spec_of(self._venv.envs[0])  # pyright: ignore[reportAttributeAccessIssue] - one environment, here
        with EpisodeWriter(path, spec, seed=seed, expert="policy") as writer:
            steps = rollout(self._venv, self._agent, [seed], always_look=True)
            for step in tqdm(steps, f"acting seed {seed} again", self._settings["horizon"], leave=False):
                writer.append(
                    {name: value[0] for name, value in step.observation.items()}, step.action[0], step.reward[0]
                )
                if step.last:
                    writer.close(bool(step.info["is_success"][0]), bool(step.info["is_success_published"][0]))
        return Episode(path)


if __name__ == "__main__":
    run(main, Args)
