"""THE call: whatever the network predicts, out comes the clean picture, in float32, for every tick."""

import itertools
import json
import math

import oracle
import pytest
import torch
from oracle import NAMES, SHAPE, Fake, ideal_set, pictures, randn, refused, tiny
from torch.nn import functional as F
from torch.testing import assert_close

from facelab import pretrained, train
from facelab.attributes import CELEBA, DIGITS
from facelab.guidance import classifier_free
from facelab.model import AttributeClassifier, Denoiser, seeded
from facelab.plan import PLANS, Recipe
from facelab.sample import DDIM, DDPM, sample
from facelab.schedule import PREDICTIONS, SCHEDULES

X_T = randn(3, *SHAPE, dtype=torch.float32)
COND = torch.tensor([[1.0, 0, 0], [0, -1, 0], [1, 1, -1]])
HALF = [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)]


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize(
    "settings",
    [
        {"shape": (3, 8, 8), "patch": 1},
        {"shape": (1, 28, 28), "channels": (32, 64), "attention": (False, True)},
        {"shape": (2, 8, 16), "patch": 4, "time_shift": "default"},
        {"condition": "channels", "schedule": "cosine", "predicts": "eps"},
        {"condition": "none", "schedule": "linear", "predicts": "x_0", "ticks": 20},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_a_picture_goes_in_and_a_picture_comes_out(settings):
    net = tiny(**settings)
    for x_t in (randn(2, *net.shape, dtype=torch.float32), randn(1, *net.shape).half()):
        guess = net(x_t, len(net.schedule) - 1, torch.zeros(3))
        assert guess.shape == x_t.shape and guess.dtype == torch.float32 and guess.isfinite().all()


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_pictures_in_float64_come_back_in_float64(predicts):
    assert tiny(schedule="cosine", predicts=predicts)(X_T.double(), 3, COND).dtype == torch.float64


def test_one_tick_for_all_is_a_tick_for_each():
    net = tiny()
    one = net(X_T, 400, COND)
    for t in (torch.tensor(400), torch.tensor([400] * 3), torch.tensor([400] * 3, dtype=torch.int32)):
        assert_close(net(X_T, t, COND), one)
    each = net(X_T, torch.tensor([0, 400, 999]), COND)
    assert_close(each[1:2], net(X_T[1:2], 400, COND[1:2]))
    assert (each[0] - one[0]).abs().max() > 0.01


def test_one_condition_for_all_is_a_condition_for_each():
    net = tiny()
    each = net(X_T, 400, COND[:1].repeat(3, 1))
    assert_close(net(X_T, 400, COND[0]), each)
    assert_close(net(X_T, 400, COND[:1]), each)
    assert_close(net(X_T, 400, COND[:1].long()), each)


@pytest.mark.parametrize("shape", [(3, 1, 8, 9), (3, 2, 8, 8), (1, 8, 8), (3, 1, 1, 8, 8), (64,)])
def test_pictures_of_another_shape_are_refused(shape):
    with refused("takes pictures"):
        tiny()(torch.zeros(shape), 5, COND)


@pytest.mark.parametrize("shape", [(4,), (2,), (2, 3), (3, 2), (4, 3), (1, 1, 3), (3, 1, 3)])
def test_conditions_of_another_shape_are_refused(shape):
    with refused("cond must be"):
        tiny()(X_T, 5, torch.zeros(shape))


@pytest.mark.parametrize("condition, heeds", [("embedding", True), ("channels", True), ("none", False)])
def test_who_heeds_the_condition(condition, heeds):
    net = tiny(condition=condition)
    apart = (net(X_T, 500, torch.ones(3)) - net(X_T, 500, -torch.ones(3))).abs().max()
    assert apart > 1e-3 if heeds else apart == 0
    alone = net(X_T[2:], 500, COND[2])
    assert_close(net(X_T, 500, COND)[2:], alone)


WRONG = {
    "eps with straight": {"predicts": "eps", "schedule": "straight"},
    "unknown prediction": {"predicts": "noise"},
    "unknown condition": {"condition": "film"},
    "unknown schedule": {"schedule": "quadratic"},
    "patch does not fit": {"shape": (1, 9, 8)},
    "levels do not fit": {"shape": (1, 28, 28), "patch": 4},
    "no picture": {"shape": (8, 8)},
    "levels differ": {"channels": (32, 32, 32)},
}


@pytest.mark.parametrize("settings", WRONG.values(), ids=WRONG)
def test_settings_that_do_not_fit_are_refused(settings):
    with refused():
        tiny(**settings)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_every_prediction_becomes_x_0(schedule, predicts, monkeypatch):
    if (predicts, schedule) == ("eps", "straight"):
        pytest.skip("refused, as another test holds")
    net, t = tiny(schedule=schedule, predicts=predicts), torch.tensor([0, 500, 998, 999])
    x_0, eps = randn(4, *SHAPE), randn(4, *SHAPE, seed=1)
    x_t, target = net.schedule.add_noise(x_0, eps, t), net.schedule.target(x_0, eps, t, predicts)
    monkeypatch.setattr(net, "_predict", lambda x, t, cond: target)
    assert_close(net(x_t, t, torch.zeros(3)), x_0, rtol=0, atol=1e-9)
    assert_close(net(x_t, t, torch.zeros(3), raw=True), target)


@pytest.mark.parametrize("schedule", ["cosine", "straight", "linear", "sigmoid"])
@pytest.mark.parametrize("dtype, tolerance", HALF)
def test_half_precision_finds_the_ideal_guess_at_every_tick(schedule, dtype, tolerance, monkeypatch):
    net, t = tiny(schedule=schedule).to(dtype), torch.arange(1000)
    ideal = ideal_set(net.schedule, count=8, shape=SHAPE)
    x_t = net.schedule.add_noise(ideal.x_0.repeat(125, 1, 1, 1), randn(1000, *SHAPE, seed=1), t).float()
    best = ideal(x_t.double(), t, torch.zeros(1))
    said = net.schedule.velocity(best, net.schedule.eps_from(x_t.double(), best, t), t).to(dtype)
    monkeypatch.setattr(net, "_predict", lambda x, t, cond: said)
    guess = net(x_t, t, torch.zeros(3))
    assert guess.dtype == torch.float32 and guess.isfinite().all()
    assert_close(guess.double(), best, rtol=0, atol=tolerance)
    assert_close(guess[999].double(), best[999], rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.02), (torch.bfloat16, 0.2)])
