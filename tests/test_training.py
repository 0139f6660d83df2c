"""What a training step sees, the loss and its weightings, and what a training does with its config."""

import dataclasses
import math

import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from oracle import NAMES, generator, is_fraction, randn, random_dataset, refused, tiny
from torch.testing import assert_close

from facelab import AttributeDataset, Attributes, Denoiser, training
from facelab.training import Batch, TrainConfig, denoising_loss, drop_attributes, drop_condition, fit, train


def numbered(count, shape=(1, 1, 2)) -> AttributeDataset:
    """Images that can be told apart: the left pixel is the index, the right one is white."""
    images = torch.full((count, *shape), 255, dtype=torch.uint8)
    images[..., 0] = torch.arange(count)[:, None, None]
    return AttributeDataset(images, torch.ones(count, 1), Attributes(["Hat"]), "numbered", "csv")


def numbers(x_0):
    return ((x_0[..., 0] + 1) * 127.5).round().long().flatten().tolist()


def test_every_attribute_stays_equally_often():
    count = 20_000
    # 0.3 for all of them, and on average half of the 0.6 between: 0.6 each, of any number of attributes.
    for names in (2, 5):
        for fraction in drop_attributes(torch.ones(count, names), generator()).mean(0):
            is_fraction(fraction, 0.6, count)


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**31))
def test_what_stays_is_what_was_specified(rows, names, seed):
    cond = randn(rows, names, seed=seed, dtype=torch.float32).round().clamp(-1, 1)
    before, left = cond.clone(), drop_attributes(cond, generator(seed))
    assert left.shape == cond.shape and left.dtype == cond.dtype
    assert ((left == cond) | (left == 0)).all() and torch.equal(cond, before)
    assert torch.equal(left, drop_attributes(cond, generator(seed)))


def test_columns_of_one_number_are_dropped_together():
    """Bug 6: half of an angle, its cosine without its sine, is another angle."""
    angle = torch.linspace(0, 6, 5_000)
    cond = torch.stack([torch.ones(5_000), angle.cos(), angle.sin(), torch.zeros(5_000)], 1)
    left = drop_attributes(cond, generator(), torch.tensor([0, 1, 1, 2]))
    whole, gone = (left[:, 1:3] == cond[:, 1:3]).all(1), (left[:, 1:3] == 0).all(1)
    assert (whole ^ gone).all() and 0.3 < gone.double().mean() < 0.5
    images = torch.zeros(5_000, 1, 1, 1, dtype=torch.uint8)
    dataset = AttributeDataset(images, cond, Attributes("a b c d".split()), "", "csv", columns=(0, 1, 1, 2))
    batch = Batch.sample(dataset, TrainConfig(1, 2_000), 0).cond
    assert ((batch[:, 1] == 0) == (batch[:, 2] == 0)).all() and (batch[:, 1] == 0).any()


def test_the_whole_condition_is_dropped_one_time_in_ten():
    count = 20_000
    left = drop_condition(torch.ones(count, 5), generator()).sum(1)
    assert set(left.tolist()) == {0.0, 5.0}
    is_fraction((left == 0).double().mean(), 0.1, count)


def test_images_stay_with_their_conditions_which_are_dropped_as_configured():
    data = random_dataset(50, (1, 2, 2))
    for kind in ("partial", "whole", "none"):
        batch = Batch.sample(data, TrainConfig(1, 200, cond_dropout=kind), 0)
        rows = [(data[:][0] == x_0).all((1, 2, 3)).nonzero().item() for x_0 in batch.x_0]
        assert torch.equal(batch.cond, data[rows][1] * (batch.cond != 0))
        kept = (batch.cond != 0).double().mean()
        assert kept == 1 if kind == "none" else 0.5 < kept < 0.95


@pytest.mark.parametrize(("sampling", "mean", "std"), [("logit-normal", 0, 1), ("edm", -1.2, 1.2)])
def test_the_logits_of_timesteps_are_normal(sampling, mean, std):
    count, config = 20_000, TrainConfig(1, 20_000, timestep_sampling=sampling)
    u = Batch.sample(random_dataset(500, (1, 1, 1)), config, 0).t / 1000
    for z in (-1, 0, 1):
        below = (u < 1 / (1 + math.exp(-mean - std * z))).double().mean()
        share = (1 + math.erf(z * 0.5**0.5)) / 2
        assert abs(below - share) < 4.5 * (share * (1 - share) / count) ** 0.5 + 0.001


