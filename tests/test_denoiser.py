"""Whatever the network predicts, the denoiser returns x_0_hat, in float32 at least, at every timestep."""

import itertools
import json

import pytest
import torch
from diffusers import ConfigMixin
from oracle import NAMES, SHAPE, ideal_set, randn, refused, tiny
from torch.testing import assert_close

from facelab.classifier import AttributeClassifier
from facelab.denoiser import Denoiser, haar, inverse_haar, seeded
from facelab.schedules import PREDICTION_TYPES, SCHEDULES

pytestmark = pytest.mark.usefixtures("without_gradients")
X_T = randn(3, *SHAPE, dtype=torch.float32)
COND = torch.tensor([[1.0, 0, 0], [0, -1, 0], [1, 1, -1]])
HALF = pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
BANDS = (1.2, 0.2, 0.15, 0.1)  # about CelebA's
SIXTEEN = (2.3, *[0.3 - 0.01 * i for i in range(15)])
PAIRS = [(s, p) for s in SCHEDULES for p in PREDICTION_TYPES if (s, p) != ("rectified_flow", "eps")]
pairs = pytest.mark.parametrize("schedule, prediction_type", PAIRS)


@pytest.mark.parametrize(
    "settings",
    [
        {"shape": (3, 8, 8), "patch_size": 1},
        {"shape": (1, 28, 28), "block_out_channels": (32, 64), "attention": (False, True)},
        {"shape": (2, 8, 16), "patch_size": 4, "resnet_time_scale_shift": "default"},
        {"conditioning": "channels", "schedule": "cosine", "prediction_type": "eps"},
        {"conditioning": "none", "schedule": "linear", "prediction_type": "x_0", "num_timesteps": 20},
        {"shape": (3, 16, 16), "sigma_data": BANDS},
        {"shape": (1, 16, 8), "patch_size": 4, "sigma_data": SIXTEEN},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_images_in_and_images_out(settings):
    net = tiny(**settings)
    for dtype in (torch.float16, torch.float32, torch.float64):
        x_t = randn(2, *net.shape, dtype=dtype)
        x_0_hat = net(x_t, len(net.schedule) - 1, torch.zeros(3))
        assert x_0_hat.shape == x_t.shape and x_0_hat.isfinite().all()
        assert x_0_hat.dtype == torch.promote_types(dtype, torch.float32)


def test_one_timestep_or_condition_for_all_images():
    net = tiny()
    one = net(X_T, 400, COND)
    for t in (torch.tensor(400), torch.tensor([400] * 3), torch.tensor([400] * 3, dtype=torch.int32)):
        assert_close(net(X_T, t, COND), one)
    each = net(X_T, torch.tensor([0, 400, 999]), COND)
    assert_close(each[1:2], net(X_T[1:2], 400, COND[1:2]))
    assert (each[0] - one[0]).abs().max() > 0.01
    expected = net(X_T, 400, COND[:1].repeat(3, 1))
    for cond in (COND[0], COND[:1], COND[:1].long()):
        assert_close(net(X_T, 400, cond), expected)


def test_wrong_shapes_are_refused():
    for shape in ((3, 1, 8, 9), (3, 2, 8, 8), (1, 8, 8), (3, 1, 1, 8, 8), (64,)):
        with refused(r"x_t must be \(B, 1, 8, 8\)"):
            tiny()(torch.zeros(shape), 5, COND)
    for shape in ((4,), (2,), (2, 3), (3, 2), (4, 3), (1, 1, 3), (3, 1, 3)):
        with refused("3 images need 3 conditions|a condition has 3 values"):
            tiny()(X_T, 5, torch.zeros(shape))


@pytest.mark.parametrize("conditioning, changes", [("embedding", True), ("channels", True), ("none", False)])
def test_the_condition_changes_x_0_hat(conditioning, changes):
    net = tiny(conditioning=conditioning)
    difference = (net(X_T, 500, torch.ones(3)) - net(X_T, 500, -torch.ones(3))).abs().max()
    assert difference > 1e-3 if changes else difference == 0
    assert_close(net(X_T, 500, COND)[2:], net(X_T[2:], 500, COND[2]))


WRONG = {
    "eps on rectified flow": ({"prediction_type": "eps", "schedule": "rectified_flow"}, "predict v"),
    "prediction type": ({"prediction_type": "velocity"}, "must be one of eps, v, x_0"),
    "conditioning": ({"conditioning": "film"}, "must be one of embedding, channels, none"),
    "schedule": ({"schedule": "straight"}, "must be one of linear, cosine, sigmoid, rectified_flow"),
    "patch size": ({"patch_size": 3}, "must be one of 1, 2, 4"),
    "side": ({"shape": (1, 10, 8)}, "divisible by 4"),
    "side and patch": ({"shape": (1, 28, 28), "patch_size": 4}, "divisible by 8"),
    "no channels": ({"shape": (8, 8)}, r"\(C, H, W\)"),
    "levels": ({"block_out_channels": (32, 32, 32)}, "must be of one length"),
    "shift": ({"timestep_shift": 0.5}, "from 1 .even spacing. to 100"),
    "bands": ({"sigma_data": (1.0, 0.5)}, "4 numbers above 0"),
    "band of 0": ({"sigma_data": (1.0, 0.5, 0.5, 0.0)}, "4 numbers above 0"),
    "frequencies": ({"frequencies": (0.5, 0.5)}, "3 numbers between 0 and 1"),
    "frequency of 1": ({"frequencies": (0.5, 0.5, 1.0)}, "3 numbers between 0 and 1"),
}


@pytest.mark.parametrize("settings, message", WRONG.values(), ids=WRONG)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with refused(message):
        tiny(**settings)


@pairs
def test_every_prediction_becomes_x_0(schedule, prediction_type, monkeypatch):
    net, t = tiny(schedule=schedule, prediction_type=prediction_type), torch.tensor([0, 500, 998, 999])
    x_0, eps = randn(4, *SHAPE), randn(4, *SHAPE, seed=1)
    x_t, target = net.schedule.add_noise(x_0, eps, t), net.schedule.target(x_0, eps, t, prediction_type)
    monkeypatch.setattr(net, "_network", lambda x, t, cond: net._fold(target))
    assert_close(net(x_t, t, torch.zeros(3)), x_0, rtol=0, atol=1e-9)
    assert_close(net(x_t, t, torch.zeros(3), return_prediction=True), target)


@pytest.mark.parametrize("schedule", SCHEDULES)
@HALF
def test_half_precision_gives_the_ideal_x_0_hat_at_every_timestep(schedule, dtype, tolerance, monkeypatch):
    net, t = tiny(schedule=schedule).to(dtype), torch.arange(1000)
    ideal = ideal_set(net.schedule, count=8, shape=SHAPE)
    x_t = net.schedule.add_noise(ideal.x_0.repeat(125, 1, 1, 1), randn(1000, *SHAPE, seed=1), t).float()
    best = ideal(x_t.double(), t, torch.zeros(1))
    prediction = net.schedule.velocity(best, net.schedule.to_eps(x_t.double(), best, t), t).to(dtype)
    monkeypatch.setattr(net, "_network", lambda x, t, cond: net._fold(prediction))
    x_0_hat = net(x_t, t, torch.zeros(3))
    assert x_0_hat.dtype == torch.float32 and x_0_hat.isfinite().all()
    assert_close(x_0_hat.double(), best, rtol=0, atol=tolerance)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_haar_transform_is_orthonormal_and_its_inverse_undoes_it(channels):
    x, other = randn(2, channels, 8, 6), randn(2, channels, 8, 6, seed=1)
    bands = haar(x)
    assert bands.shape == (2, 4 * channels, 4, 3)
    assert_close(inverse_haar(bands), x)
    assert_close(haar(inverse_haar(bands)), bands)
    assert_close((bands * haar(other)).sum((1, 2, 3)), (x * other).sum((1, 2, 3)))
    assert_close(bands[:, ::4], 2 * torch.nn.functional.avg_pool2d(x, 2))
    # A uniform image, and one that differs between columns, rows or both, is in one band each.
    patterns = torch.tensor([[[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]]).double()
    assert_close(haar(patterns[:, None])[:, :, 0, 0], 2 * torch.eye(4).double())


def preconditioned(schedule, prediction_type="v", **settings):
    """A network in float64, with one function for its U-Net: any output F of a scaled input."""
    net = tiny(schedule=schedule, prediction_type=prediction_type, **({"sigma_data": BANDS} | settings)).double()
    inputs = []
    net._network = lambda x, t, cond: inputs.append(x) or torch.sin(3 * x + cond.sum(1)[:, None, None, None])
    return net, inputs


@pytest.mark.parametrize("patch_size, sigma_data", [(1, (0.5,)), (2, BANDS), (4, SIXTEEN)])
@pairs
def test_preconditioning_is_edm_s_in_every_band(schedule, prediction_type, patch_size, sigma_data):
    """x_0_hat = c_skip x + c_out F with EDM's c_skip = signal sd^2 / V and c_out = sigma sd / sqrt(V), and its eps_hat."""
    net, inputs = preconditioned(schedule, prediction_type, patch_size=patch_size, sigma_data=sigma_data)
    t, x_t, cond = torch.tensor([0, 500, 998, 999]), randn(4, *SHAPE), randn(4, 3)
    x_0_hat, prediction = (net(x_t, t, cond, return_prediction=flag) for flag in (False, True))
    fold = {1: lambda x: x, 2: haar, 4: lambda x: haar(haar(x))}[patch_size]
    signal, sigma = net.schedule.rates(t, like=x_t)
    sd = torch.tensor(sigma_data, dtype=torch.float64)[:, None, None]
    variance = signal**2 * sd**2 + sigma**2
    output = torch.sin(3 * fold(x_t) / variance.sqrt() + cond.sum(1)[:, None, None, None])
    assert_close(inputs[0], fold(x_t) / variance.sqrt())
    assert_close(fold(x_0_hat), signal * sd**2 / variance * fold(x_t) + sigma * sd / variance.sqrt() * output)
    eps_hat = net.schedule.to_eps(x_t, x_0_hat, t)
    assert_close(fold(eps_hat), sigma / variance * fold(x_t) - signal * sd / variance.sqrt() * output)
    # The prediction that the loss is on belongs to this x_0_hat.
    expected = {"x_0": x_0_hat, "eps": eps_hat, "v": net.schedule.velocity(x_0_hat, eps_hat, t)}[prediction_type]
    assert_close(prediction, expected)
    if prediction_type == "eps":
        assert_close(signal * x_0_hat + sigma * prediction, x_t)


@pytest.mark.parametrize("schedule", SCHEDULES)
@HALF
def test_preconditioned_x_0_hat_is_finite_at_every_timestep_in_half_precision(schedule, dtype, tolerance):
    settings = {"schedule": schedule, "prediction_type": "v" if schedule == "rectified_flow" else "eps"}
    settings |= {"sigma_data": BANDS, "block_out_channels": (8, 8)}
    net, half, t = tiny(**settings), tiny(**settings).to(dtype), torch.arange(1000)
    x_t = net.schedule.add_noise(randn(1000, *SHAPE).clamp(-1, 1), randn(1000, *SHAPE, seed=1), t).float()
    for flag in (False, True):
        found, some = half(x_t, t, COND[0], flag), t[::45]
        assert found.dtype == torch.float32 and found.isfinite().all()
        assert_close(found[some], net(x_t[some], some, COND[0], flag), rtol=0, atol=20 * tolerance)


def test_the_timestep_embedding_is_scaled_to_a_thousand():
    short, long = tiny(num_timesteps=10, prediction_type="x_0"), tiny(num_timesteps=1000, prediction_type="x_0")
    assert_close(short(X_T, 7, COND), long(X_T, 700, COND))


@pytest.mark.parametrize("make", [tiny, AttributeClassifier])
def test_the_seed_determines_the_weights_and_leaves_the_global_generator_alone(make):
    before = torch.get_rng_state()
    one, again, other = (make(seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ZeroDivisionError), seeded(5):
        first = torch.rand(3)
        _ = 1 / 0
    assert torch.equal(before, torch.get_rng_state())
    with seeded(5, "cpu"):
        assert torch.equal(torch.rand(3), first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_seeded_also_seeds_the_gpu_of_a_training():
    """So that dropout is a function of seed and step there too."""
    before, found = torch.cuda.get_rng_state(), []
    for _ in range(2):
        with seeded(3, "cuda"):
            found.append(torch.rand(4, device="cuda"))
        assert torch.equal(torch.cuda.get_rng_state(), before)
    assert torch.equal(*found)


def test_no_module_has_the_name_of_a_setting():
    """diffusers would return the setting in place of the module."""
    net = tiny(sigma_data=BANDS)
    assert not {name for name, _ in net.named_children()} & set(net.config) and isinstance(net, ConfigMixin)
    assert {name.split(".")[0] for name in net.state_dict()} == {"unet", "embed"}


def test_the_middle_block_attends_only_where_it_should():
    settings = {"shape": (1, 8, 8), "block_out_channels": (32, 32), "attention": (False, True)}
    for on in (False, True):
        names = Denoiser(**settings, mid_attention=on).state_dict()
        assert any("mid_block.attentions" in name for name in names) == on


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_from_pretrained_returns_float32_in_eval_mode(tmp_path, dtype):
    settings = {"sigma_data": BANDS, "frequencies": (0.2, 0.5, 0.7), "conditioning": "channels"}
    net = tiny(seed=1, attention=(False, True), **settings).to(dtype)
    net.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    back = Denoiser.from_pretrained(tmp_path)
    assert not back.training and {p.dtype for p in back.parameters()} == {torch.float32}
    assert all(torch.equal(value, net.state_dict()[name].float()) for name, value in back.state_dict().items())
    assert back.attributes.names == NAMES and back.shape == SHAPE and back.schedule.name == "rectified_flow"
    assert json.dumps(back.settings()) == json.dumps(net.settings())
    assert_close(back(X_T, 500, COND), net.float()(X_T, 500, COND))


def test_a_folder_of_another_class_or_version_is_refused(tmp_path):
    AttributeClassifier(SHAPE, NAMES).save_pretrained(tmp_path / "classifier")
    with refused("of the class AttributeClassifier: load them with AttributeClassifier.from_pretrained"):
        Denoiser.from_pretrained(tmp_path / "classifier")
    tiny().save_pretrained(tmp_path / "denoiser")
    with refused("of the class Denoiser"):
        AttributeClassifier.from_pretrained(tmp_path / "denoiser")
    config = json.loads((tmp_path / "denoiser" / "config.json").read_text())
    for cls, base in ((Denoiser, config), (AttributeClassifier, {})):
        for old, new in cls.renamed.items():
            with refused(f"'{new}' was called '{old}'"):
                cls.from_config({key: value for key, value in base.items() if key != new} | {old: 1})


# "meta" has no values, so whatever copies one from a GPU fails here.
TIMESTEPS = {"int": 999, "from the CPU": torch.tensor([0, 1, 999]), "its own": torch.tensor([0, 1, 9], device="meta")}


@pytest.mark.parametrize("t", TIMESTEPS.values(), ids=TIMESTEPS)
@pytest.mark.parametrize(
    "settings",
    [{"conditioning": "channels"}, {"attention": (False, True)}, {"prediction_type": "eps"}, {"sigma_data": BANDS}],
)
def test_forward_stays_on_its_device(t, settings):
    net, x_t = tiny(schedule="cosine", **settings).to("meta"), X_T.to("meta")
    assert net.device.type == "meta"
    for cond in (COND.to("meta"), COND[0]):
        x_0_hat = net(x_t, t, cond)
        assert x_0_hat.device.type == "meta" and x_0_hat.shape == x_t.shape


FOUR = {"shape": (1, 8, 8), "attributes": ("a", "b", "c", "d"), "block_out_channels": (32,), "attention": (False,)}
FREQUENCIES = (0.5, 0.02, 0.9, 0.3)
# {settings: (a condition, what equals it without them), ...}
EQUIVALENT = {
    "one attribute has the size of a complete condition": (
        {"normalize_cond": True},
        ([1, -1, 1, 1], [1, -1, 1, 1]),
        ([0, -1, 0, 0], [0, -2, 0, 0]),  # sqrt(4 / 1)
        ([0, -1, 0, 1], [0, -(2**0.5), 0, 2**0.5]),
        ([0, 0.5, 0, 0], [0, 1, 0, 0]),  # a degree stays a degree
        ([0, 0, 0, 0], [0, 0, 0, 0]),
    ),
    "frequencies standardize": (
        {"frequencies": FREQUENCIES},
        ([0, 1, 0, 0], [0, 7, 0, 0]),  # sqrt(.98 / .02)
        ([0, -1, 0, 0], [0, -1 / 7, 0, 0]),
        ([0, 0.5, -1, 0], [0, 3.5, -3, 0]),
        ([1, 0, 0, 0], [1, 0, 0, 0]),
    ),
    "a rare attribute alone is not larger than a complete condition": (
        {"frequencies": FREQUENCIES, "normalize_cond": True},
        ([0, 1, 0, 0], [0, 2, 0, 0]),  # four attributes of variance one have length 2
        ([0, 0.5, 0, 0], [0, 2**0.5, 0, 0]),
        ([0, -1, 0, 0], [0, -2 / 7, 0, 0]),  # a common value stays small
        ([0, 0, 0, 0], [0, 0, 0, 0]),
    ),
}


@pytest.mark.parametrize(
    "settings, cases", [(settings, cases) for settings, *cases in EQUIVALENT.values()], ids=EQUIVALENT
)
def test_the_size_of_the_condition(settings, cases):
    x_t = randn(1, 1, 8, 8, dtype=torch.float32)
    for cond, equivalent in cases:
        expected = Denoiser(**FOUR)(x_t, 500, torch.tensor([equivalent]).float())
        assert_close(Denoiser(**FOUR, **settings)(x_t, 500, torch.tensor([cond]).float()), expected)


def test_the_variance_of_input_and_target_is_one_in_every_band():
    """On images with the bands' standard deviations: of x / sqrt(V), and of the F that gives the true x_0."""
    net, inputs = preconditioned("rectified_flow", shape=(1, 64, 64))
    sd, count = torch.tensor(BANDS, dtype=torch.float64)[:, None, None], 40
    x_0, eps = inverse_haar(sd * randn(count, 4, 32, 32)), randn(count, 1, 64, 64, seed=1)
    for t in (30, 500, 970):
        x_t = net.schedule.add_noise(x_0, eps, t)
        net(x_t, t, torch.zeros(3))
        signal, sigma = net.schedule(t)
        variance = signal**2 * sd**2 + sigma**2
        target = (haar(x_0) - signal * sd**2 / variance * haar(x_t)) / (sigma * sd / variance.sqrt())
        for x in (inputs[-1], target):
            assert_close(x.var((0, 2, 3)), torch.ones(4).double(), rtol=0, atol=0.05)


def test_frequencies_give_the_condition_mean_0_and_variance_1():
    net, inputs = Denoiser(**FOUR, frequencies=FREQUENCIES), []
    conds, f = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4))), torch.tensor(FREQUENCIES)
    net.embed[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    net(torch.zeros(16, 1, 8, 8), 500, conds)
    probability = torch.where(conds > 0, f, 1 - f).prod(1, keepdim=True)
    assert_close((probability * inputs[0]).sum(0), torch.zeros(4), atol=1e-5, rtol=0)
    assert_close((probability * inputs[0] ** 2).sum(0), torch.ones(4), atol=1e-5, rtol=0)
