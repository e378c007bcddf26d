"""The catalog: names as people write them, and that the generated tables are right."""

import re
import subprocess
import sys
from itertools import groupby

import pytest
from conftest import ROOT

from visiontool.errors import ModelError
from visiontool.hub import catalog
from visiontool.hub.catalog import CLASSICS, NAMES, read
from visiontool.hub.classics import default_weights, fold
from visiontool.hub.resolve import built_in_names


@pytest.fixture
def no_names_table(tmp_path, monkeypatch):
    """Whatever opens names.csv fails."""
    monkeypatch.setattr(catalog, "NAMES", tmp_path / "missing.csv")


def test_every_name_and_alias_leads_to_its_classic_and_to_no_other(no_names_table):
    names = {}
    for entry in catalog.classics():
        for name in (entry.architecture, *entry.classic.aliases):
            assert names.setdefault(fold(name), entry.name) == entry.name
            assert catalog.find(name) == entry
        assert catalog.find(entry.name) == entry


NAMES_AS_TYPED = {
    "resnet50": "resnet50.tv_in1k",  # plain cross-entropy, not timm's default a1_in1k
    " vgg 16 BN ": "vgg16_bn.tv_in1k",
    "inception_v1": "googlenet.tv_in1k",
    "regnet_y_1_6gf": "regnety_016.pycls_in1k",  # a separator between digits is no decoration
    "squeezenet1.1": "squeezenet1_1.tv_in1k",  # a dot between digits begins no tag
    "squeezenet1.1.tv-in1k": "squeezenet1_1.tv_in1k",
    "mobilenet.v2": "mobilenetv2_100.ra_in1k",  # there is no mobilenet that could have a tag
    "ResNet50V2": "resnetv2_50.a1h_in1k",  # as Keras has it
    "ViT-B/16": "vit_base_patch16_224.augreg_in21k_ft_in1k",  # as its paper has it
}


@pytest.mark.parametrize(("typed", "name"), NAMES_AS_TYPED.items())
def test_names_as_people_write_them(no_names_table, typed, name):
    assert catalog.find(typed).name == name
    assert default_weights(typed) in (name, "")


def test_other_tags_and_other_architectures_come_from_the_table():
    stronger = catalog.find("ResNet-50.a1_in1k")
    plain = catalog.find("resnet50")
    assert (stronger.name, stronger.tag, stronger.top1) == ("resnet50.a1_in1k", "a1_in1k", None)
    assert (stronger.classic, stronger.macs) == (plain.classic, plain.macs)  # the same network
    assert stronger.source == "hf-hub:timm/resnet50.a1_in1k"
    assert catalog.find("mobilenet_v2.ra_in1k").name == "mobilenetv2_100.ra_in1k"
    assert catalog.find("swin_large_patch4_window7_224.ms_in22k").macs is None  # another number of classes
    assert catalog.find("beit-base-patch16-224").classic is None
    assert catalog.find("efficientnet_lite0").name == "tf_efficientnet_lite0.in1k"  # an alias, and a name of timm's:
    own = catalog.find("efficientnet_lite0.ra_in1k")
    assert (own.name, own.classic, own.sha256) == ("efficientnet_lite0.ra_in1k", None, ("37913777",))
    assert catalog.find("convnextv2_base").tag == "fcmae_ft_in22k_in1k"  # timm's default


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("resnet5O", "no model is called 'resnet5O'. Closest: resnet56, resnet50"),
        ("mobilenet_v3_smal1", "mobilenet_v3_small"),  # an alias
        ("ShuffleNetV2 0.5", "Closest: shufflenet_v2_x0_5, "),  # however it is written
        ("", "no model is called ''.\n"),
        ("ResNet", "resnet18, resnet34, resnet50, resnet101, resnet152, cifar_resnet20"),
        ("wide resnet", "visiontool models 'wide resnet'"),
        ("vit_base", "several: vit_base_patch32_224, vit_base_patch16_224, "),  # the classics first
        ("resnet50.v2", "resnet50 has no weights with the tag 'v2'"),  # and is not resnet50v2
        ("vgg16.v2", "vgg16 has no weights with the tag 'v2'.\nIts tags: tv_in1k."),
        ("efficientnet_lite0.v2", "tf_efficientnet_lite0 has no weights with the tag 'v2'.\nIts tags: in1k."),
        ("nin.in1k", "nin has no tags, so no 'in1k' either.\nGive nin alone."),
    ],
)
def test_what_is_no_name_is_refused_with_near_ones(typed, words):
    assert default_weights(typed) == ""
    with pytest.raises(ModelError, match=re.escape(words)):
        catalog.find(typed)


def test_the_facts_of_lenet5_and_vgg16_are_the_textbooks():
    entry = catalog.find("lenet5")
    assert (entry.input_size, entry.classes) == ((1, 32, 32), 10)
    # C1, C3 (each map sees all six), C5, F6, output; weights and biases
    assert entry.params == (25 + 1) * 6 + (6 * 25 + 1) * 16 + (16 * 25 + 1) * 120 + (120 + 1) * 84 + (84 + 1) * 10
    assert entry.macs == 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 120 * 16 * 25 + 120 * 84 + 84 * 10
    entry = catalog.find("vgg16")
    assert (entry.params, entry.macs, entry.top1) == (138_357_544, 15_470_264_320, 71.592)
    assert (entry.library, entry.license, entry.source) == ("timm", "bsd-3-clause", "hf-hub:timm/vgg16.tv_in1k")
    assert (entry.classic.family, entry.classic.year) == ("VGG", 2014)
    assert entry.classic.paper == "https://arxiv.org/abs/1409.1556"