def test_an_epoch_sees_every_image_once_and_batches_run_across_its_end():
    config = TrainConfig(100, 4)
    seen = [n for step in range(5) for n in numbers(Batch.sample(numbered(10), config, step).x_0)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:] and seen[:10] != list(range(10))
    large = numbers(Batch.sample(numbered(3), TrainConfig(100, 8), 0).x_0)
    assert sorted(large[:3]) == sorted(large[3:6]) == [0, 1, 2] and len(set(large[6:])) == 2


def people(count):
    """Two attributes have a rare value, one "yes" and one "no"; a third is even, and the fourth is always "yes"."""
    conds = torch.where(torch.rand(count, 4, generator=generator()) < torch.tensor([0.02, 0.9, 0.5, 1.0]), 1, -1)
    images = torch.zeros(count, 1, 1, 1, dtype=torch.uint8)
    return AttributeDataset(images, conds.to(torch.int8), Attributes("Hat Shaven Smile Face".split()), "", "csv")


def test_rare_values_come_as_often_as_others_and_are_not_dropped():
    faces, config = people(5_000), TrainConfig(1, 12_000)
    batch = Batch.sample(faces, dataclasses.replace(config, rare_fraction=0.5), 0)
    rare, rest = batch.cond[:6_000], batch.cond[6_000:]
    assert (rare != 0).all()
    # A third each is chosen for Hat, for not Shaven, and for the rarer value of Smile; others come at their frequency.
    smile = 1 / 3 + 2 / 3 * 0.5 if faces.frequencies[2] <= 0.5 else 2 / 3 * 0.5
    for column, fraction in {0: 1 / 3 + 2 / 3 * 0.02, 1: 2 / 3 * 0.9, 2: smile}.items():
        assert (rare[:, column] > 0).float().mean() == pytest.approx(fraction, abs=0.03)
    assert len(faces.minority_indices) == 3
    assert torch.equal(rest, Batch.sample(faces, config, 0).cond[6_000:]) and (rest == 0).any()


def test_a_batch_is_a_function_of_seed_and_step():
    config, outside = TrainConfig(64, 8, flip=True), torch.get_rng_state()
    parts = lambda *at: Batch.sample(random_dataset(40), *at)._asdict()  # noqa: E731
    one, again, later = parts(config, 3), parts(config, 3), parts(config, 4)
    other = parts(dataclasses.replace(config, seed=1), 3)
    for name in one:
        assert torch.equal(one[name], again[name])
        assert not torch.equal(one[name], later[name]) and not torch.equal(one[name], other[name]), name
    assert torch.equal(outside, torch.get_rng_state())


def test_no_two_streams_share_a_seed():
    """Bug 17: the shuffle of one seed had the seeds of the noise of the next one."""
    states = [
        training._generator(TrainConfig(1, seed=seed), stream, step).initial_seed()
        for seed in range(6)
        for stream in training.STREAMS
        for step in range(40)
    ]
    assert len(set(states)) == len(states)


def test_noise_is_standard_normal():
    eps = torch.stack([Batch.sample(random_dataset(), TrainConfig(64, 8), step).eps for step in range(40)])
    assert abs(eps.mean()) < 4.5 / eps.numel() ** 0.5 and abs(eps.var() - 1) < 4.5 * (2 / eps.numel()) ** 0.5


@pytest.mark.parametrize("flip", [True, False])
def test_half_of_the_images_are_flipped(flip):
    white = Batch.sample(numbered(100), TrainConfig(1, 4_000, flip=flip), 0).x_0[..., 1] == 1
    assert abs(white.double().mean() - (0.5 if flip else 1)) <= 4.5 * 0.5 / 4_000**0.5 * flip


