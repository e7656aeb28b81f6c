"""Laws of words: sentences are embedded once, every start is told one of its episode's, and policies listen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command import roll_out, train
from messages import refusal, says
from test_agent_settings import spec
from tiny import BLIND, PLACES, SPEC, THREE_CAMERAS, TINY, Letters, family, make_batch, write_episodes

from act.agent import PolicyAgent
from act.checkpoint import describe, load_policy, to_bytes
from act.chunking import OpenLoop
from act.dataset import ChunkDataset
from act.errors import ConfigError
from act.language import InstructionEncoder, MiniLM
from act.policies import GENERATORS, Policy, PolicySettings, make_policy
from act.policies.generators.config import RegressionConfig
from act.policies.generators.cvae import CVAE
from act.policies.vision import Keypoints
from act.presets import PRESETS, settings
from act.sampling import BEGINNING
from demos.phrases import PHRASINGS_PER_EPISODE, SEEN, UNSEEN, expanded, phrasings, sample_phrasings
from demos.spec import EpisodeError
from demos.tasks import TASKS as MOTIONS
from envs import TASKS
from envs.results import read_results
from envs.video import captioned

K, GIVE_CUBE = TINY.chunk_size, TASKS["give_cube"]
LISTENS = {"text_encoder": "tiny:Letters", "text_dim": Letters.dim}


def test_a_grammar_is_all_of_its_sentences():
    assert expanded("a {b|c} d{|e}") == ["a b d", "a b de", "a c d", "a c de"]
    assert expanded("plain") == ["plain"]


def test_every_way_of_every_task_has_words_and_paraphrases_that_no_demonstration_is_told():
    for env_id, task in MOTIONS.items():
        ways = task.smooth
        assert ways.keys() == task.published.keys()
        assert SEEN[env_id].keys() == UNSEEN[env_id].keys() == ways.keys()
        seen = {sentence for way in ways for sentence in phrasings(env_id, way)}
        assert len(seen) == sum(len(phrasings(env_id, way)) for way in ways), "no two ways are told with the same words"
        for way in ways:
            assert len(UNSEEN[env_id][way]) == (12 if env_id == "BimanualHandOver-v0" else 13)
            assert not seen & set(UNSEEN[env_id][way])
            assert len(set(sample_phrasings(env_id, way, 7))) == PHRASINGS_PER_EPISODE
            assert (
                sample_phrasings(env_id, way, 7) == sample_phrasings(env_id, way, 7) != sample_phrasings(env_id, way, 8)
            )
    assert sample_phrasings("Juggling-v0", "", 0) == []


def test_a_sentence_is_embedded_once_and_remembered(monkeypatch):
    asked = []
    embed = Letters.__call__
    monkeypatch.setattr(Letters, "__call__", lambda self, texts: asked.extend(texts) or embed(self, texts))
    sentences = InstructionEncoder("tiny:Letters", Letters.dim)
    vectors = sentences(["abba", "cab", "abba"])
    assert vectors.tolist()[0] == vectors.tolist()[2] == [2, 2, 0, 0, 0, 0, 0, 0]
    again = InstructionEncoder(**sentences.to_dict())
    assert torch.equal(again(["cab"]), vectors[1:2])
    assert asked == ["abba", "cab"]
    again(["dead"])
    assert asked == ["abba", "cab", "dead"]
    sentences.fit([["abba", "cab"], ["head"]])
    assert asked == ["abba", "cab", "dead", "head"]
    fitted = InstructionEncoder(**sentences.to_dict())
    assert torch.equal(fitted(["cab", "head"]), sentences(["cab", "head"]))
    for wrong in ("oracle", "tiny:nothing", "nowhere:Letters"):
        with pytest.raises(ConfigError, match="unknown text encoder"):
            InstructionEncoder(wrong, 8)(["a"])
    with pytest.raises(ConfigError, match="makes 8 numbers of a sentence, text_dim is 384; use --text-dim 8"):
        InstructionEncoder("tiny:Letters", 384)(["a"])


def test_what_sentences_of_one_meaning_do_not_share_does_not_matter():
    """Here a means one thing, b another, and c, d and e mean nothing, however often they occur."""
    sentences = InstructionEncoder("tiny:Letters", Letters.dim)
    clutter = ["", "cccc", "dddd", "eee", "ccccdddd", "ccceee"]
    one, other = (["".join((meant, what)) for what in clutter] for meant in "ab")
    before = sentences(["a", "b", "acccc"])
    assert (before[0] - before[2]).norm() > 2 * (before[0] - before[1]).norm()
    sentences.fit([one, other])
    after = sentences(["a", "b", "acccc", None])
    assert (after[0] - after[1]).norm() > 2 * (after[0] - after[2]).norm()
    assert not after[3].any(), "to say nothing is to mean all of them"
    torch.testing.assert_close(sentences([*one, *other]).mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    apart = torch.stack([sentences(same) - sentences(same).mean(0) for same in (one, other)])
    spread = apart.flatten(0, 1).square().sum(0) / (2 * (len(clutter) - 1))
    assert float(spread.max()) < 1, "what is meant by text_noise 1 is at least as much as paraphrases differ"
    single = InstructionEncoder("tiny:Letters", Letters.dim)
    single.fit([["abc"]])
    assert torch.isfinite(single(["abc", "h"])).all(), "a single sentence differs from nothing"


def test_similar_meanings_are_similar_vectors():
    """Of the real encoder, whose weights come with a package."""
    lift, raise_, pour = MiniLM()(["lift the tray", "raise the tray with both arms", "pour the balls"])
    assert lift.shape == (MiniLM.dim,)
    assert lift @ raise_ > lift @ pour + 0.2


def test_which_hand_is_meant_stands_out():
    """Of the real encoder and the real phrasings: sentences that were not fitted to are nearest to those of their hand.

    Of its numbers as they are, how a sentence is put weighs more than which hand is named.
    """
    ways = SEEN[GIVE_CUBE]
    sentences = InstructionEncoder("minilm", MiniLM.dim)

    def right() -> float:
        centres = torch.stack([sentences(phrasings(GIVE_CUBE, way)).mean(0) for way in ways])
        heard = [
            int(torch.cdist(sentences(UNSEEN[GIVE_CUBE][way]), centres).argmin(1).eq(i).sum())
            for i, way in enumerate(ways)
        ]
        return sum(heard) / sum(len(UNSEEN[GIVE_CUBE][way]) for way in ways)

    before = right()
    sentences.fit([sample_phrasings(GIVE_CUBE, way, seed) for seed in range(10) for way in ways])
    assert right() > 0.9 > before


@pytest.fixture
def two_tasks(tmp_path) -> list[Path]:
    other = replace(SPEC, env_ids=("Other-v0",), env_state_dim=21, task="else")
    first = write_episodes(tmp_path / "one", lengths=(40, 40), instruction=["abc", "aabbc", "a"])
    second = write_episodes(tmp_path / "two", lengths=(20,), spec=other, instruction="hhg")
    return [*sorted(first.glob("*.hdf5")), *second.glob("*.hdf5")]


def test_one_data_set_of_several_tasks_takes_as_many_starts_of_each(two_tasks):
    dataset = ChunkDataset(two_tasks, K, val_fraction=0.0, instructed=True)
    assert dataset.spec.env_ids == ("Tiny-v0", "Other-v0")
    assert dataset.spec.env_state_dim == 0
    sentences = InstructionEncoder("tiny:Letters", Letters.dim)
    dataset.embed(sentences)
    counts = np.bincount(dataset.timeline.episode[dataset.train].numpy())
    assert counts.tolist() == [40, 40, 80]
    batch = dataset.gather(dataset.train)
    assert batch.observation.instruction is not None
    first, second = batch.observation.instruction.split(80)
    torch.testing.assert_close(first.unique(dim=0), sentences(["abc", "aabbc", "a"]).unique(dim=0))
    torch.testing.assert_close(second.unique(dim=0), sentences(["hhg"]))
    again = ChunkDataset(two_tasks, K, val_fraction=0.0, instructed=True)
    again.embed(InstructionEncoder("tiny:Letters", Letters.dim))
    again.cache("ram", torch.device("cpu"))
    told_again = again.gather(dataset.train).observation.instruction
    assert told_again is not None
    assert torch.equal(told_again, batch.observation.instruction)


def test_where_words_decide_starts_are_often_beginnings(tmp_path):
    for preset in PRESETS:
        assert settings(preset, language=True)[1].beginning_fraction == 0.3
        assert settings(preset)[1].beginning_fraction == 0
    folder = write_episodes(tmp_path / "long", lengths=(100, 120), instruction="abc")
    dataset = ChunkDataset(folder, K, val_fraction=0.0, instructed=True, beginning_fraction=0.3)
    step = dataset.timeline.since_first[dataset.train]
    assert float((step < BEGINNING).float().mean()) == pytest.approx(0.3, abs=0.05)
    untold = ChunkDataset(folder, K, val_fraction=0.0)
    assert dataset.train.unique().equal(untold.train), "every start is among them"
    dataset.embed(InstructionEncoder("tiny:Letters", Letters.dim))
    stats = dataset.stats()
    for name in ("qpos", "action"):
        assert all(map(torch.equal, stats[name], untold.stats()[name])), f"{name} is measured as ever"


def test_instructions_have_noise_in_training_alone():
    config = PLACES.replace(film=False, **LISTENS)
    policy = make_policy(config, THREE_CAMERAS)
    observation = make_batch(2).observation
    observation.instruction = torch.zeros(2, 8)

    def encoded() -> torch.Tensor:
        instruction = policy.encoder(observation).instruction
        assert instruction is not None
        return instruction

    policy.eval()
    assert torch.equal(*encoded())
    policy.train()
    assert (encoded()[0] - encoded()[1]).abs().max() > 1e-2
    policy.encoder.text_noise = 0.0
    assert torch.equal(*encoded())
    with pytest.raises(ConfigError, match="text_noise"):
        config.replace(text_noise=-1.0)


def test_several_tasks_need_words_and_words_must_be_there(two_tasks, tmp_path):
    with pytest.raises(EpisodeError, match="does not go with"):
        ChunkDataset(two_tasks, K)
    silent = write_episodes(tmp_path / "silent")
    with pytest.raises(ConfigError, match=r"no instruction .*--text-encoder"):
        ChunkDataset(silent, K, instructed=True)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("base", [BLIND, PLACES.replace(**LISTENS)], ids=["poses", "pictures and places"])
def test_every_generator_uses_the_instruction(name, base):
    torch.manual_seed(0)
    policy = make_policy(family(name, base.replace(**LISTENS)), THREE_CAMERAS).train()
    batch = replace(make_batch(4), keyframe=torch.randn(4, 8) / 4)
    with pytest.raises(ConfigError, match="needs an instruction"):
        policy(batch)
    batch.observation.instruction = torch.randn(4, 8)
    policy(batch)["loss"].backward()
    assert [key for key, p in policy.named_parameters() if p.requires_grad and p.grad is None] == []
    policy.eval()
    chance = torch.randn(4, policy.noise_dim)
    before = policy.predict(batch.observation, chance)
    batch.observation.instruction = torch.randn(4, 8)
    assert (policy.predict(batch.observation, chance) - before).abs().max() > 1e-5


def test_words_decide_what_keypoints_look_for():
    """At first they do not: a policy with FiLM begins as the one without."""
    policy = make_policy(PLACES.replace(**LISTENS), THREE_CAMERAS).eval()
    seen = make_batch(2).observation
    seen.instruction = torch.randn(2, 8)
    before = policy.keypoints(seen)["top"]
    assert isinstance(policy, Policy)
    assert policy.encoder.vision is not None
    [keypoints] = policy.encoder.vision.keypoints
    assert isinstance(keypoints, Keypoints)
    assert keypoints.film is not None
    slow, fast = policy.parameter_groups(1.0)
    assert not {id(p) for p in fast["params"]} & {id(p) for p in keypoints.film.parameters()}
    assert {id(p) for p in slow["params"]} >= {id(p) for p in keypoints.film.parameters()}
    maps = policy.encoder.vision._maps(seen.images)[0][2][0]
    keypoints.film, film = None, keypoints.film
    torch.testing.assert_close(before, policy.keypoints(seen)["top"])
    keypoints.film = film
    torch.nn.init.normal_(film.weight)
    after = policy.keypoints(seen)["top"]
    assert (after - before).abs().max() > 1e-3
    seen.instruction = seen.instruction.flip(0)
    told = policy.keypoints(seen)["top"]
    assert (told - after).abs().max() > 1e-3
    words = policy.encoder.encode_instruction(seen)
    two_cameras = keypoints.find(torch.cat([maps, maps]), words)
    assert torch.equal(*two_cameras.chunk(2))
    assert words is not None
    scaled = maps * (1 + film(words))[..., None, None]
    keypoints.film = None
    torch.testing.assert_close(two_cameras.chunk(2)[0], keypoints.find(scaled), rtol=1e-4, atol=1e-5)


def test_the_condition_reaches_encoder_and_prior_of_the_cvae():
    torch.manual_seed(0)
    config = BLIND.replace(prior="learned", **LISTENS)
    policy, batch = Policy(config, THREE_CAMERAS).eval(), make_batch(2)
    batch.observation.instruction = torch.zeros(2, 8)
    generator = policy.generator
    assert isinstance(generator, CVAE)
    codes, prior = policy.latent(batch), generator._prior(policy.encoder(batch.observation))[0]
    batch.observation.instruction = torch.ones(2, 8)
    assert codes is not None
    after = policy.latent(batch)
    assert after is not None
    assert (after - codes).abs().max() > 1e-5
    assert (generator._prior(policy.encoder(batch.observation))[0] - prior).abs().max() > 1e-5


def saved(config: PolicySettings, folder: Path, *known: str) -> Policy:
    torch.manual_seed(0)
    policy = make_policy(config, SPEC)
    if policy.instruction_encoder is not None:
        policy.instruction_encoder(known)
    folder.mkdir()
    (folder / "last.pt").write_bytes(to_bytes({**describe(policy), "weights": policy.state_dict(), "ema": None}))
    return load_policy(folder, "cpu")


def test_a_checkpoint_knows_what_it_was_told_and_needs_no_encoder_for_that(tmp_path, monkeypatch):
    policy = saved(BLIND.replace(**LISTENS), tmp_path / "run", "abc")
    monkeypatch.delattr("tiny.Letters")
    assert policy.instruction_encoder is not None
    assert policy.instruction_encoder(["abc"]).tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]
    with pytest.raises(ConfigError, match=r"'something new' is new to the policy.*--text-encoder tiny:Letters$"):
        policy.instruction_encoder(["something new"])
    assert saved(BLIND, tmp_path / "deaf").instruction_encoder is None


def test_the_agent_passes_on_what_each_episode_is_told(tmp_path):
    policy = saved(BLIND.replace(generator=RegressionConfig(), **LISTENS), tmp_path / "run", "abc")
    heard = []
    predict = policy.predict
    policy.predict = lambda seen, *rest: heard.append(seen.instruction) or predict(seen, *rest)  # pyright: ignore
    assert policy.instruction_encoder is not None
    policy.instruction_encoder.trust("tiny:Letters")
    policy.instruction_encoder.fit([["aa"], ["bb"]])
    words: dict[int, str | None] = {1: "aa", 2: None, 3: ""}
    agent = PolicyAgent(policy, OpenLoop(K), instruct=lambda seed: words[seed])
    observation = {"qpos": np.zeros((3, 14), np.float32), "env_state": np.zeros((3, 7), np.float32)}
    agent.reset([1, 2, 3], observation)
    agent(observation)
    assert torch.equal(heard[0], policy.instruction_encoder(["aa", None, ""]))


def test_one_policy_of_two_tasks_through_the_scripts(tmp_path, capsys):
    """It does each as it is told, and says what it did not learn."""
    for task in ("hand_over", "lift_tray"):
        words = [phrasings(TASKS[task], variant)[0] for variant in SEEN[TASKS[task]]]
        write_episodes(tmp_path / task, lengths=(20, 25), spec=spec(TASKS[task], "top"), instruction=words)
    small = "--chunk-size 10 --d-model 16 --n-heads 2 --ffn-dim 32 --n-encoder-layers 1 --steps 2 --batch-size 4 "
    small += "--val-every 2 --val-starts 8 --save-every 2 --log-every 2 --warmup-steps 1 "
    small += "--text-encoder tiny:Letters --text-dim 8"
    train("--data", tmp_path / "hand_over", tmp_path / "lift_tray", "--out", tmp_path / "run", *small.split())
    short = ["--checkpoint", tmp_path / "run", "--episodes", 2, "--num-envs", 1, "--horizon", 5]
    short += ["--text-encoder", "tiny:Letters"]
    capsys.readouterr()
    roll_out(*short, "--task", "all", "--json", tmp_path / "told.json", "--videos", 1)
    printed = capsys.readouterr().out
    assert printed.count("success, strict") == 2
    assert "instruction followed" in printed
    for task in ("hand_over", "lift_tray"):
        results = read_results(tmp_path / f"told_{task}.json")
        assert [episode["seed"] for episode in results["episodes"]] == [100_000, 100_001]
        assert (results["settings"]["env_id"], results["settings"]["horizon"]) == (TASKS[task], 5)
    films = {film.relative_to(tmp_path).as_posix() for film in tmp_path.rglob("*.mp4")}
    assert films == {f"run/rollout/{task}/seed_100000.mp4" for task in ("hand_over", "lift_tray")}
    flags = ["--task", "hand_over", "--variant", "left", "--instructions", "unseen", "--json", tmp_path / "left.json"]
    roll_out(*short, *flags)
    assert {episode["requested"] for episode in read_results(tmp_path / "left.json")["episodes"]} == {"left"}
    for wrong, *parts in (
        ([], "hand_over, lift_tray", "--task", "all"),
        (["--task", "stack"], "stack", "hand_over, lift_tray"),
        (["--task", "hand_over", "--variant", "up"], "up", "hand_over", "left, right"),
    ):
        assert says(refusal(lambda wrong=wrong: roll_out(*short, *wrong)), *parts)


def test_words_are_written_below_in_a_frame():
    frame = np.full((480, 640, 3), 90, np.uint8)
    written = captioned(frame, "lift the tray with both hands and keep it level without dropping the ball")
    changed = np.argwhere((written != frame).any(axis=-1))
    assert len(changed) > 100
    assert changed[:, 0].min() > 360
    assert changed.min(axis=0)[1] > 0
    assert changed.max(axis=0)[1] < 639, "lines are broken before they leave the frame"
    assert captioned(frame, "") is frame
