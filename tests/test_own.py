"""Your own table and pictures: numbers on half a circle, yes and no, and every wrong row named."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from facelab.attributes import Attributes
from facelab.data import Pictures
from facelab.own import Columns, from_csv
from facelab.train import Batch, Recipe


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        Image.new("RGB", (12, 8), (60 * i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


def table(folder, text, encoding="utf-8"):
    path = folder / "table.csv"
    path.write_text(text, encoding)
    return path


GOOD = "file,angle,held\n0.png,-30,1\n1.png,0,0\n2.png,90,1\n3.png,30,0\n"


def test_a_table_becomes_pictures_and_conditions(folder):
    pictures, columns = from_csv(table(folder, GOOD), folder, side=8)
    assert columns.ranges == {"angle": (-30.0, 90.0), "held": None}
    assert pictures.attributes == columns.attributes == Attributes(["angle", "angle'", "held"])
    assert columns.attributes.groups == {"angle": ("angle", "angle'"), "held": ("held",)}
    x_0, cond = pictures[:]
    assert x_0.shape == (4, 3, 8, 8) and "4 pictures of your own, table.csv: angle, held" in pictures.source
    wanted = [[1, 0, 1], [math.cos(math.pi / 4), math.sin(math.pi / 4), -1], [-1, 0, 1], [0, 1, -1]]
    assert_close(cond, torch.tensor(wanted), atol=1e-6, rtol=0)
    assert [round((x[0, 0, 0].item() + 1) * 127.5) for x in x_0] == [0, 60, 120, 180]


def test_a_wish_in_the_tables_units_is_the_condition_of_the_row_that_says_it(folder):
    pictures, columns = from_csv(table(folder, GOOD), folder, side=8, grey=True)
    assert pictures.shape == (1, 8, 8)
    assert_close(columns.encode(angle=30, held=False), pictures[3][1])
    assert_close(columns.encode(angle=30), torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)
    assert columns.encode().abs().sum() == 0
    for wish, says in [
        ({"angle": 91}, "angle is a number from -30 to 90, got 91"),
        ({"angle": True}, "angle is a number from -30 to 90, got True"),
        ({"angel": 3}, "there is no column 'angel': there are angle, held"),
        ({"held": 2}, r"held is yes \(True or 1\) or no \(False, 0 or -1\), got 2"),
        ({"held": 0.5}, "held is yes .* got 0.5"),
        ({"held": "yes"}, "held is yes .* got 'yes'"),
        ({"angle": "30"}, "angle is a number from -30 to 90, got '30'"),
        ({"angle": math.nan}, "angle is a number from -30 to 90, got nan"),
    ]:
        with pytest.raises(ValueError, match=says):
            columns.encode(**wish)


def test_a_zero_of_the_table_is_no_and_none_is_not_said():
    columns = Columns({"a": (0.0, 1.0), "b": None})
    for no in (0, 0.0, -1, False, np.int64(0), np.bool_(False), torch.tensor(0)):
        assert columns.encode(b=no).tolist() == [0, 0, -1]
    for yes in (1, True, np.float32(1)):
        assert columns.encode(b=yes).tolist() == [0, 0, 1]
    assert columns.encode(a=None, b=None).tolist() == columns.encode().tolist() == [0, 0, 0]
    rows = torch.tensor([[0.5, 0.0], [0.5, -1.0], [0.5, 1.0], [math.nan, math.nan]])
    assert_close(columns.encode_many(rows), torch.tensor([[0, 1, -1], [0, 1, -1], [0, 1, 1], [0, 0, 0.0]]))
    assert_close(columns.encode(a=np.float32(0.5)), columns.encode(a=0.5))


def test_many_rows_are_refused_as_one_wish_is():
    columns = Columns({"a": (0.0, 1.0), "b": None})
    for row, says in (
        ([2.0, 1.0], "a is a number from 0 to 1, got 2"),
        ([-0.1, 1.0], "a is a number from 0 to 1, got -0.1"),
        ([0.5, 0.5], "b is yes .* got 0.5"),
        ([math.inf, 1.0], "a is a number from 0 to 1, got inf"),
        ([0.5], r"rows must be \(N, 2\): a, b; got \(2, 1\)"),
    ):
        with pytest.raises(ValueError, match=says):
            columns.encode_many(torch.tensor([[0.0, 1.0][: len(row)], row]))
    # The ends of a table are within it in float32 too.
    ends = Columns({"a": (-59.97, 59.97)})
    found = ends.encode_many(torch.tensor([[-59.97], [59.97]], dtype=torch.float32))
    assert_close(found, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), atol=1e-6, rtol=0)


def test_no_number_is_unsaid_and_neighbours_stay_neighbours():
    columns = Columns({"v": (-2.0, 6.0)})
    cond = columns.encode_many(torch.linspace(-2, 6, 41)[:, None])
    assert_close(cond.norm(dim=1), torch.ones(41))
    steps = cond.diff(dim=0).norm(dim=1)
    assert_close(steps, steps[:1].expand(40), atol=1e-5, rtol=0)
    assert (cond[:, 0].diff() < 0).all()
    assert columns.encode_many(torch.tensor([[math.nan]])).tolist() == [[0.0, 0.0]]


def test_an_empty_cell_is_not_said_and_words_and_minus_one_are_no(folder):
    text = "name;a;b;c\n0.png;yes;-1;2.5\n1.png;No;1;\n2.png;;1;3.5\n"
    pictures, columns = from_csv(table(folder, text), folder, side=8)
    assert columns.ranges == {"a": None, "b": None, "c": (2.5, 3.5)}
    wanted = [[1, -1, 1, 0], [-1, 1, 0, 0], [0, 1, -1, 0]]
    assert_close(pictures[:][1], torch.tensor(wanted).float(), atol=1e-6, rtol=0)


def test_a_byte_order_mark_tabs_and_empty_lines_are_let_pass(folder):
    path = table(folder, GOOD.replace(",", "\t").replace("1.png", "\n1.png"), "utf-8-sig")
    assert len(from_csv(path, folder, side=8)[0]) == 4
    quoted = table(folder, GOOD.replace("file", '"file, of the picture"'), "utf-8-sig")
    assert from_csv(quoted, folder, side=8)[1].ranges == {"angle": (-30.0, 90.0), "held": None}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "4.png,3,1\n", "row 6: 4.png is not in the folder"),
        (GOOD + "1.png,3,1\n", "row 6: 1.png stands in row 3 already"),
        (GOOD.replace("1.png,0,0", "\n\n1.png,0,none"), "row 5: held is 'none', which is no number"),
        (GOOD.replace("90", "ninety"), "row 4: angle is 'ninety', which is no number"),
        (GOOD.replace("90", "nan"), "row 4: angle is 'nan', which is no number"),
        (GOOD.replace("90", "inf"), "row 4: angle is 'inf', which is no number"),
        (GOOD.replace("90,1", "90"), "row 4: has 2 fields, and should have 3"),
        (GOOD.replace("2.png", ""), "row 4: names no picture"),
        (GOOD.replace("2.png", "../2.png"), r"row 4: \.\./2.png lies outside the folder"),
        (GOOD.replace("2.png", "table.csv"), "row 4: table.csv cannot be opened as a picture"),
        ("file,a,b\n0.png,3,1\n1.png,3,0\n", "the column a is 3 in every row, so it tells no picture from another"),
        ("file,a,b\n0.png,,1\n1.png,,0\n", "the column a is empty in every row"),
        (
            "file,a,b\n0.png,3,1\n1.png,3,1\n",
            "column a is 3 in every row.*; the column b is 1 in every row.*leave it out.$",
        ),
        (GOOD + "./1.png,3,1\n", r"row 6: \./1.png stands in row 3 already"),
        (GOOD + "4\0.png,3,1\n", r"row 6: '4\\x00.png' cannot be the name of a file"),
        (GOOD + "4" * 300 + ",3,1\n", "row 6: '4444*' cannot be the name of a file|row 6: 4444* is not in the folder"),
        (GOOD.replace("3.png,30,0", "3.png,30,no"), "row 5: held is 'no', where other rows have a number.$"),
        (
            "file,a\n0.png,yes\n1.png,no\n2.png,0\n3.png,Yes\n",
            "row 4: a is '0', where other rows have a word, yes or no.$",
        ),
        ("", "has no row"),
        ("file,a\n", "has no row"),
        ("file\n0.png\n", "row 1: needs a column of file names and others"),
        ("file,a,a\n0.png,1,2\n", "row 1: needs a column of file names and others with a name each, got file, a, a"),
        ("file,a,\n0.png,1,2\n", "row 1: needs"),
    ],
)
def test_what_is_wrong_is_named_row_by_row(folder, text, says):
    with pytest.raises(ValueError, match=says):
        from_csv(table(folder, text), folder, side=8)


def test_all_wrong_rows_are_told_at_once_up_to_ten(folder):
    text = GOOD.replace("-30", "left") + "".join(f"x{i}.png,1,1\n" for i in range(12))
    with pytest.raises(ValueError) as told:
        from_csv(table(folder, text), folder, side=8)
    said = str(told.value)
    assert said.startswith("table.csv: row 2: angle is 'left', which is no number; row 6: x0.png is not in the folder")
    assert said.count("row ") == 10 and said.endswith("; and 3 more.")


def test_a_picture_that_cannot_be_opened_is_told_with_all_the_rest(folder):
    (folder / "3.png").write_bytes(b"no picture")
    with pytest.raises(ValueError) as told:
        from_csv(table(folder, GOOD.replace("-30", "left").replace("1.png", "x.png")), folder, side=8)
    rows = str(told.value).removeprefix("table.csv: ").removesuffix(".").split("; ")
    assert [row[:5] for row in rows] == ["row 2", "row 3", "row 5"] and "3.png cannot be opened" in rows[2]


def test_a_missing_folder_and_no_pixels_are_told_once(folder):
    with pytest.raises(ValueError, match=r"^there is no folder .*nowhere: name the one where .* table.csv lie.$"):
        from_csv(table(folder, GOOD), folder / "nowhere")
    with pytest.raises(ValueError, match="a side of at least 1 pixel, got 0"):
        from_csv(table(folder, GOOD), folder, side=0)


def test_grey_of_16_bits_keeps_its_shades_and_what_has_no_white_is_refused(folder):
    shades = np.linspace(0, 65_535, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(shades).save(folder / "0.png")
    pictures, _ = from_csv(table(folder, GOOD), folder, side=8, grey=True)
    assert pictures.images[0, 0].tolist() == (shades / 257).round().tolist()
    assert from_csv(table(folder, GOOD), folder, side=8)[0].images[0, 2].tolist() == pictures.images[0, 0].tolist()
    Image.fromarray(np.ones((8, 8), np.float32)).save(folder / "1.tif")
    with pytest.raises(ValueError, match="row 3: 1.tif does not tell which of its numbers is white"):
        from_csv(table(folder, GOOD.replace("1.png", "1.tif")), folder, side=8)


def test_a_picture_stands_upright_is_cut_from_its_middle_and_reduced_without_stripes(folder):
    upright = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(12, 8))
    camera = Image.Exif()
    camera[0x0112] = 6  # held on its side: to be turned clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "1.png", exif=camera)
    Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255).save(folder / "2.png")
    images = from_csv(table(folder, GOOD), folder, side=8, grey=True)[0].images[:, 0]
    assert images[1].tolist() == np.asarray(upright)[2:10].tolist()
    assert images[2].min() > 120 and images[2].max() < 135, "black and white pixels in turn are grey from afar"


def test_another_encoding_is_named_with_its_row(folder):
    path = table(folder, GOOD + "3.png,1,é\n", "latin-1")
    with pytest.raises(ValueError, match="table.csv: row 6: is not UTF-8"):
        from_csv(path, folder)
    with pytest.raises(ValueError, match="there is no table"):
        from_csv(folder / "none.csv", folder)


def test_pictures_keep_what_lies_between_and_bytes_stay_bytes():
    images, names = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), Attributes(["a", "b"])
    between = torch.tensor([[0.5, -0.25], [1, 0], [-1, 0.125]])
    kept = Pictures(images, between, names, "test")
    assert_close(kept[:][1], between) and kept.conds.dtype == torch.float32
    assert Pictures(images, between.sign(), names, "test").conds.dtype == torch.int8
    assert kept.key != Pictures(images, between.sign(), names, "test").key
    assert_close(kept.take([2])[0][1], between[2])
    batch = Batch.draw(kept, Recipe(8, 8, forget="never"), 0)
    assert all(any(torch.equal(row, one) for one in between) for row in batch.cond)
