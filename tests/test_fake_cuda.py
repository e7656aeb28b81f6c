"""Laws of the code on CUDA, checked without a GPU: tensors that know shape, dtype and device, but hold no numbers.

`FakeTensorMode` lets code believe that it has CUDA: an operation on tensors of two devices fails as on a GPU, and so
does a number read from a tensor (`.item()`), for which a GPU would have to be waited for. What takes tensors from one
device to the other is listed by `Transfers`. Gradients alone are not computed: autograd's engine
asks the driver for its devices.
"""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import BLIND, THREE_CAMERAS, TINY, family, write_episodes
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from act.agent import PolicyAgent
from act.checkpoint import describe, load_policy, to_bytes
from act.chunking import TemporalEnsemble
from act.dataset import ChunkDataset, ShuffledStarts
from act.device import autocast
from act.normalizer import Normalizer
from act.policies import GENERATORS, Batch, Observation, Policy, PolicySettings, make_policy
from act.policies.observation import ObservationEncoder
from act.presets import PRESETS
from act.run_folder import RunFolder
from act.train import Trainer
from demos.robot import ALOHA
from demos.spec import EpisodeSpec

CUDA = torch.device("cuda")
SPEC = EpisodeSpec(ALOHA, {"top": (120, 160), "wrist": (120, 160)}, env_state_dim=7)
CONFIGS: dict[str, PolicySettings] = {
    **{f"preset {name}": config for name, (config, _) in PRESETS.items()},
    "with poses": TINY.replace(use_env_state=True, keypoints=4, pose_weight=1.0),
    "without pictures": BLIND,
    "learned prior": TINY.replace(keypoints=4, prior="learned", free_nats=1.0),
    # As few tokens as there can be, each of which is a part of an exported graph.
    **{name: family(name, coefficients=1) for name in GENERATORS if name != "act"},
}


EXPORTED = [
    pytest.param(config, id=name, marks=[pytest.mark.slow] * (name == "autoregressive"))
    for name, config in CONFIGS.items()
]


DTYPES = [
    pytest.param(torch.bfloat16, id="bfloat16"),  # has every operation of float32, and the casts
    pytest.param(torch.float32, id="float32", marks=pytest.mark.slow),
]


class Transfers(TorchDispatchMode):
    """Lists the operations that take a tensor from CUDA to the CPU: each makes the CPU wait for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given, made = ({t.device.type for t in tree_leaves(each) if isinstance(t, Tensor)} for each in (args, out))
        if "cuda" in given and "cpu" in made:
            self.found.append(str(func))
        return out


@pytest.fixture
def gpu(monkeypatch) -> Iterator[FakeTensorMode]:
    """A machine with one GPU, as far as shapes and devices go. `.to` takes modules there, and the mode tensors."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    move = nn.Module.to

    def to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if not args or torch.device(args[0]).type != "cuda":
            return move(module, *args, **kwargs)
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = nn.Parameter(on_gpu(parameter), parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = on_gpu(buffer)
        return module

    def on_gpu(tensor: Tensor) -> Tensor:
        with mode:
            return mode.from_tensor(tensor.detach()).to("cuda") if tensor.device.type == "cpu" else tensor

    monkeypatch.setattr(nn.Module, "to", to)
    # torch.cuda.is_available stays false: where it is true, fake tensors wake the driver.
    for module in ("act.checkpoint", "act.train"):
        monkeypatch.setattr(f"{module}.pick_device", lambda name: CUDA)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device=None: (80 * 2**30, 80 * 2**30))
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *args, **kwargs: True)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # threads that read frames would share the mode
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    yield mode
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.benchmark = benchmark


def observe(policy: Policy, n: int = 2, device: torch.device = CUDA) -> Observation:
    cameras = {name: policy.spec.cameras[name] for name in policy.cameras}
    images = {name: torch.zeros(n, *size, 3, dtype=torch.uint8, device=device) for name, size in cameras.items()}
    poses = torch.randn(n, policy.spec.env_state_dim, device=device) if policy.spec.env_state_dim else None
    return Observation(torch.randn(n, 14, device=device), images, poses)


def learn_from(policy: Policy, n: int = 2) -> Batch:
    k, keyframe = policy.chunk_size, policy.encoder.normalizer.dims.get("keyframe")
    told = torch.randn(n, keyframe, device=CUDA) if keyframe else None
    pad = torch.zeros(n, k, dtype=torch.bool, device=CUDA)
    return Batch(observe(policy, n), torch.randn(n, k, 14, device=CUDA), pad, keyframe=told)


