"""Configuration: every shipped file parses, defaults are the documented ones, help and print_config work."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from detector.cli import COMMANDS, build_parser, main, parse
from detector.config import AugmentConfig, TrainConfig, names_in
from detector.errors import ConfigError
from detector.models.catalog import MODELS
from detector.reporting.run_record import read_config

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configurations_parse(path: Path) -> None:
    config = parse("train", COMMANDS["train"], ["--config", str(path)])
    assert isinstance(config, TrainConfig)
    assert config.epochs == yaml.safe_load(path.read_text())["epochs"]


def test_the_coco_recipe_is_the_published_one() -> None:
    config = parse("train", COMMANDS["train"], ["--config", str(ROOT / "configs" / "coco.yaml")])
    given = yaml.safe_load((ROOT / "configs" / "coco.yaml").read_text())
    for section in ("train", "augment"):
        chosen = getattr(config, section)
        assert {name: getattr(chosen, name) for name in given[section]} == given[section]
    assert all(getattr(config, name) == value for name, value in given.items() if not isinstance(value, dict))
    loop = config.train
    assert (loop.optimizer, config.lr, loop.momentum, loop.nominal_batch_size) == ("sgd", 0.01, 0.937, 64)
    plain = [name for name in MODELS if name.startswith("yolo11") and "-" not in name]
    strengths = {name[-1]: config.augment.for_model(name) for name in plain}
    assert {letter: (each.scale, each.mixup) for letter, each in strengths.items()} == {
        "n": (0.5, 0.0),
        "s": (0.9, 0.05),
        "m": (0.9, 0.15),
        "l": (0.9, 0.15),
        "x": (0.9, 0.2),
    }
    assert all(config.augment.for_model(f"{name}-cross") == strengths[name[-1]] for name in plain)
    for_size = {"t": "n", "c": "l", "e": "x"}  # YOLOv9's as YOLO11's of about that size
    for other, letter in for_size.items():
        assert config.augment.for_model(f"yolov9{other}") == strengths[letter]


def test_strengths_by_size_are_checked() -> None:
    assert AugmentConfig(scale=0.3).for_model("yolo11n") == AugmentConfig(scale=0.3)
    with pytest.raises(ConfigError, match=r"augment\.scale\.s: invalid value 2\.0"):
        AugmentConfig(scale={"n": 0.5, "s": 2.0})
    with pytest.raises(ConfigError, match=r"augment\.mixup: there is no number for yolo11x; add one for x"):
        AugmentConfig(mixup={"n": 0.5}).for_model("yolo11x")
    with pytest.raises(ConfigError, match=r"there is no number for yolo11x-cross; add one for x"):
        AugmentConfig(mixup={"s": 0.5}).for_model("yolo11x-cross")


def test_finetune_is_the_default() -> None:
    assert parse("train", COMMANDS["train"], ["--config", str(ROOT / "configs" / "finetune.yaml")]) == TrainConfig()


def test_options_on_the_command_line_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 7\nseed: 3\n")
    config = parse("train", COMMANDS["train"], ["--config", str(file), "--epochs", "9"])
    assert (config.epochs, config.seed) == (9, 3)


@pytest.mark.parametrize("field", ["epochs", "batch_size", "image_size"])
def test_values_are_validated_on_construction(field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: invalid value 0"):
        TrainConfig(**{field: 0})


@pytest.mark.parametrize(("text", "value"), [("640", 640), ("[384, 640]", (384, 640))])
def test_an_image_size_is_a_side_or_height_and_width(text: str, value: int | tuple[int, int]) -> None:
    assert parse("train", COMMANDS["train"], ["--image_size", text]).image_size == value


@pytest.mark.parametrize("text", ["[384, 600]", "[384]", "[32, 32, 32]", "wide", "[32, x]", "0"])
def test_an_image_size_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^image_size: invalid value .+: expected .+"):
        parse("train", COMMANDS["train"], ["--image_size", text])


def run(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_every_option_means(name: str) -> None:
    parser = build_parser(name, COMMANDS[name])
    helps = {action.dest: action.help for action in parser._actions if "." in action.dest or action.dest != "help"}
    in_place = {action.dest for action in parser._actions if not action.option_strings}
    assert len(helps) >= 3
    assert [dest for dest, text in helps.items() if not text or text.startswith("<")] == []
    text = run(f"tools/{name}.py" if (ROOT / "tools" / f"{name}.py").exists() else "-m", *module_of(name), "--help")
    assert all(f"--{dest}" in text for dest in helps if dest not in {"print_config", *in_place})


def module_of(name: str) -> list[str]:
    """What to put after `python -m` for a command without a tool of its own."""
    return [] if (ROOT / "tools" / f"{name}.py").exists() else ["detector", name]


def test_a_flag_needs_no_value_after_it() -> None:
    parsed = [
        parse("export", COMMANDS["export"], ["--weights", "w", "--out", "o.onnx", *flags])
        for flags in ([], ["--force"])
    ]
    assert [config.force for config in parsed] == [False, True]


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        ("TrainLoopConfig", "optimizer", "adam"),
        ("TrainConfig", "epochs", 2.5),
        ("TrainConfig", "epochs", "5"),
        ("TrainConfig", "lr", "high"),
        ("TrainConfig", "seed", True),
        ("PredictionConfig", "conf", "high"),
    ],
)
def test_types_are_checked_on_construction(config: str, field: str, value: object) -> None:
    """In a process of its own, since the tests' run-time checks would complain first."""
    code = f"from detector.config import {config}\ntry: {config}({field}={value!r})\nexcept Exception as e: print(e)"
    assert f"{field}: invalid value {value!r}: expected " in run("-c", code)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["Detector", "create_model", "load_model", "train", "evaluate", "export", "TrainConfig"]
)
def test_public_names_stay_what_they_are(name: str) -> None:
    """Importing everything first must not put a sub-package in the place of a function."""
    modules = "detector.exporting.export, detector.evaluation.evaluate, detector.training.loop, detector.weights.files"
    code = f"import detector, {modules}; a = detector.{name}; from detector import {name}; print(callable({name}), a is {name})"
    assert run("-c", code).strip() == "True True"