def test_a_network_in_half_precision_says_about_the_same(dtype, tolerance):
    t = torch.tensor([0, 500, 999])
    for schedule in ("cosine", "straight"):
        whole = tiny(schedule=schedule)(X_T, t, COND)
        guess = tiny(schedule=schedule).to(dtype)(X_T, t, COND)
        assert guess.dtype == torch.float32
        assert_close(guess, whole, rtol=0, atol=tolerance)


def test_the_tick_s_sinusoids_are_stretched_to_a_thousand():
    short, long = tiny(ticks=10, predicts="x_0"), tiny(ticks=1000, predicts="x_0")
    assert_close(short(X_T, 7, COND), long(X_T, 700, COND))


def test_the_seed_determines_the_weights_and_the_world_does_not_notice():
    before = torch.get_rng_state()
    one, again, other = (tiny(seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ZeroDivisionError), seeded(5):
        torch.rand(3)
        _ = 1 / 0
    assert torch.equal(before, torch.get_rng_state())


def test_settings_are_json_and_build_the_same_network():
    net = tiny(condition="channels", seed=2)
    again = Denoiser(**json.loads(json.dumps(net.settings())))
    assert again.settings() == json.loads(json.dumps(net.settings()))
    assert_close(again.eval()(X_T, 5, COND), net(X_T, 5, COND))
    assert again.attributes == net.attributes and again.shape == SHAPE


def test_the_report_s_network_has_its_1_8_million_parameters():
    """Its listing with the missing block put back: 1,379,875 with 2 layers a block, 1,811,139 with 3, and Linear(40, 5)."""
    report = {"names": CELEBA.names, "schedule": "cosine", "predicts": "eps", "condition": "channels", "head_width": 8}
    report |= {"channels": (32, 32, 32, 64), "attention": (False, True, True, True), "time_shift": "default"}
    for layers, count in ((2, 1_379_875), (3, 1_811_139)):
        net = Denoiser((3, 64, 64), layers=layers, **report)
        assert sum(p.numel() for p in net.parameters()) == count + 40 * 5 + 5


# Another device: meta holds no numbers, so whatever would fetch one from a GPU fails here.


TICKS = {"int": 999, "from the CPU": torch.tensor([0, 1, 999]), "its own": torch.tensor([0, 1, 9], device="meta")}


@pytest.mark.parametrize(
    "t, settings",
    zip(TICKS.values(), [{"condition": "channels"}, {"attention": (False, True)}, {"predicts": "eps"}], strict=True),
    ids=TICKS,
)
def test_forward_stays_on_its_device(t, settings):
    net, x_t = tiny(schedule="cosine", **settings).to("meta"), X_T.to("meta")
    for cond in (COND.to("meta"), COND[0]):
        guess = net(x_t, t, cond)
        assert guess.device.type == "meta" and guess.shape == x_t.shape


@pytest.mark.parametrize("solver", [DDIM, lambda s: DDIM(s, eta=1.0), DDPM], ids=["DDIM", "DDIM with noise", "DDPM"])
def test_sampling_stays_on_its_device(solver):
    net = tiny().to("meta")
    drawn = sample(classifier_free(net, 2), X_T.half().to("meta"), COND, solver(net.schedule), 2)
    assert drawn.device.type == "meta" and drawn.shape == X_T.shape and drawn.dtype == torch.float16


# Weights on disk.


def test_saved_and_loaded_says_the_same(tmp_path):
    net = tiny(seed=1, attention=(False, True))
    card = json.loads((pretrained.save(net, tmp_path, {"what": "a test"}) / "card.json").read_text())
    back = pretrained.load(str(tmp_path))
    assert back.shape == SHAPE and back.attributes.names == NAMES and back.schedule.name == "straight"
    assert card["what"] == "a test" and card["parameters"] == sum(p.numel() for p in net.parameters())
    assert card["bytes"] == (tmp_path / pretrained.WEIGHTS).stat().st_size < 2.1 * card["parameters"] + 20_000
    for name, value in back.denoiser.state_dict().items():
        assert torch.equal(value, net.state_dict()[name].half().float())
    assert not back.denoiser.training and not any(p.requires_grad for p in back.denoiser.parameters())
    assert back.classifier is None
    assert_close(back.denoiser(X_T, 500, COND), net(X_T, 500, COND), rtol=0, atol=0.02)


def test_a_judge_comes_back_too(tmp_path):
    judge = AttributeClassifier((1, 8, 8), DIGITS.names, exclusive=True, channels=(8, 16))
    judge.train()(randn(16, 1, 8, 8))
    pretrained.save(judge, tmp_path, {})
    back = pretrained.load(str(tmp_path))
    assert back.denoiser is None and back.attributes is DIGITS and not back.classifier.training
    assert_close(back.classifier(X_T), judge.eval()(X_T), rtol=0, atol=0.02)


def test_loaded_to_a_device(tmp_path):
    pretrained.save(tiny(), tmp_path, {})
    assert next(pretrained.load(str(tmp_path), "meta").denoiser.parameters()).device.type == "meta"


@pytest.mark.parametrize("place", [0.001, 0.5, 0.999])
def test_a_flipped_byte_is_refused(tmp_path, place):
    file = pretrained.save(tiny(), tmp_path, {}) / pretrained.WEIGHTS
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)
    with refused("damaged"):
        pretrained.load(str(tmp_path))


