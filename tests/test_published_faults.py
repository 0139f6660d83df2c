"""The published faults: each changes one line, has the effect that it should have, and is gone after its `with`."""

import sys

import pytest
import torch
from oracle import SHAPE, digits, randn, tiny
from torch.testing import assert_close

from facelab import guidance, samplers, schedules, training
from facelab.attributes import DIGITS
from facelab.course import faults
from facelab.course.faults import FAULTS, enabled, fault
from facelab.schedules import cosine, rectified_flow

NET = {"attributes": DIGITS.names, "exclusive": True}
EPS = randn(2, *SHAPE, seed=1, dtype=torch.float32)
X_0 = randn(2, *SHAPE, seed=2, dtype=torch.float32).clamp(-1, 1)


def both(name, call):
    """What `call` returns without the fault and with it; afterwards it returns the first again."""
    correct = call()
    with enabled(name):
        faulty = call()
    assert_close(call(), correct, rtol=0, atol=0)
    return correct, faulty


@pytest.mark.parametrize("letter", FAULTS)
def test_each_fault_changes_one_line_of_the_correct_source_and_is_gone_even_after_an_error(letter):
    """So the faulty copies follow every change of the correct functions."""
    one = fault(letter)
    assert one is fault(one.name) and len(one.source) > 20
    head, _, *lines = one.diff().splitlines()
    assert [line[0] for line in lines if line[0] in "+-"] == ["-", "+"], one.diff()
    assert head == f"--- {one.correct.__module__.replace('.', '/')}.py, {one.correct.__qualname__}"
    correct, inside = one.correct, None
    with pytest.raises(RuntimeError), enabled(letter):
        inside = getattr(one.owner, one.faulty.__name__)
        assert one.diff()
        raise RuntimeError
    assert inside is one.faulty and getattr(one.owner, one.faulty.__name__) == correct


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match=r"no fault 'I': the faults are A \(DDIM"):
        fault("I")


def test_names_imported_elsewhere_get_the_fault_and_new_variables_stay():
    notebook = sys.modules["__main__"]
    notebook.cosine_of_a_notebook = cosine
    try:
        with enabled("D"):
            notebook.assigned_inside = 1
            assert notebook.cosine_of_a_notebook is faults.cosine is schedules.SCHEDULES["cosine"]
        assert notebook.cosine_of_a_notebook is cosine is schedules.SCHEDULES["cosine"]
        assert notebook.assigned_inside == 1
    finally:
        del notebook.cosine_of_a_notebook, notebook.assigned_inside
    with enabled("B"):
        assert samplers.cfg is faults.cfg
    with enabled("F"):
        assert training.COND_DROPOUT["whole"] is faults.drop_condition
    assert samplers.cfg is guidance.cfg and training.COND_DROPOUT["whole"] is training.drop_condition


def test_the_last_timestep_is_not_trained():
    config = training.TrainConfig(4_000, batch_size=1_000)

    def timesteps():
        return torch.cat([training.Batch.sample(digits(), config, step, num_timesteps=20).t for step in range(4)])

    correct, faulty = both("last timestep not trained", timesteps)
    assert correct.unique().tolist() == list(range(20)) and faulty.unique().tolist() == list(range(19))


def test_noise_without_its_root_is_too_weak():
    correct, faulty = both("variance, not its root", lambda: cosine().add_noise(X_0, EPS, 500))
    signal, sigma = cosine()(500)
    assert_close(correct, signal * X_0 + sigma * EPS)
    assert_close(faulty, signal * X_0 + sigma**2 * EPS)


def test_nine_labels_in_ten_are_dropped():
    cond = torch.eye(10).repeat(200, 1)

    def remaining():
        return (training.COND_DROPOUT["whole"](cond, torch.Generator().manual_seed(0), None) != 0).any(1).float().mean()

    correct, faulty = both("labels dropped too often", remaining)
    assert 0.87 < correct < 0.93 and 0.07 < faulty < 0.13


def test_a_negative_one_hot_is_the_opposite_condition():
    net, cond = tiny(**NET), torch.eye(10)[:2]

    def predict(sign=1):
        with torch.no_grad():
            return net(X_0, 500, sign * cond)

    correct, faulty = both("one-hot made negative", predict)
    assert_close(faulty, predict(-1))
    assert (correct - faulty).abs().max() > 1e-3
    assert_close(*both("one-hot made negative", lambda: net(X_0, 500, 0 * cond).detach()))


def test_cosine_without_its_square_has_more_signal_in_the_middle():
    correct, faulty = both("cosine without its square", lambda: schedules.cosine().alpha_bar[499])
    assert correct.item() == pytest.approx(0.494, abs=1e-3) and faulty.item() == pytest.approx(0.703, abs=1e-3)
    with enabled("cosine without its square"):
        net = tiny(**NET, schedule="cosine")
    assert net.schedule.alpha_bar[499].item() == pytest.approx(0.703, abs=1e-3), "a network has its schedule for good"


def test_ddim_drops_the_predicted_noise():
    correct, faulty = both("A", lambda: samplers.DDIM(rectified_flow()).step(EPS, X_0, 700, 600))
    assert_close(faulty, rectified_flow()(600)[0] * X_0)
    assert (correct - faulty).abs().max() > 0.1


def test_guidance_from_the_wrong_end_is_one_scale_too_strong():
    net, cond = tiny(**NET), torch.eye(10)[:2]

    def guided(scale):
        with torch.no_grad():
            return guidance.cfg(net, scale)(X_0, 500, cond)

    correct, faulty = both("scale from the wrong end", lambda: guided(2.0))
    assert_close(faulty, guided(3.0), atol=1e-4, rtol=0)
    assert (correct - faulty).abs().max() > 1e-4


def test_images_scaled_twice_lie_between_minus_three_and_one():
    correct, faulty = both("images scaled twice", lambda: digits()[:][0])
    assert (correct.min(), correct.max()) == (-1, 1) and (faulty.min(), faulty.max()) == (-3, 1)