def test_print_config_can_be_fed_back(tmp_path: Path) -> None:
    file = tmp_path / "printed.yaml"
    file.write_text(run("tools/train.py", "--epochs", "5", "--data", "somewhere", "--print_config"))
    config = parse("train", COMMANDS["train"], ["--config", str(file)])
    assert (config.epochs, config.data) == (5, "somewhere")


HELP = "import contextlib; from detector.cli import main\nwith contextlib.redirect_stdout(None): main(['--help'])"


@pytest.mark.parametrize("what", ["import detector", HELP], ids=["import", "help"])
def test_starting_imports_nothing_heavy(what: str) -> None:
    heavy = {"torch", "torchvision", "numpy", "cv2", "matplotlib", "PIL", "safetensors", "albumentations", "rich"}
    loaded = set(run("-c", f"{what}\nimport sys; print(*sys.modules)").split())
    assert not loaded & heavy


@pytest.mark.parametrize(
    "given",
    [
        *(
            "epochs=100001",
            "epochs=9" + 400 * "9",
            "lr=1e300",
            "workers=100000",
            "batch_size=1000000",
            "image_size=3200000",
        ),
        *(
            "train.cache_gb=1e300",
            "train.warmup_epochs=1e308",
            "train.momentum=1",
            "train.warmup_momentum=1",
            "loss.box=1e300",
        ),
        *("train.patience=-1", "train.weight_decay=.nan", "train.clip_gradient_norm=.inf", "augment.scale={n: 1e300}"),
    ],
)
def test_every_number_has_bounds(given: str) -> None:
    with pytest.raises(ConfigError, match=r"^[\w.]+: invalid value"):
        parse("train", COMMANDS["train"], [f"--{given}"])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_states_the_bounds_of_every_number(name: str) -> None:
    for action in build_parser(name, COMMANDS[name])._actions:
        if str(getattr(action, "_typehint", action.type)) in ("<class 'int'>", "<class 'float'>"):
            assert re.search(r"; from -?[\d.]+ to [\d.,]+\.$", str(action.help)), action.dest