@pytest.mark.parametrize("settings", [{"channels": (32, 64)}, {"condition": "channels"}, {"layers": 2}])
def test_weights_of_another_architecture_are_refused(tmp_path, settings):
    pretrained.save(tiny(), tmp_path, {})
    tiny(**settings).save_config(tmp_path)
    with refused(r"another architecture.*first (embed|unet)\.[\w.]+ \(needed"):
        pretrained.load(str(tmp_path))


def test_what_is_not_there_is_refused(tmp_path):
    with refused("no weights called 'no-such'"):
        pretrained.load("no-such")
    pretrained.save(tiny(), tmp_path, {})
    (tmp_path / pretrained.WEIGHTS).unlink()
    with refused("missing"):
        pretrained.load(str(tmp_path))


def test_a_folder_without_its_card_is_refused(tmp_path):
    pretrained.save(tiny(), tmp_path, {})
    (tmp_path / "card.json").unlink()
    with refused("card"):
        pretrained.load(str(tmp_path))


def test_another_class_is_refused(tmp_path):
    pretrained.save(tiny(), tmp_path, {})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"_class_name": "UNet2DModel"}))
    with refused("UNet2DModel"):
        pretrained.load(str(tmp_path))


def test_everything_shipped_is_whole():
    for name in pretrained.names():
        net = pretrained.load(name).denoiser or pretrained.load(name).classifier
        assert all(p.isfinite().all() and p.dtype == torch.float32 for p in net.parameters())


# Eval mode.


def test_fitted_net_says_the_same_twice():
    with torch.enable_grad():
        oracle.fitted_net_says_the_same_twice(train)


