"""Show episodes in a browser: in 3-D, with images, joints, reward stages and the predictions of a policy.

    python scripts/view.py data/transfer_cube                          # a folder, or one file of it
    python scripts/view.py data/transfer_cube --checkpoint runs/cube   # predicted chunks, attention, keypoints, z
    python scripts/view.py results.json                                # of scripts/rollout.py: repeats its episodes
    python scripts/view.py --checkpoint demo                           # rollouts of a policy

The page opens at http://127.0.0.1:8081. From another machine: ssh -L 8081:127.0.0.1:8081 HOST.
"""

import scripts.early  # noqa: F401

# isort: split
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from tyro.conf import Positional, UseAppendAction

from act.agent_settings import AgentSettings
from act.errors import ConfigError
from act.run_folder import find_checkpoint
from demos.episode import Episode, check_dataset, find_all_episodes
from demos.notes import dataset_notes
from demos.record import spec_of
from demos.spec import EpisodeError, EpisodeSpec, JpegColors
from demos.writer import EpisodeWriter
from envs.results import all_succeeded, read_results
from envs.rollout import rollout
from scripts.acting import agent_for, envs_for, resolved, tasks_of
from scripts.common import run

if TYPE_CHECKING:  # with torch and timm these take seconds, which nobody waits for to read --help
    from act.policies import Policy


UNSEEN, SHOWN = 100_000, 10
"""First seed and number of the rollouts of a policy that is shown without episodes or results."""


@dataclass(frozen=True)
class Args:
    """Show episodes in a browser: in 3-D, with images, joints, reward stages and the predictions of a policy."""

    what: Positional[Path | None] = None
    """An episode's file, a folder of episodes, or the JSON that scripts/rollout.py writes with --json. Default:
    rollouts of --checkpoint."""
    cameras: tuple[str, ...] | None = None
    """Cameras to show. Default: all, which every episode must have."""
    jpeg_colors: JpegColors = "auto"
    """Order of the colours in JPEG frames. auto: as the files say; see scripts/train.py."""
    checkpoint: Path | None = None
    """Run folder or checkpoint of a policy whose predictions to show. Default for the results of a rollout: its policy.
    If that file was moved, give its new path."""
    text_encoder: str | None = None
    """module:function of the policy's text encoder, which embeds new instructions. Encoders other than minilm run only
    if you name them here."""
    host: str = "127.0.0.1"
    """Address to listen on. 127.0.0.1: this machine only. Any other, such as 0.0.0.0: whoever has the printed address,
    which then ends in a secret token."""
    port: int = 8081
    """Port to listen on."""
    allow_origin: UseAppendAction[tuple[str, ...]] = ()
    """Another origin of the page, such as https://lab.example of a proxy; repeatable."""
    shadows: bool = True
    """Draw shadows. Without them, a browser without a GPU draws 1.5 to 2 times as fast."""


def main(args: Args) -> None:
    results, episodes = None, []
    checkpoint = None if args.checkpoint is None else find_checkpoint(args.checkpoint)
    if args.what is None:
        if checkpoint is None:
            raise ConfigError("nothing to show; name episodes, results of scripts/rollout.py, or a --checkpoint")
        results = unseen_seeds(checkpoint)
    elif args.what.suffix == ".json":
        results = read_results(args.what)
    else:
        episodes = read_episodes(args.what, args)

    from act.checkpoint import load_policy
    from scripts.pages.policy_inspector import PolicyInspector
    from scripts.pages.scene_page import ScenePage
    from scripts.pages.viewer import Source, ViewerPage, env_of

    with tempfile.TemporaryDirectory() as folder:
        policy, encoder = None, args.text_encoder
        if results is not None:
            rerun, encoder = Rerun(results, Path(folder), encoder, checkpoint), None
            policy = rerun.policy
            sources = [Source(label, partial(rerun, *episode)) for label, episode in labelled(results["episodes"])]
        else:
            sources = [Source(episode.path.stem, partial(_same, episode)) for episode in episodes]
        if checkpoint is not None:
            policy = load_policy(checkpoint, "cpu", text_encoder=encoder)
        first = sources[0].load()
        env, inspector, latents = env_of(first), None, None
        if policy is not None:
            inspector = PolicyInspector(policy, needs_instruction=results is None)
            _check_fits(policy, first)
            if results is None:  # a rollout is no demonstration, so it has no latent
                latents = inspector.latents(tqdm(episodes, "latents", leave=False))
        model = None if env is None else env.model
        scene_page = ScenePage(model, args.host, args.port, "Episodes", args.allow_origin, args.shadows)
        try:
            page = ViewerPage(scene_page, sources, env, inspector, latents)
            print(f"open {scene_page.url} in a browser; Ctrl-C ends", flush=True)
            page.run()
        finally:
            scene_page.close()


def read_episodes(what: Path, args: Args) -> list[Episode]:
    """The episodes to show, each opened once; prints the notes about them."""
    try:
        what.stat()
    except FileNotFoundError:
        raise EpisodeError(f"{what}: no such file or folder") from None
    except OSError:
        pass  # the reader says what is wrong
    paths, notes = find_all_episodes([what])
    episodes = [Episode(path, cameras=args.cameras, jpeg_colors=args.jpeg_colors) for path in paths]
    check_dataset(episodes, cameras=args.cameras)
    if args.cameras is not None:
        for episode in episodes:
            cameras = {name: episode.spec.cameras[name] for name in args.cameras}
            episode.spec = replace(episode.spec, cameras=cameras)
    for note in [*notes, *dataset_notes(episodes)]:
        print(f"note: {note}")
    return episodes