def test_images_are_shifted_either_way_and_the_edge_is_repeated():
    images = torch.zeros(400, 1, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 255
    dots = AttributeDataset(images, torch.ones(400, 1), Attributes(["Hat"]), "one dot each", "csv")
    where = (Batch.sample(dots, TrainConfig(400, 400, shift=2), 0).x_0 > 0).nonzero()[:, 2:] - 4
    assert len(where) == 400
    for axis in (0, 1):
        assert set(where[:, axis].tolist()) == {-2, -1, 0, 1, 2}
    ramp = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    ramp = AttributeDataset(ramp, torch.ones(1, 1), Attributes(["Hat"]), "", "csv")
    for x in Batch.sample(ramp, TrainConfig(1, 200, shift=3), 0).x_0:
        places = ((x[0] + 1) * 127.5).round().long()
        for index in (places[:, 0] // 4, places[0] % 4):
            assert set(index.diff().tolist()) <= {0, 1} and (index[0] == 0 or index[-1] == 3)


@pytest.mark.parametrize("prediction_type", ["eps", "v", "x_0"])
def test_the_loss_is_the_mean_squared_error_of_the_prediction(prediction_type):
    net, batch = tiny(prediction_type=prediction_type, schedule="cosine"), batch_of(4)
    x_t = net.schedule.add_noise(batch.x_0, batch.eps, batch.t)
    target = {"eps": batch.eps, "v": net.schedule.velocity(batch.x_0, batch.eps, batch.t), "x_0": batch.x_0}
    error = net(x_t, batch.t, batch.cond, return_prediction=True) - target[prediction_type]
    loss = denoising_loss(net, *batch)
    assert_close(loss, error.square().mean((1, 2, 3)))
    assert loss.dtype == torch.float32 == denoising_loss(net, *batch, dtype=torch.bfloat16).dtype


def batch_of(count):
    return Batch.sample(random_dataset(), TrainConfig(1, count), 0)


SCHEDULES = [("eps", "cosine"), ("x_0", "cosine"), ("v", "cosine"), ("v", "rectified_flow")]


@pytest.mark.parametrize(("prediction_type", "schedule"), SCHEDULES)
def test_min_snr_weighs_the_loss_of_x_0_by_the_ratio_limited_to_5(prediction_type, schedule):
    net, batch = tiny(prediction_type=prediction_type, schedule=schedule), batch_of(16)
    t = torch.linspace(5, 900, 16).long()
    x_t = net.schedule.add_noise(batch.x_0, batch.eps, t)
    loss_of_x_0 = (net(x_t, t, batch.cond) - batch.x_0).square().mean((1, 2, 3))
    weight = net.schedule.snr(t).flatten().clamp(max=5)
    loss = denoising_loss(net, batch.x_0, batch.cond, t, batch.eps, weighting="min-snr")
    assert_close(loss, weight.float() * loss_of_x_0, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("prediction_type", "schedule"), SCHEDULES)
def test_the_edm_loss_is_that_of_the_networks_own_output(prediction_type, schedule, monkeypatch):
    """The output that would give x_0 is (x_0 - c_skip x_t) / c_out in every band: Karras et al. 2022, eq. 8."""
    sd = torch.tensor([1.2, 0.3, 0.2, 0.1])
    net = tiny(prediction_type=prediction_type, schedule=schedule, sigma_data=tuple(sd.tolist()))
    batch, outputs, t = batch_of(8), [], torch.linspace(20, 900, 8).long()
    network = net._network
    monkeypatch.setattr(net, "_network", lambda *args: outputs.append(network(*args)) or outputs[-1])
    loss = denoising_loss(net, batch.x_0, batch.cond, t, batch.eps, weighting="edm")
    signal, sigma = net.schedule(t)
    x_t, sd = net._fold(net.schedule.add_noise(batch.x_0, batch.eps, t)), sd[:, None, None]
    v = signal**2 * sd**2 + sigma**2
    target = (net._fold(batch.x_0) - signal * sd**2 / v * x_t) / (sigma * sd / v.sqrt())
    assert_close(loss, (outputs[0] - target).square().mean((1, 2, 3)), rtol=1e-3, atol=1e-3)
    plain = tiny(prediction_type=prediction_type, schedule=schedule)
    assert torch.equal(denoising_loss(plain, *batch, weighting="edm"), denoising_loss(plain, *batch))


def test_training_lowers_the_loss(tmp_path):
    white = torch.full((16, 1, 8, 8), 255, dtype=torch.uint8)
    dataset = AttributeDataset(white, torch.ones(16, 3), Attributes(NAMES), "white", "csv")
    _, losses = fit(tiny(), dataset, TrainConfig(16 * 20, 16, lr=4e-3), checkpoint_dir=tmp_path, progress=False)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_config_reaches_optimizer_and_gradients(tmp_path, monkeypatch):
    rates, norms = [], []
    step, clip = torch.optim.Adam.step, torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.optim.Adam, "step", lambda s, *a: rates.append(s.param_groups[0]["lr"]) or step(s, *a))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, most: norms.append(most) or clip(p, most))
    config = TrainConfig(8 * 20, 8, optimizer="adam", max_grad_norm=0.25, lr=0.01, warmup=0.2)
    fit(tiny(), random_dataset(), config, checkpoint_dir=tmp_path, progress=False)
    cosine = [0.01 * 0.5 * (1 + math.cos(math.pi * i / 16)) for i in range(16)]
    assert rates == pytest.approx([0.0, 0.0025, 0.005, 0.0075, *cosine]) and set(norms) == {0.25}
    rates.clear()
    constant = dataclasses.replace(config, lr_schedule="constant", warmup=0.0)
    fit(tiny(), random_dataset(), constant, checkpoint_dir=tmp_path / "constant", progress=False)
    assert rates == [0.01] * 20