@pytest.mark.parametrize(
    ("name", "gmacs", "mparams"),  # results/model_benchmark_amp_nchw_rtx3090.csv of timm's repository
    [
        ("regnetx_002", 0.2, 2.68),
        ("tf_efficientnet_b7", 38.33, 66.35),
        ("swin_large_patch4_window7_224", 34.53, 196.53),
    ],
)
def test_macs_and_parameters_are_those_that_timm_published(name, gmacs, mparams):
    entry = catalog.find(name)
    assert entry.macs == pytest.approx(gmacs * 1e9, rel=0.03)
    assert entry.params == pytest.approx(mparams * 1e6, abs=5e3 + 1)


def test_what_is_published_and_what_is_not():
    untrained = {entry.architecture for entry in catalog.classics() if entry.is_untrained}
    cifar = {f"cifar_resnet{version}{layers}" for version in ("", "v2_") for layers in (20, 32, 44, 56)}
    assert untrained == {"nin", "bn_inception", "resnetv2_152", *cifar}
    assert all(entry.license and entry.tag for entry in catalog.classics() if entry.source not in ("", "built-in"))
    built_in = [entry.name for entry in catalog.entries() if entry.source == "built-in"]
    assert built_in == ["lenet5"]
    assert set(built_in) <= set(built_in_names())
    assert catalog.find("efficientnet_b6").is_untrained
    by_torchvision = (entry.architecture for entry in catalog.entries() if entry.library == "torchvision")
    assert {name.partition("_")[0] for name in by_torchvision} == {"alexnet", "googlenet", "squeezenet1", "shufflenet"}


def test_the_tables_agree_and_name_each_model_once():
    large = {entry.name: entry for entry in read(NAMES)}
    small = list(read(CLASSICS))
    names = [entry.name for entry in catalog.entries()]
    assert [entry.name for entry in small] == [entry.name for entry in catalog.classics()] == names[: len(small)]
    assert all(large[entry.name] == entry for entry in small)
    assert len(names) == len(set(names)) > 2000
    assert set(names) == set(large)
    folded = {fold(entry.architecture) for entry in large.values()}
    aliases = {fold(alias) for entry in catalog.classics() for alias in entry.classic.aliases}
    assert folded & aliases == {f"efficientnetlite{number}" for number in range(3)}  # timm's own are hardly published
    architectures = [architecture for architecture, _ in groupby(entry.architecture for entry in large.values())]
    assert len(architectures) == len(set(architectures))  # the rows of an architecture stand together
    years = [entry.classic.year for entry in catalog.classics()]
    assert years == sorted(years)
    for entry in catalog.classics():
        assert (entry.top1 is None) == (entry.tag == "")
        assert entry.top1 is None or (50 < entry.top1 < 90 and entry.classes == 1000)


def test_what_every_entry_has():
    for entry in catalog.entries():
        assert entry.source.startswith(("hf-hub:", "https://", "package:")) or entry.source in ("", "built-in")
        assert not entry.source.endswith("/")
        assert entry.is_untrained == (entry.source == "")
        assert all(re.fullmatch("[0-9a-f]{8,64}", digits) for digits in entry.sha256)
        assert entry.params > 0
        assert min(entry.input_size) > 0


def test_which_licenses_are_permissive():
    assert all(map(catalog.is_permissive, ("apache-2.0", "MIT", "bsd-3-clause", "cc0-1.0", "cc-by-4.0")))
    assert not any(map(catalog.is_permissive, ("cc-by-nc-4.0", "cc-by-sa-4.0", "dinov3-license", "unknown", "")))


def test_search_looks_in_names_aliases_families_and_titles():
    assert [entry.name for entry in catalog.search("squeeze-net")] == ["squeezenet1_0.tv_in1k", "squeezenet1_1.tv_in1k"]
    assert "legacy_seresnet50.in1k" in {entry.name for entry in catalog.search("squeeze and excitation")}  # the title
    assert [entry.name for entry in catalog.search("inception_v1")] == ["googlenet.tv_in1k"]  # an alias
    assert {entry.architecture for entry in catalog.search("Wide ResNet")} == {"wide_resnet50_2", "wide_resnet101_2"}
    assert [entry.name for entry in catalog.search("resnet50.tv")] == ["resnet50.tv_in1k", "resnet50.tv2_in1k"]


@pytest.mark.slow
def test_the_facts_are_torchvisions_where_it_has_the_network():
    from torchvision import models

    known = set(models.list_models(module=models))
    met = set()
    for entry in catalog.classics():
        for name in known & {entry.architecture, *entry.classic.aliases}:
            weights = models.get_model_weights(name)
            meta = weights["IMAGENET1K_V1"].meta
            if name not in ("inception_v3", "maxvit_t"):  # an auxiliary head; 3,096 of 31 million more than timm's
                assert entry.params == meta["num_params"], name
            if not name.startswith("efficientnet"):  # of other input sizes; the figures have three decimals
                assert entry.macs == pytest.approx(meta["_ops"] * 1e9, rel=0.01, abs=5e5), name
            if entry.tag == "tv_in1k":
                assert entry.top1 == meta["_metrics"]["ImageNet-1K"]["acc@1"], name
            if entry.library == "torchvision":
                assert entry.source == weights["IMAGENET1K_V1"].url, name
            met.add(entry.architecture)
    assert len(met) >= 60


@pytest.mark.slow
def test_the_tables_are_fresh():
    import timm

    with NAMES.open() as file:
        header = file.readline()
    if f"timm {timm.__version__}," not in header:
        pytest.skip(f"names.csv is not of timm {timm.__version__}, which is installed: run scripts/make_catalog.py")
    command = [sys.executable, "scripts/make_catalog.py", "--check"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (ran.returncode, ran.stderr) == (0, "")
