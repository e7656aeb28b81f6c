"""Look at episodes in a browser: in 3-D, with pictures, joints and stages, and what a policy makes of them.

    python scripts/view.py data/transfer_cube                           # a folder, or one file of it
    python scripts/view.py data/transfer_cube --checkpoint runs/cube    # predicted chunks, attention, keypoints, z
    python scripts/view.py results.json                                 # of scripts/rollout.py: acts it again

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
from demos.spec import EpisodeError, JpegColors
from demos.writer import EpisodeWriter
from envs.results import all_succeeded, read_results
from envs.rollout import rollout
from scripts.acting import agent_from, envs_for, resolved
from scripts.common import run

if TYPE_CHECKING:  # with torch and timm these take seconds, which nobody waits for to read --help
    from act.policies import Policy


@dataclass(frozen=True)
class Args:
    """Look at episodes in a browser: in 3-D, with pictures, joints and stages, and what a policy makes of them."""

    what: Positional[Path]
    """An episode's file, a folder of episodes, or the JSON that scripts/rollout.py writes with --json."""
    cameras: tuple[str, ...] | None = None
    """Cameras to show, where not all episodes have the same; otherwise all."""
    jpeg_colors: JpegColors = "auto"
    """Order of the colours in JPEG frames: bgr, rgb, or what the files say; see scripts/train.py."""
    checkpoint: Path | None = None
    """Run folder or checkpoint of a policy to look through; of a rollout's results, its own by default. Where this one
    has been moved, its new place."""
    text_encoder: str | None = None
    """module:function of the policy's text encoder, to embed instructions that are new to the policy. Other encoders
    than minilm run only if you name them here."""
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
    results, paths = None, []
    if args.what.suffix == ".json":
        results = read_results(args.what)
    else:
        try:
            args.what.stat()
        except FileNotFoundError:
            raise EpisodeError(f"{args.what}: no such file or folder") from None
        except OSError:
            pass  # the reader names what it is
        paths, notes = find_all_episodes([args.what])
        check_dataset(paths, cameras=args.cameras, jpeg_colors=args.jpeg_colors)
        for note in [*notes, *dataset_notes([_load(args, path) for path in paths])]:
            print(f"note: {note}")
    checkpoint = None if args.checkpoint is None else find_checkpoint(args.checkpoint)

    from act.checkpoint import load_policy
    from scripts.pages.policy_inspector import PolicyInspector
    from scripts.pages.scene_page import ScenePage
    from scripts.pages.viewer import Source, ViewerPage, world_of

    with tempfile.TemporaryDirectory() as folder:
        policy, encoder = None, args.text_encoder
        if results is not None:
            rerun, encoder = Rerun(results, Path(folder), encoder, checkpoint), None
            policy = rerun.policy
            sources = [Source(label, partial(rerun, *episode)) for label, episode in labelled(results["episodes"])]
        else:
            sources = [Source(path.stem, partial(_load, args, path)) for path in paths]
        if checkpoint is not None:
            policy = load_policy(checkpoint, "cpu", text_encoder=encoder)
        first = sources[0].load()
        env, inspector, latents = world_of(first), None, None
        if policy is not None:
            inspector = PolicyInspector(policy, always_told=results is None)
            _check_shows(policy, first)
            if results is None:  # a rollout is no demonstration: it has no latent
                latents = inspector.latents([source.load() for source in tqdm(sources, "latents", leave=False)])
        model = None if env is None else env.model
        scene_page = ScenePage(model, args.host, args.port, "Episodes", args.allow_origin, args.shadows)
        try:
            page = ViewerPage(scene_page, sources, env, inspector, latents)
            print(f"open {scene_page.url} in a browser; Ctrl-C ends", flush=True)
            page.run()
        finally:
            scene_page.close()


def _load(args: Args, path: Path) -> Episode:
    episode = Episode(path, cameras=args.cameras, jpeg_colors=args.jpeg_colors)
    if args.cameras is not None:
        episode.spec = replace(episode.spec, cameras={name: episode.spec.cameras[name] for name in args.cameras})
    return episode


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


def labelled(rows: list[dict[str, Any]]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Of each episode of a rollout's results a label, its seed, and which of the seed's episodes it is."""
    before, several = Counter[int](), Counter(row["seed"] for row in rows)
    for row in rows:
        seed, success = row["seed"], "success" if row["success"] else "failure"
        sample = f", sample {before[seed] + 1}" if several[seed] > 1 else ""
        yield f"seed {seed}{sample}: {success}, stage {row['highest_stage']}", (seed, before[seed])
        before[seed] += 1


class Rerun:
    """The episodes of a rollout, acted again when they are asked for: of the same policy, settings, seeds and samples,
    up to the rounding of another number of environments at once.

    Args:
        results: what `read_results` gave.
        folder: where the episodes' files go.
        text_encoder: the encoder that the user names, see `load_policy`.
        moved: where the checkpoint may be that is no longer where the results say.

    Raises:
        ConfigError: the settings are not those of a rollout, or the checkpoint does not go with them.
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
                raise ConfigError(f"{checkpoint}, which the results name, is not there; say where with --checkpoint")
            checkpoint = moved
        self.policy = load_policy(checkpoint, "cpu", settings.sampling, text_encoder)
        if checkpoint.is_file() and stored.get("checkpoint_sha256") not in (None, checksum(checkpoint)):
            logging.warning("%s is not what it was at the rollout: its episodes are others", checkpoint)
        if "dtype" not in stored and settings.n_action_steps is settings.temporal_ensemble_coeff is None:
            # Before there was a choice of dtype, half of a chunk was executed by default.
            settings = replace(settings, n_action_steps=-(-self.policy.chunk_size // 2))
        # Compiled, it would answer the same, a minute later.
        self.settings = replace(resolved(settings, self.policy), compile=False)
        self._agent = agent_from(self.settings, self.policy, self.task)
        self._venv = envs_for(self.settings, self.policy, self.task, 1)

    def __call__(self, seed: int, sample: int = 0) -> Episode:
        """The episode of a seed; of several of this seed the one with the number `sample`."""
        path = self._folder / f"seed_{seed}_{sample}.hdf5"
        if path.exists():
            return Episode(path)
        spec = spec_of(self._venv.envs[0])  # pyright: ignore[reportAttributeAccessIssue] - one environment, here
        words = self._agent.instruct(seed)
        self._agent.first_sample = sample
        with EpisodeWriter(path, spec, seed=seed, expert="policy") as writer:
            steps = rollout(self._venv, self._agent, [seed], always_render=True, stop_when=all_succeeded)
            for step in tqdm(steps, f"acting seed {seed} again", self.settings.horizon, leave=False):
                writer.append(
                    {name: value[0] for name, value in step.observation.items()}, step.action[0], step.reward[0]
                )
                if step.last:
                    strict, published = (bool(step.info[name][0]) for name in ("is_success", "is_success_published"))
                    writer.close(strict, published, {"instruction": words} if words else {})
        return Episode(path)


if __name__ == "__main__":
    run(main, Args)
