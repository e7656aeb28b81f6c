"""Laws of what files name: no module of a file's choosing is imported, whatever checkpoint, data or results say."""

import ast
import string
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro
from test_agent_settings import saved, spec
from tiny import BLIND, write_episodes

import scripts.latent_plot
import scripts.rollout
import scripts.teleop
import scripts.train
import scripts.view
from act.checkpoint import load_policy, read_checkpoint, to_bytes
from act.errors import ConfigError
from act.language import InstructionEncoder
from act.policies.generators.config import CVAEConfig, RegressionConfig
from demos.episode import Episode
from demos.phrases import instruction_for
from demos.replay import replay
from envs import TASKS, EnvError
from envs.rollout import make_vector_env
from scripts.pages.scene_page import as_text
from scripts.pages.viewer import env_of
from scripts.view import Rerun

TASK = TASKS["hand_over"]
ENCODER = "mark_on_import:Encoder"
CONFIG = BLIND.replace(generator=RegressionConfig(), text_encoder=ENCODER, text_dim=8)
NEW = (
    "'dab a cab' is new to the policy, and its text encoder 'mark_on_import:Encoder' .* --text-encoder mark_on_import:"
)
PACKAGES = ("act", "demos", "envs", "scripts")


@pytest.fixture(autouse=True)
def mark(tmp_path, monkeypatch) -> Iterator[Path]:
    """A module that leaves a mark as it is imported: a text encoder"""
    mark, folder = tmp_path / "imported", tmp_path / "modules"
    folder.mkdir()
    lines = f"from pathlib import Path\nfrom tiny import Letters as Encoder\nPath({str(mark)!r}).touch()\n"
    (folder / "mark_on_import.py").write_text(lines)
    monkeypatch.syspath_prepend(folder)
    yield mark
    sys.modules.pop("mark_on_import", None)


@pytest.fixture
def checkpoint(tmp_path, mark) -> Path:
    """Of a policy that knows two sentences, trained on the environment's own spec."""
    path = saved(tmp_path, CONFIG, spec(TASK))
    known = {"known": ["abc", "cab"], "vectors": torch.ones(2, 8), "mean": torch.zeros(8), "whitening": None}
    return change(path, sentences={"encoder": ENCODER, "dim": 8, **known})


def change(path: Path, **values) -> Path:
    contents = read_checkpoint(path)
    path.write_bytes(to_bytes({**contents, **values}))
    return path


def main(script, line: str, *words: str):
    parse = getattr(script, "parse", None) or (lambda argv: tyro.cli(script.Args, args=argv))
    return script.main(parse([*line.split(), *words]))


def test_known_sentences_need_no_encoder_and_new_ones_do_not_start_it(checkpoint, mark):
    policy = load_policy(checkpoint, "cpu")
    assert policy.instruction_encoder is not None
    assert policy.instruction_encoder(["cab", None]).tolist() == [[1] * 8, [0] * 8]
    with pytest.raises(ConfigError, match=NEW):
        policy.instruction_encoder(["abc", "dab a cab"])
    assert not mark.exists()
    trusted = load_policy(checkpoint, "cpu", text_encoder=ENCODER).instruction_encoder
    assert trusted is not None
    assert trusted(["dab a cab"]).tolist() == [[3, 2, 1, 1, 0, 0, 0, 0]]
    assert mark.exists()


@pytest.mark.parametrize(
    "stored", [None, {"encoder": ENCODER, "dim": 8}, {"encoder": "mark_on_import:nothing", "dim": 8}]
)
def test_nor_does_a_checkpoint_that_keeps_no_sentences(checkpoint, mark, stored):
    policy = load_policy(change(checkpoint, sentences=stored), "cpu")
    assert policy.instruction_encoder is not None
    with pytest.raises(ConfigError, match="'abc' is new to the policy"):
        policy.instruction_encoder(["abc"])
    assert not mark.exists()