def test_shipped_configurations_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["--config", "coco"], ["--config=coco"]):
        assert parse("train", COMMANDS["train"], arguments).train.nominal_batch_size == 64
    Path("coco").write_text("epochs: 7")
    assert parse("train", COMMANDS["train"], ["--config", "coco"]).epochs == 7
    with pytest.raises(ConfigError, match=r"no file cocoo; the names of shipped ones are: coco, finetune"):
        parse("train", COMMANDS["train"], ["--config", "cocoo"])


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("data: ~/data\npaths:\n  val_json: ~/a.json\n")
    config = parse("train", COMMANDS["train"], ["--config=~/mine.yaml", "--out=~/found"])
    places = [config.data, config.out, config.paths.val_json]
    assert places == [f"{tmp_path}/{name}" for name in ("data", "found", "a.json")]
    config = parse("infer", COMMANDS["infer"], ["~/a", "b~/c", "--weights=w", "--out=o"])
    assert config.sources == [f"{tmp_path}/a", "b~/c"]
    assert parse("infer", COMMANDS["infer"], ["a", "--weights=w", "--out=~"]).out == str(tmp_path)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            "a: &a [x, x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
            r"line 2: the alias \*a is not read here; write its value out",
        ),
        ("train: &a\n  a: *a\n", "line 2: the alias"),
        (f"data: {'[' * 10_000}", "line 1: nested more than 20 deep"),
        ("epochs: !!int x", "line 1: the tag .*int is not read here"),
        ("epochs: 1\n" * 20_000, "too long for a configuration"),
        ("train: x", "train"),
    ],
)
def test_a_configuration_file_that_unfolds_without_end_is_refused(content: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=line) as caught:
        parse("train", COMMANDS["train"], ["--config", str(file)])
    assert len(str(caught.value)) < 1000
    with pytest.raises(ConfigError, match=line):
        read_config(file)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("config: {}", "config: .* give both as --config"),
        ("augment: 1e999", "augment: .*expected lines of keys with values"),
    ],
)
def test_what_the_parser_would_stumble_over_is_refused(content: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=rf"mine\.yaml: {line}"):
        parse("train", COMMANDS["train"], ["--config", str(file)])


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_configuration_that_is_no_regular_file_is_refused(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        file.mkdir()
    whole = rf"^--config: {file} can't be read \(it is .*{kind}.*, not a regular file\); choose another file$"
    with pytest.raises(ConfigError, match=whole):
        parse("train", COMMANDS["train"], ["--config", str(file)])


@pytest.mark.parametrize(("name", "option"), [("infer", "classes"), ("import_weights", "class_names")])
def test_class_names_with_commas(name: str, option: str) -> None:
    required = ["a", "--weights", "w", "--out", "o"] if name == "infer" else ["a", "b"]
    for given, names in (("a, b c", ["a", "b c"]), ('["red, ripe", green]', ["red, ripe", "green"])):
        config = parse(name, COMMANDS[name], [*required, f"--{option}", given])
        assert names_in(getattr(config, option)) == names


def test_permission_denied_is_not_does_not_exist(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the system's answer, as the tests may run as root, whom it never refuses."""

    def stat(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "stat", stat)
    assert main(["report", "run"]) == 2
    assert "permission denied; give this user the right to it" in capsys.readouterr().err


def test_a_permission_without_a_file_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(_: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setitem(COMMANDS, "report", COMMANDS["report"]._replace(run=report))
    assert main(["report", "run"]) == 2
    told = "error: [Errno 1] Operation not permitted: permission denied; give this user the right to it\n"
    assert capsys.readouterr().err == told