def test_float16_scales_its_loss(tmp_path, monkeypatch):
    """What a GPU before compute capability 8 does; a CPU has the scaler too."""
    monkeypatch.setattr(training, "precision", lambda kind: torch.float16)
    scaled, scale = [], torch.amp.GradScaler.scale
    monkeypatch.setattr(torch.amp.GradScaler, "scale", lambda s, loss: scaled.append(scale(s, loss)) or scaled[-1])
    _, losses = fit(tiny(), random_dataset(), TrainConfig(16, 8), checkpoint_dir=tmp_path, progress=False)
    assert scaled[0].item() == pytest.approx(1024 * losses[0], rel=1e-3) and all(map(math.isfinite, losses))


def test_settings_of_a_launcher_do_not_change_a_training(tmp_path, monkeypatch):
    """Bug 3: under `accelerate launch` with an fp16 config accelerate scaled the loss once more."""
    _, alone = fit(tiny(), random_dataset(), TrainConfig(32, 8), checkpoint_dir=tmp_path / "a", progress=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    AcceleratorState._reset_state(True)
    _, launched = fit(tiny(), random_dataset(), TrainConfig(32, 8), checkpoint_dir=tmp_path / "b", progress=False)
    assert launched == alone and AcceleratorState().mixed_precision == "no"


def test_a_loss_that_is_not_a_number_stops_with_one_sentence(tmp_path, monkeypatch):
    forward, calls = Denoiser.forward, []

    def poisoned(self, *args, **options):
        calls.append(1)
        return forward(self, *args, **options) * (torch.nan if len(calls) == 4 else 1)

    monkeypatch.setattr(Denoiser, "forward", poisoned)
    message = r"step 3 is not a finite number: training stops; the last good checkpoint is of step 3, in .*lower lr"
    with pytest.raises(ValueError, match=message):
        fit(tiny(), random_dataset(), TrainConfig(64, 8), checkpoint_dir=tmp_path, save_every=0, progress=False)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3 and all(t.isfinite().all() for t in state["net"].values())


def test_data_that_do_not_fit_are_refused_before_the_first_step():
    """Bug 24: not only when the first step is asked for."""
    with refused("no images"):
        train(tiny(), random_dataset().subset([]), TrainConfig(8))
    with refused(r"is for images \(1, 16, 16\) with 3 attributes, the dataset has \(1, 8, 8\) with 3"):
        train(tiny(shape=(1, 16, 16)), random_dataset(), TrainConfig(8))
    with refused("needs an attribute that has both values"):
        Batch.sample(numbered(10), TrainConfig(1, 4, rare_fraction=0.5), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cond_dropout": "some"}, "cond_dropout must be one of partial, whole, none"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, adam"),
        ({"rare_fraction": 1.5}, "rare_fraction must be in"),
        ({"lr": math.nan}, "lr must be above 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"ema_decays": ()}, "ema_decays"),
    ],
)
def test_a_wrong_config_is_refused(settings, message):
    with refused(message):
        TrainConfig(8, **settings)