def test_an_encoder_of_another_name_is_refused(checkpoint, mark, tmp_path):
    wrong = "names 'tiny:Letters', and the policy was trained with 'mark_on_import:Encoder', which makes 8 numbers"
    with pytest.raises(ConfigError, match=wrong):
        load_policy(checkpoint, "cpu", text_encoder="tiny:Letters")
    deaf = saved(tmp_path, CONFIG.replace(text_encoder=""), spec(TASK))
    with pytest.raises(ConfigError, match="takes no instructions; leave --text-encoder out"):
        load_policy(deaf, "cpu", text_encoder=ENCODER)
    assert not mark.exists()


def test_a_flag_that_is_told_can_be_pasted_into_a_shell():
    sentences = InstructionEncoder.from_checkpoint({"encoder": "a:b; rm -rf ~", "dim": 8})
    with pytest.raises(ConfigError, match=r"--text-encoder 'a:b; rm -rf ~'$"):
        sentences(["go"])


def test_scripts_start_only_the_encoder_that_their_command_line_names(checkpoint, mark, tmp_path):
    short = f"--checkpoint {checkpoint} --episodes 1 --num-envs 1 --horizon 3 --device cpu --json {tmp_path / 'a.json'}"
    page = f"--checkpoint {checkpoint} --out {tmp_path / 'out'}"
    told = write_episodes(tmp_path / "data", lengths=(9,), spec=spec(TASK), instruction="dab a cab")
    plot = f"--checkpoint {checkpoint} --data {told} --png {tmp_path / 'a.png'}"
    main(scripts.rollout, short, "--instruction", "cab")
    for script, line, *words in (
        (scripts.rollout, short, "--instruction", "dab a cab"),
        (scripts.rollout, short),
        (scripts.teleop, page, "--instruction", "dab a cab"),
        (scripts.teleop, page),
        (scripts.view, f"{told} --checkpoint {checkpoint}"),
    ):
        with pytest.raises(ConfigError, match=r"is new to the policy, .* --text-encoder mark_on_import:Encoder$"):
            main(script, line, *words)
    latent = change(
        saved(tmp_path, CONFIG.replace(generator=CVAEConfig(n_vae_encoder_layers=1, latent_dim=4)), spec(TASK)),
        sentences=None,
    )
    with pytest.raises(ConfigError, match=NEW):
        main(scripts.latent_plot, plot.replace(str(checkpoint), str(latent)))
    assert not mark.exists()
    saved(tmp_path, CONFIG, spec(TASK))
    main(scripts.rollout, short, "--instruction", "dab a cab", "--text-encoder", ENCODER)
    assert mark.exists()


def test_results_do_not_name_an_encoder_to_run(checkpoint, mark, tmp_path):
    settings = {
        "checkpoint": str(checkpoint),
        "env_id": TASK,
        "horizon": 3,
        "text_encoder": ENCODER,
        "instruction": "b",
    }
    with pytest.raises(ConfigError, match="'b' is new to the policy"):
        Rerun({"settings": settings}, tmp_path)(0)
    assert not mark.exists()
    assert Rerun({"settings": settings | {"instruction": "cab"}}, tmp_path)(0).length == 3