def test_a_finished_run_comes_back_in_eval_mode(tmp_path):
    with torch.enable_grad():
        for _ in range(2):
            net, _ = train.fit(tiny(dropout=0.5), pictures(), Recipe(8, 8), keep=tmp_path, progress=False)
            assert not net.training and not any(part.training for part in net.modules())


# The judge.


def judge(exclusive=False, names=NAMES):
    return AttributeClassifier(SHAPE, names, exclusive, channels=(8, 16)).eval()


def test_a_judge_reads_yes_and_no_or_the_one():
    x = randn(7, *SHAPE).clamp(-1, 1)
    logits = judge()(x)
    assert logits.shape == (7, 3)
    assert torch.equal(judge().read(x, batch=2), torch.where(logits > 0, 1, -1))
    one = judge(exclusive=True).read(x, batch=3)
    assert torch.equal(one, logits.argmax(1)) and one.shape == (7,)
    with refused("reads"):
        judge()(torch.zeros(1, 1, 8, 9))
    with refused("got values up to 255"):
        judge().read(torch.full((1, *SHAPE), 255.0))


def test_a_judge_is_not_blamed_for_what_was_not_said():
    x, cond = randn(3, *SHAPE), torch.tensor([[1.0, 0, -1], [0, 0, 0], [1, 1, 1]])
    logits = judge()(x)
    right = torch.nn.functional.logsigmoid(logits * cond)
    expected = torch.stack([-(right[0, 0] + right[0, 2]) / 2, torch.zeros(()), -right[2].mean()])
    assert_close(judge().loss(x, cond), expected)


def test_an_exclusive_judge_has_one_softmax():
    x, cond = randn(3, *SHAPE), torch.eye(3)
    expected = -judge(exclusive=True)(x).log_softmax(1).diag()
    assert_close(judge(exclusive=True).loss(x, cond), expected)
    assert expected.mean() == pytest.approx(math.log(3), abs=0.5)


def test_a_judge_s_weights_are_its_seed_s():
    before = torch.get_rng_state()
    one, again, other = (AttributeClassifier(SHAPE, NAMES, channels=(8,), seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(one[k], again[k]) for k in one) and any(not torch.equal(one[k], other[k]) for k in one)
    assert torch.equal(before, torch.get_rng_state())


def test_the_fake_network_of_these_tests_heeds_its_condition():
    assert (Fake()(X_T, 0, COND[:1]) - Fake()(X_T, 0, -COND[:1])).abs().max() > 0.1


def test_with_rates_a_judge_learns_evidence_beyond_the_share():
    names, rates = ("a", "b"), (0.02, 0.7)
    plain, adjusted = (AttributeClassifier((1, 8, 8), names, channels=(8,), rates=r).eval() for r in (None, rates))
    x, conds = (
        torch.randn(6, 1, 8, 8).clamp(-1, 1),
        torch.tensor([[1.0, -1], [-1, 1], [0, 1], [1, 0], [-1, -1], [1, 1]]),
    )
    logits = plain(x)
    assert torch.equal(logits, adjusted(x))  # reading is on the evidence alone
    shifted = logits + torch.tensor([math.log(0.02 / 0.98), math.log(0.7 / 0.3)])
    each = F.binary_cross_entropy_with_logits(shifted, (conds > 0).float(), reduction="none") * (conds != 0)
    assert_close(adjusted.loss(x, conds), each.sum(1) / (conds != 0).sum(1))
    for wrong in ((0.5,), (0.0, 0.5), (0.5, 1.0)):
        with pytest.raises(ValueError, match="2 shares between 0 and 1"):
            AttributeClassifier((1, 8, 8), names, rates=wrong)


def test_residual_blocks_stand_where_they_are_asked_for():
    plain, deeper = (AttributeClassifier((3, 16, 16), ("a",), channels=(8, 16), blocks=b) for b in ((), (0, 2)))
    more = sum(p.numel() for p in deeper.parameters()) - sum(p.numel() for p in plain.parameters())
    assert more == 2 * (2 * 9 * 16 * 16 + 2 * 2 * 16) and deeper(torch.zeros(1, 3, 16, 16)).shape == (1, 1)


def test_few_answers_are_told_as_loudly_as_many():
    settings = {"shape": (1, 8, 8), "names": ("a", "b", "c", "d"), "channels": (32,), "attention": (False,)}
    plain, loud = (Denoiser(**settings, amplify=on) for on in (False, True))
    x_t = randn(1, 1, 8, 8, dtype=torch.float32)
    for cond, times in (
        ([1, -1, 1, 1], 1.0),  # a whole description is as loud as it was
        ([0, -1, 0, 0], 2.0),  # sqrt(4 / 1)
        ([0, -1, 0, 1], 2**0.5),
        ([0, 0.5, 0, 0], 2.0),  # half a wish stays half a wish
        ([0, 0, 0, 0], 1.0),
    ):
        cond = torch.tensor([cond], dtype=torch.float32)
        assert_close(loud(x_t, 500, cond), plain(x_t, 500, cond * times))
    assert not Denoiser(**settings).config.amplify


def test_the_rarer_an_answer_the_louder():
    rates = (0.5, 0.02, 0.9, 0.3)
    settings = {"shape": (1, 8, 8), "names": ("a", "b", "c", "d"), "channels": (32,), "attention": (False,)}
    plain, standard = Denoiser(**settings), Denoiser(**settings, rates=rates)
    told, answers = [], torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)))
    hook = standard.embed[0].register_forward_pre_hook(lambda module, args: told.append(args[0]))
    standard(torch.zeros(16, 1, 8, 8), 500, answers)
    hook.remove()
    share = torch.where(answers > 0, torch.tensor(rates), 1 - torch.tensor(rates)).prod(1, keepdim=True)
    assert_close((share * told[0]).sum(0), torch.zeros(4), atol=1e-5, rtol=0)  # over data of these rates
    assert_close((share * told[0] ** 2).sum(0), torch.ones(4), atol=1e-5, rtol=0)

    x_t = randn(1, 1, 8, 8, dtype=torch.float32)
    for cond, as_if in (
        ([0, 1, 0, 0], [0, 7, 0, 0]),  # sqrt(.98 / .02)
        ([0, -1, 0, 0], [0, -1 / 7, 0, 0]),
        ([0, 0.5, -1, 0], [0, 3.5, -3, 0]),  # half a wish stays half a wish
        ([1, 0, 0, 0], [1, 0, 0, 0]),
    ):
        cond, as_if = (torch.tensor([c], dtype=torch.float32) for c in (cond, as_if))
        assert_close(standard(x_t, 500, cond), plain(x_t, 500, as_if))
    for wrong in ((0.5,), (0.0, 0.5, 0.5, 0.5), (0.5, 0.5, 1.0, 0.5)):
        with pytest.raises(ValueError, match="4 shares between 0 and 1"):
            Denoiser(**settings, rates=wrong)