def make(config: PolicySettings) -> Policy:
    return make_policy(config, THREE_CAMERAS if config.d_model < 64 else SPEC, pretrained=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_policy_stays_on_its_device(gpu, config, dtype):
    policy = make(config).to(CUDA)
    with gpu, Transfers() as transfers, autocast(CUDA, dtype):
        losses = policy.train()(learn_from(policy))
        with torch.inference_mode():
            answers = [policy.eval().predict(observe(policy), state={})]
            if policy.noise_dim:
                answers.append(policy.predict(observe(policy), torch.randn(2, policy.noise_dim, device=CUDA)))
            answers += [*policy.keypoints(observe(policy)).values(), *policy.attention(observe(policy)).values()]
            if (latent := policy.latent(learn_from(policy))) is not None:
                answers.append(latent)
    assert {tensor.device.type for tensor in (*losses.values(), *answers)} == {"cuda"}
    assert answers[0].shape == (2, config.chunk_size, 14)
    assert transfers.found == []


class _Predict(nn.Module):
    """What `torch.export` can take: tensors in, a tensor out."""

    def __init__(self, policy: Policy):
        super().__init__()
        self.policy = policy

    def forward(self, qpos: Tensor, images: dict[str, Tensor], env_state: Tensor | None) -> Tensor:
        return self.policy.predict(Observation(qpos, images, env_state))


def exported(gpu: FakeTensorMode, policy: Policy, dtype: torch.dtype) -> list[tuple[str, str]]:
    """(operation, device) of every tensor in the graph of `predict`, but for constants."""
    policy = policy.to(CUDA).eval()
    with gpu, torch.no_grad(), autocast(CUDA, dtype):
        seen = observe(policy)
        graph = torch.export.export(_Predict(policy), (seen.qpos, seen.images, seen.env_state)).graph
    values = [(str(node.target), node.meta.get("val")) for node in graph.nodes]
    return [(name, v.device.type) for name, v in values if isinstance(v, Tensor) and "lift_fresh_copy" not in name]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", EXPORTED)
def test_predict_is_exported_as_one_graph_on_the_device(gpu, config, dtype):
    tensors = exported(gpu, make(config), dtype)
    assert len(tensors) > 100
    assert {device for _, device in tensors} == {"cuda"}


def test_an_export_that_leaves_the_device_is_found(gpu, monkeypatch):
    normalize, name = ObservationEncoder.normalize_env_state, "normalize_env_state"
    monkeypatch.setattr(ObservationEncoder, name, lambda self, given: normalize(self, given).cpu().to("cuda"))
    assert "cpu" in {device for _, device in exported(gpu, make(BLIND), torch.float32)}


@pytest.mark.parametrize("wrong", [lambda t: t.to("cpu"), lambda t: t.cpu().to("cuda"), lambda t: t * t.sum().item()])
def test_a_tensor_that_leaves_the_device_is_found(gpu, monkeypatch, wrong):
    policy = make(BLIND).to(CUDA).eval()
    normalize, name = ObservationEncoder.normalize_env_state, "normalize_env_state"
    monkeypatch.setattr(ObservationEncoder, name, lambda self, given: wrong(normalize(self, given)))
    with gpu, Transfers() as transfers, contextlib.suppress(RuntimeError), torch.inference_mode():
        policy.predict(observe(policy))
        assert transfers.found != [], "neither an error nor a transfer"


def test_an_agent_asks_once_for_each_chunk(gpu):
    policy = make(TINY).to(CUDA)
    agent = PolicyAgent(policy, TemporalEnsemble(policy.chunk_size, replan_every=2), dtype=torch.bfloat16)
    agent.reset([0, 1], {})
    seen = observe(policy, device=torch.device("cpu"))
    observation = {"qpos": seen.qpos.numpy()} | {f"images/{name}": image.numpy() for name, image in seen.images.items()}
    with gpu, Transfers() as transfers, pytest.raises(RuntimeError, match="numpy"):  # it holds no numbers to hand out
        agent(observation)
    assert len(transfers.found) == 1


def test_a_checkpoint_loads_on_another_device_than_it_was_saved_on(gpu, tmp_path):
    policy = make(TINY)
    weights = {**describe(policy), "weights": policy.state_dict(), "ema": None, "step": 1}
    (tmp_path / "a.pt").write_bytes(to_bytes(weights))
    loaded = load_policy(tmp_path / "a.pt", "auto")
    assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"cuda"}
    with gpu, torch.inference_mode():
        assert loaded.predict(observe(loaded)).device.type == "cuda"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_episodes(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("where", ["device", "ram"])
@pytest.mark.parametrize("name", ["cpu", "paper"])
def test_a_step_of_training_never_waits_for_the_gpu(gpu, data, tmp_path, monkeypatch, name, where):
    def fill(parameter: Tensor) -> None:
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None

    config, training = PRESETS[name]
    training = replace(training, device="cuda", val_fraction=0, steps=2, warmup_steps=1, batch_size=2)
    small = {"chunk_size": 6, "d_model": 16, "n_heads": 2, "ffn_dim": 32, "backbone_stride": 16, "keypoint_stride": 8}
    policy_config = replace(config, **small, backbone_weights="imagenet")
    dataset = ChunkDataset(data, 6, val_fraction=0)
    policy = make_policy(policy_config, dataset.spec, pretrained=False)
    policy.fit_normalizer(dataset.stats())
    folder = RunFolder(tmp_path)
    folder.claim({}, resume=True, free=set())
    order = ShuffledStarts(dataset.train, training.batch_size, 0)
    monkeypatch.setattr(Tensor, "backward", lambda loss: [fill(parameter) for parameter in policy.parameters()])
    with gpu:
        dataset.cache(where, CUDA)
        dataset.encode(policy, CUDA)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # a copy of what holds no numbers
            trainer = Trainer(policy, dataset, training, folder)
        batches = dataset.batches(order, 0, 2, CUDA)
        with Transfers() as transfers:
            for batch in batches:
                trainer.update(policy, policy, [batch])
    assert trainer.step == 2
    assert {value.device.type for value in trainer.sums.values()} == {"cuda"}
    assert transfers.found == []


def test_statistics_are_kept_where_the_policy_is(gpu):
    normalizer = Normalizer({"qpos": 3}).to(CUDA)
    with gpu:
        x = torch.randn(5, 3, device=CUDA)
        assert ((x - normalizer.qpos_mean) / normalizer.qpos_std).device.type == "cuda"