def test_a_run_that_continues_starts_no_encoder_that_only_its_folder_names(mark, tmp_path):
    told = [instruction_for(TASK, way, seed) for seed in range(3) for way in ("left", "right")]
    data, out = write_episodes(tmp_path / "data", spec=spec(TASK), instruction=told), tmp_path / "run"
    line = f"--data {data} --out {out} --text-encoder {ENCODER} --text-dim 8 --chunk-size 6 --d-model 16 --n-heads 2"
    line += " --ffn-dim 32 --n-encoder-layers 1 --batch-size 4 --steps 2 --warmup-steps 1 --val-every 2 --val-starts 8"
    line += (
        " --save-every 2 --schedule constant --keyframe-weight 0 --ee-position-weight 0 --device cpu --wandb disabled"
    )
    assert main(scripts.train, f"{line} --use-env-state --cameras") == 0
    assert mark.exists()
    mark.unlink()
    del sys.modules["mark_on_import"]
    again = f"--out {out} --resume --wandb disabled --steps"
    assert main(scripts.train, f"{again} 4") == 0, "the last checkpoint knows all instructions"
    with pytest.raises(ConfigError, match="names 'tiny:Letters', and the policy was trained with 'mark_on_import"):
        main(scripts.train, f"{again} 6 --text-encoder tiny:Letters")
    (out / "last.pt").unlink()
    with pytest.raises(ConfigError, match="is new to the policy"):
        main(scripts.train, f"{again} 6")
    assert not mark.exists()
    assert main(scripts.train, f"{again} 6 --text-encoder {ENCODER}") == 0
    assert mark.exists()


NOWHERE = "there is no environment 'mark_on_import:Mark-v0'; known tasks: transfer_cube, "


def test_no_environment_is_imported_that_a_file_names(mark, tmp_path):
    named = replace(spec(TASK), env_ids=("mark_on_import:Mark-v0",))
    policy = saved(tmp_path, CONFIG.replace(text_encoder=""), named)
    data = write_episodes(tmp_path / "data", spec=named)
    run = f"--data {data} --out {tmp_path / 'run'} --chunk-size 6 --d-model 16 --n-heads 2 --ffn-dim 32 --steps 2"
    run += " --keyframe-weight 0 --ee-position-weight 0 --eval-every 2 --device cpu --wandb disabled"
    run += " --use-env-state --cameras"
    episode = Episode(data / "episode_0.hdf5")
    settings = {"checkpoint": str(policy), "env_id": named.env_id, "horizon": 3}
    for attempt in (
        lambda: make_vector_env(named.env_id),
        lambda: replay(episode),
        lambda: main(scripts.rollout, f"--checkpoint {policy} --episodes 1 --device cpu"),
        lambda: main(scripts.teleop, f"--checkpoint {policy} --out {tmp_path / 'out'}"),
        lambda: main(scripts.train, run),
        lambda: Rerun({"settings": settings}, tmp_path),
    ):
        with pytest.raises(EnvError, match=NOWHERE):
            attempt()
    assert env_of(episode) is not None, "any environment has these joints"
    assert not mark.exists()


@pytest.mark.parametrize("backbone", ["hf-hub:somebody/net", "local-dir:/tmp/net", "resnet18.hf-hub:somebody/net"])
def test_no_weights_are_fetched_that_a_checkpoint_names(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it asked the network"))
    path = saved(tmp_path, CONFIG.replace(text_encoder=""), spec(TASK))
    seeing = {**read_checkpoint(path)["policy_config"], "backbone": backbone, "cameras": ("top",)}
    described = spec(TASK, "top").to_dict()
    with pytest.raises(ConfigError, match=f"unknown backbone {backbone!r}"):
        load_policy(change(path, policy_config=seeing, spec=described), "cpu")


def test_a_file_is_text_on_a_page():
    shown = as_text("<script src='//x'></script>\n\n[a](javascript:b) *c*")
    for i, letter in enumerate(shown):
        assert letter not in string.punctuation or letter == "\\" or shown[i - 1] == "\\"
    assert "\n" not in shown


def test_what_is_read_is_never_run():
    """By reading: whatever loads a format that can hold code says that it may not."""
    for package in PACKAGES:
        for path in (Path(__file__).parents[1] / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                    assert not names & {"pickle", "yaml", "marshal", "shelve", "dill", "cloudpickle"}, path
                if not isinstance(node, ast.Call):
                    continue
                name, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert name not in ("eval", "exec", "__import__"), path
                assert name != "torch.load" or keywords.get("weights_only") == "True", path
                assert "allow_pickle" not in keywords, path
