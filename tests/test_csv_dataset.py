"""A CSV table and a folder of images: numbers on half a circle, yes and no, and one error that names every wrong row."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from facelab.attributes import Attributes
from facelab.data.csv_dataset import Columns, from_csv

GOOD = "file,angle,held\n0.png,-30,1\n1.png,0,0\n2.png,90,1\n3.png,30,0\n"


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        Image.new("RGB", (12, 8), (60 * i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


def table(folder, text, encoding="utf-8"):
    path = folder / "table.csv"
    path.write_text(text, encoding)
    return path


def test_a_table_becomes_images_and_conditions(folder):
    dataset, columns = from_csv(table(folder, GOOD), folder, side=8)
    assert columns.ranges == {"angle": (-30.0, 90.0), "held": None}
    assert dataset.attributes == columns.attributes == Attributes(["angle", "angle'", "held"])
    assert columns.attributes.groups == {"angle": ("angle", "angle'"), "held": ("held",)}
    assert dataset.name == "csv" and "4 images of table.csv: angle, held" in dataset.source
    assert dataset.column_groups.tolist() == [0, 0, 1] and dataset.frequencies == pytest.approx((0.5, 0.5, 0.5))
    x_0, cond = dataset[:]
    wanted = [[1, 0, 1], [math.cos(math.pi / 4), math.sin(math.pi / 4), -1], [-1, 0, 1], [0, 1, -1]]
    assert_close(cond, torch.tensor(wanted), atol=1e-6, rtol=0)
    assert x_0.shape == (4, 3, 8, 8) and [round((x[0, 0, 0].item() + 1) * 127.5) for x in x_0] == [0, 60, 120, 180]


def test_conditions_in_the_tables_units(folder):
    dataset, columns = from_csv(table(folder, GOOD), folder, side=8, grey=True)
    assert dataset.shape == (1, 8, 8)
    assert_close(columns.encode(angle=30, held=False), dataset[3][1])
    assert_close(columns.encode(angle=30), torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)
    assert columns.encode().tolist() == columns.encode(angle=None, held=None).tolist() == [0, 0, 0]
    for no in (0, 0.0, -1, False, np.int64(0), torch.tensor(0)):
        assert columns.encode(held=no).tolist() == [0, 0, -1]
    for values, says in [
        ({"angle": 91}, "angle is a number from -30 to 90, got 91"),
        ({"angel": 3}, "there is no column 'angel': the columns are angle, held"),
        ({"held": 2}, r"held is yes \(1, True\) or no \(0, -1, False\), got 2"),
        ({"held": 0.5}, "held is yes .* got 0.5"),
    ]:
        with pytest.raises(ValueError, match=says):
            columns.encode(**values)


def test_many_rows_are_checked_as_one():
    columns = Columns({"a": (0.0, 1.0), "b": None})
    for row, says in (
        ([2.0, 1.0], "a is a number from 0 to 1, got 2"),
        ([0.5, 0.5], "b is yes .* got 0.5"),
        ([math.inf, 1.0], "a is a number from 0 to 1, got inf"),
        ([0.5], r"rows must be \(N, 2\), one value a column, got \(2, 1\)"),
    ):
        with pytest.raises(ValueError, match=says):
            columns.encode_many(torch.tensor([[0.0, 1.0][: len(row)], row]))
    ends = Columns({"a": (-59.97, 59.97)}).encode_many(torch.tensor([[-59.97], [59.97]], dtype=torch.float32))
    assert_close(ends, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), atol=1e-6, rtol=0)


def test_no_number_is_the_null_condition_and_neighbours_stay_neighbours():
    columns = Columns({"v": (-2.0, 6.0)})
    cond = columns.encode_many(torch.linspace(-2, 6, 41)[:, None])
    assert_close(cond.norm(dim=1), torch.ones(41))
    steps = cond.diff(dim=0).norm(dim=1)
    assert_close(steps, steps[:1].expand(40), atol=1e-5, rtol=0)
    assert (cond[:, 0].diff() < 0).all()
    assert columns.encode_many(torch.tensor([[math.nan]])).tolist() == [[0.0, 0.0]]


def test_empty_cells_words_other_separators_and_a_byte_order_mark(folder):
    text = "name;a;b;c\n0.png;yes;-1;2.5\n\n1.png;No;1;\n2.png;;1; 3.5\n"
    dataset, columns = from_csv(table(folder, text, "utf-8-sig"), folder, side=8)
    assert columns.ranges == {"a": None, "b": None, "c": (2.5, 3.5)}
    wanted = [[1, -1, 1, 0], [-1, 1, 0, 0], [0, 1, -1, 0]]
    assert_close(dataset[:][1], torch.tensor(wanted).float(), atol=1e-6, rtol=0)
    assert len(from_csv(table(folder, GOOD.replace(",", "\t")), folder, side=8)[0]) == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "4.png,3,1\n", "row 6: 4.png is not in the folder"),
        (GOOD + "1.png,3,1\n", "row 6: 1.png is in row 3 already"),
        (GOOD.replace("1.png,0,0", "\n\n1.png,0,none"), "row 5: held is 'none', which is not a number"),
        (GOOD.replace("90", "nan"), "row 4: angle is 'nan', which is not a number"),
        (GOOD.replace("90", "inf"), "row 4: angle is 'inf', which is not a number"),
        (GOOD.replace("90,1", "90"), "row 4: must have 3 fields"),
        (GOOD.replace("90,1", "90,1,1"), "row 4: must have 3 fields"),
        (GOOD.replace("2.png", "table.csv"), "row 4: table.csv cannot be read as an image"),
        ("file,a,b\n0.png,3,1\n1.png,3,0\n", "the column a does not vary: leave it out"),
        ("file,a,b\n0.png,,1\n1.png,,0\n", "the column a does not vary: leave it out"),
        ("file,a\n0.png,yes\n1.png,no\n2.png,0\n", "the column a mixes ways to write yes and no"),
        ("", "needs a header of different names"),
        ("file,a\n", "needs a header"),
        ("file\n0.png\n", "needs a header"),
        ("file,a,a\n0.png,1,2\n", "needs a header"),
    ],
)
def test_what_is_wrong_is_named(folder, text, says):
    with pytest.raises(ValueError, match=says):
        from_csv(table(folder, text), folder, side=8)


def test_one_error_names_the_table_and_up_to_ten_wrong_rows(folder):
    text = GOOD.replace("-30", "left") + "".join(f"x{i}.png,1,1\n" for i in range(12))
    with pytest.raises(ValueError) as error:
        from_csv(table(folder, text), folder, side=8)
    message = str(error.value)
    assert message.startswith("table.csv: row 2: angle is 'left', which is not a number; row 6: x0.png is not in")
    assert message.count("row ") == 10 and message.endswith("; and 3 more.")
    for path in (table(folder, GOOD + "3.png,1,é\n", "latin-1"), folder / "none.csv"):
        with pytest.raises(ValueError, match=f"{path.name} cannot be read as a CSV table in UTF-8"):
            from_csv(path, folder)


def test_images_are_upright_cropped_to_the_centre_and_reduced_without_stripes(folder):
    upright = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(12, 8))
    camera = Image.Exif()
    camera[0x0112] = 6  # taken sideways: to be rotated clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "1.png", exif=camera)
    Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255).save(folder / "2.png")
    images = from_csv(table(folder, GOOD), folder, side=8, grey=True)[0].images[:, 0]
    assert images[1].tolist() == np.asarray(upright)[2:10].tolist()
    assert images[2].min() > 120 and images[2].max() < 135, "alternating black and white pixels become grey"