def test_a_rare_answer_alone_is_no_louder_than_a_whole_description():
    settings = {"shape": (1, 8, 8), "names": ("a", "b", "c", "d"), "channels": (32,), "attention": (False,)}
    plain, loud = Denoiser(**settings), Denoiser(**settings, rates=(0.5, 0.02, 0.9, 0.3), amplify=True)
    x_t = randn(1, 1, 8, 8, dtype=torch.float32)
    for cond, as_if in (
        ([0, 1, 0, 0], [0, 2, 0, 0]),  # four answers of variance one are 2 long
        ([0, 0.5, 0, 0], [0, 2**0.5, 0, 0]),
        ([0, -1, 0, 0], [0, -2 / 7, 0, 0]),  # what goes without saying stays quiet
        ([0, 0, 0, 0], [0, 0, 0, 0]),
    ):
        cond, as_if = (torch.tensor([c], dtype=torch.float32) for c in (cond, as_if))
        assert_close(loud(x_t, 500, cond), plain(x_t, 500, as_if))


def test_weights_learned_without_rates_go_on_with_them():
    settings = {"shape": (1, 8, 8), "names": ("a", "b", "c"), "channels": (32,), "attention": (False,)}
    rates = (0.5, 0.02, 0.9)
    before, after = Denoiser(**settings, seed=1), Denoiser(**settings, rates=rates)
    torch.nn.init.normal_(before.embed[0].bias)
    after.load_state_dict(before.hear(rates))
    x_t = randn(1, 1, 8, 8, dtype=torch.float32)
    for cond in itertools.product((-1.0, 1.0), repeat=3):
        cond = torch.tensor([cond])
        assert_close(after(x_t, 500, cond), before(x_t, 500, cond), atol=1e-5, rtol=1e-4)


def test_the_middle_attends_only_where_it_is_asked_to():
    settings = {"shape": (1, 8, 8), "channels": (32, 32), "attention": (False, True)}
    has = [
        any("mid_block.attentions" in name for name in Denoiser(**settings, middle=on).state_dict()) for on in (0, 1)
    ]
    assert has == [False, True] and Denoiser(**settings).config.middle
    for plan in (PLANS["laptop"], PLANS["full"]):
        assert not any(net["middle"] for net in (plan.faces_net, plan.drawn_net, plan.small_net))
