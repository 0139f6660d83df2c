"""Names become a condition vector and come back; an error suggests the nearest name."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import refused

from facelab.attributes import CELEBA, DIGITS, SYNTHETIC, Attributes, expand_cond, known_attributes

OFFICIAL = """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair
Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns
Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young""".split()

FEW = Attributes(["Beard", "Hat", "Smile"], {"hair": ["Beard"], "rest": ["Smile", "Hat"]})


def test_celeba_has_the_official_order():
    assert list(CELEBA) == OFFICIAL and [name for name in CELEBA if name in SYNTHETIC.names] == list(SYNTHETIC)


def test_groups_contain_every_name_once():
    assert sorted(name for members in CELEBA.groups.values() for name in members) == sorted(OFFICIAL)
    assert sorted(FEW.groups) == ["hair", "rest"] and Attributes(["a", "b"]).groups == {"all": ("a", "b")}
    for groups in ({"all": ["Beard"]}, {"all": ["Beard", "Hat", "Smile", "Smile"]}, {"all": ["Beard", "Hat", "Nose"]}):
        with refused("groups"):
            Attributes(FEW.names, groups)
    with refused("unique"):
        Attributes(["Hat", "Hat"])


def test_values_become_the_condition():
    assert FEW.encode(Smile=True, Beard=False).tolist() == [-1, 0, 1]
    assert FEW.encode(Smile=1, Beard=-1, Hat=0).tolist() == [-1, 0, 1]
    assert FEW.encode(Hat=0.5).tolist() == [0, 0.5, 0]
    assert FEW.encode(Hat=np.float32(0.5), Smile=torch.tensor(-1), Beard=np.True_).tolist() == [1, 0.5, -1]
    assert FEW.encode().tolist() == [0, 0, 0] and FEW.encode().dtype == torch.float32
    assert [FEW.index(name) for name in FEW] == [0, 1, 2]
    assert torch.equal(DIGITS.encode_many([{str(i): True} for i in range(10)]), torch.eye(10)) and DIGITS.exclusive


def test_a_condition_in_words():
    assert FEW.describe(FEW.encode(Smile=True, Hat=False, Beard=0.5)) == "Beard 0.5, no Hat, Smile"
    assert FEW.describe(FEW.encode()) == "unconditional"
    for shape in ((2,), (4,), (1, 3)):
        with refused(r"\(3,\)"):
            FEW.describe(torch.zeros(shape))


@given(st.dictionaries(st.sampled_from(OFFICIAL), st.sampled_from([True, False, 0.5, -0.25, 0.1])))
def test_the_description_determines_the_condition(values):
    cond, back = CELEBA.encode(**values), {}
    for word in CELEBA.describe(cond).split(", ") if values else []:
        *first, last = word.split()
        back |= {last: not first} if last in OFFICIAL else {first[0]: float(last)}
    assert back == values and torch.equal(CELEBA.encode(**back), cond)


def test_invalid_values_and_names_are_refused_and_the_nearest_name_is_suggested():
    for value in (1.001, -2, math.nan, math.inf, "yes", "1", None, [1], torch.zeros(2)):
        with refused("Hat must be"):
            FEW.encode(Hat=value)
    near = {"smiling": "Smiling", "Eyeglases": "Eyeglasses", "Blonde_Hair": "Blond_Hair", "Moustache": "Mustache"}
    for wrong, right in near.items():
        with refused(f"did you mean '{right}'"):
            CELEBA.encode(**{wrong: True})
    with refused("0, 1, 2, 3, 4, 5, 6, 7, 8, 9"):
        DIGITS.encode(seven=True)
    with refused("synthetic faces have only 26 of CelebA's attributes"):
        SYNTHETIC.encode(Attractive=True)


def test_equality_is_by_names_and_exclusiveness():
    assert Attributes(FEW.names) == FEW and hash(Attributes(FEW.names)) == hash(FEW)
    assert Attributes(FEW.names, exclusive=True) != FEW and Attributes(FEW.names[::-1]) != FEW
    assert known_attributes(CELEBA.names) is CELEBA and known_attributes(list(SYNTHETIC.names)) is SYNTHETIC
    assert known_attributes(DIGITS.names, exclusive=True) is DIGITS
    assert not known_attributes(DIGITS.names).exclusive and known_attributes(FEW.names) == FEW


def test_one_condition_is_expanded_to_the_batch():
    cond = FEW.encode(Hat=True)
    for one in (cond, cond[None], cond.expand(4, 3)):
        assert torch.equal(expand_cond(one, 4), cond.expand(4, 3))
    for shape in ((2, 3), (5, 3), (4, 1, 3), ()):
        with refused("4 images need 4 conditions"):
            expand_cond(torch.zeros(shape), 4)