def _same(episode: Episode) -> Episode:
    return episode


def _check_fits(policy: "Policy", episode: Episode) -> None:
    """ConfigError where the policy does not take the episode's observations."""
    spec = episode.spec
    sizes = {name: spec.cameras.get(name) for name in policy.cameras}
    wanted = {name: policy.spec.cameras[name] for name in policy.cameras}
    if sizes != wanted or spec.joint_names != policy.spec.joint_names:
        raise ConfigError(
            f"{episode.path} does not go with the policy: {'; '.join(spec.differences(policy.spec))} "
            "(here: in the file, there: in the checkpoint)"
        )


def labelled(rows: list[dict[str, Any]]) -> Iterator[tuple[str, tuple[int, int]]]:
    """For each episode of a rollout: a label, its seed, and its number among the episodes of the seed."""
    before, several = Counter[int](), Counter(row["seed"] for row in rows)
    for row in rows:
        seed = row["seed"]
        sample = f", sample {before[seed] + 1}" if several[seed] > 1 else ""
        result = (
            f": {'success' if row['success'] else 'failure'}, stage {row['highest_stage']}" if "success" in row else ""
        )
        yield f"seed {seed}{sample}{result}", (seed, before[seed])
        before[seed] += 1


def unseen_seeds(checkpoint: Path) -> dict[str, Any]:
    """What results.json would hold of rollouts that were not done yet.

    Raises:
        ConfigError: the policy was trained on no simulated task, or on several.
    """
    from act.checkpoint import read_checkpoint

    task = tasks_of(checkpoint, EpisodeSpec.from_dict(read_checkpoint(checkpoint)["spec"]), None)[0]
    settings = {"checkpoint": str(checkpoint), "env_id": task, "dtype": "float32"}
    return {"settings": settings, "episodes": [{"seed": UNSEEN + i} for i in range(SHOWN)]}


class Rerun:
    """Repeats the episodes of a rollout on demand, with the same policy, settings, seeds and samples. They may differ
    by the rounding of another batch size.

    Args:
        results: of `read_results`.
        folder: for the files of the episodes.
        text_encoder: the encoder that the user named, see `load_policy`.
        moved: the checkpoint, if it is no longer where the results say.

    Raises:
        ConfigError: the settings are not those of a rollout, or the checkpoint does not fit them.
    """

    def __init__(
        self, results: dict[str, Any], folder: Path, text_encoder: str | None = None, moved: Path | None = None
    ):
        from act.checkpoint import checksum, load_policy

        stored, self._folder = results["settings"], folder
        if not all(isinstance(stored.get(name), str) for name in ("checkpoint", "env_id")):
            raise ConfigError("the results do not name the rollout's checkpoint and env_id; roll out again")
        settings, self.task = AgentSettings.from_results(stored), stored["env_id"]
        checkpoint = Path(stored["checkpoint"])
        if not checkpoint.exists():
            if moved is None:
                raise ConfigError(
                    f"{checkpoint}, which the results name, does not exist; give its path with --checkpoint"
                )
            checkpoint = moved
        self.policy = load_policy(checkpoint, "cpu", settings.sampling, text_encoder)
        if checkpoint.is_file() and stored.get("checkpoint_sha256") not in (None, checksum(checkpoint)):
            logging.warning("%s has changed since the rollout: its episodes differ", checkpoint)
        if "dtype" not in stored and settings.n_action_steps is settings.temporal_ensemble_coeff is None:
            # Results without a dtype are older than ensembling by default: half of each chunk was executed.
            settings = replace(settings, n_action_steps=-(-self.policy.chunk_size // 2))
        # A compiled policy predicts the same, and takes a minute to compile.
        self.settings = replace(resolved(settings, self.policy), compile=False)
        self._agent = agent_for(self.settings, self.policy, self.task)
        self._venv = envs_for(self.settings, self.policy, self.task, 1)

    def __call__(self, seed: int, sample: int = 0) -> Episode:
        """The episode of a seed; `sample` is its number among the episodes of the seed."""
        path = self._folder / f"seed_{seed}_{sample}.hdf5"
        if path.exists():
            return Episode(path)
        spec = spec_of(self._venv.envs[0])  # pyright: ignore[reportAttributeAccessIssue] - one environment, here
        words = self._agent.instruct(seed)
        self._agent.first_sample = sample
        with EpisodeWriter(path, spec, seed=seed, expert="policy") as writer:
            steps = rollout(self._venv, self._agent, [seed], always_render=True, stop_when=all_succeeded)
            for step in tqdm(steps, f"repeating seed {seed}", self.settings.horizon, leave=False):
                writer.append(
                    {name: value[0] for name, value in step.observation.items()}, step.action[0], step.reward[0]
                )
                if step.last:
                    strict, published = (bool(step.info[name][0]) for name in ("is_success", "is_success_published"))
                    writer.close(strict, published, {"instruction": words} if words else {})
        return Episode(path)


if __name__ == "__main__":
    run(main, Args)
