"""The commands. `tools/NAME.py ...` and `detector NAME ...` are the same; each is one function on one configuration."""

import difflib
import os
import re
import shlex
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from detector.config import (
    BenchmarkConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    ImportConfig,
    InferConfig,
    ReportConfig,
    TrainConfig,
)
from detector.errors import ConfigError, DetectorError

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def train(config: TrainConfig) -> int:
    from detector.training.loop import train

    train(config)
    if int(os.environ.get("RANK", 0)) == 0:  # of the processes that torchrun starts
        report_after(config.resume or config.out)
    return 0


def report_after(folder: str) -> None:
    """Draw the report of a run that has ended well; whatever goes wrong is told, but the weights are safe."""
    try:
        report(ReportConfig(run=folder))
    except (Exception, KeyboardInterrupt) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split()) if not isinstance(error, DetectorError) else error
        again = f"tools/report.py {shlex.quote(folder)}"
        print(
            f"training is done and its weights are written, only the report is not ({reason}); draw it with: {again}",
            file=sys.stderr,
        )


def report(config: ReportConfig) -> int:
    from detector.reporting.report import report

    path = report(Path(config.run), config.data, config.device)
    print(f"written: {path}, and its pictures in {path.parent / 'report'}")
    return 0


def evaluate(config: EvaluateConfig) -> int:
    from detector.evaluation.evaluate import evaluate

    evaluate(config)
    return 0


def infer(config: InferConfig) -> int:
    from detector.inference.infer import infer

    return infer(config)


def export(config: ExportConfig) -> int:
    from detector.exporting.export import export

    export(config)
    return 0


def benchmark(config: BenchmarkConfig) -> int:
    from detector.benchmarking.benchmark import benchmark

    benchmark(config)
    return 0


def import_weights(config: ImportConfig) -> int:
    from detector.importing.import_weights import import_weights

    import_weights(config)
    return 0


def demo(config: DemoConfig) -> int:
    from detector.demo.demo import demo

    demo(config)
    return 0


class Command(NamedTuple):
    """A command: the type of its configuration, and what it does."""

    config: type
    run: Callable[[Any], int]


COMMANDS = {
    "train": Command(TrainConfig, train),
    "evaluate": Command(EvaluateConfig, evaluate),
    "infer": Command(InferConfig, infer),
    "export": Command(ExportConfig, export),
    "benchmark": Command(BenchmarkConfig, benchmark),
    "import_weights": Command(ImportConfig, import_weights),
    "report": Command(ReportConfig, report),
    "demo": Command(DemoConfig, demo),
}


FLAGS = {
    ExportConfig: {
        "batched": "An ONNX file that takes any number of letterboxed pictures rather than one picture of any size.",
        "raw": "An ONNX file that begins with the network's input and ends at its head: no letterbox, no NMS.",
        "dynamic": "Leave height and width of a batched or raw ONNX file open (multiples of 32), of a raw one its batch, too.",
        "force": "Leave the file even if the comparison fails.",
    },
    InferConfig: {
        "attention": "Also write a sheet a picture: where the attention looks, what each class rests on.",
    },
}
"""Options that need no "true" after them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; what the user can mend is one line on stderr, exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # read when torch is imported: threads that wait spin so often, then sleep; OpenMP's default spins for seconds on cores
    # that others need (loader workers, other programs), no spinning at all costs a quarter (docs/measurements.md)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(usage())
            return 0
        if arguments[0] not in COMMANDS:
            raise ConfigError(f"there is no command {arguments[0]!r}; choose one of {', '.join(COMMANDS)}")
        command = COMMANDS[arguments[0]]
        return command.run(parse(arguments[0], command, arguments[1:]))
    except DetectorError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 2


def usage() -> str:
    rows = "\n".join(
        f"  {name:<16}{(command.config.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()
    )
    return f"usage: detector COMMAND [options]\n\n{rows}\n\ndetector COMMAND --help lists a command's options."


def parse(name: str, command: Command, arguments: Sequence[str]) -> Any:
    """The configuration that files and arguments make up. Raises ConfigError naming the key and the remedy."""
    for path in config_files(arguments):
        check_file(name, command, path)
    parser = build_parser(name, command)
    try:
        parsed = parser.parse_args(list(arguments))
        if name == "train" and parsed["resume"] is not None:
            for option in ("--out", "--weights"):
                if any(argument.split("=")[0] == option for argument in arguments):
                    raise ConfigError(
                        f"--resume: leave {option} out; a run goes on in its own folder, from its checkpoint"
                    )
            path = resumed_file(parsed["resume"])
            check_file(name, command, path)
            parsed = parser.parse_args(["--config", path, *arguments])  # training refuses what differs from the run
    except ArgumentError as error:
        raise ConfigError(explain(parser, error)) from error
    return instantiate(parser, command, parsed)


def instantiate(parser: ArgumentParser, command: Command, parsed: Namespace) -> Any:
    """The configuration of parsed values. Raises ConfigError for one that is empty or out of range."""
    defaults, given = vars(parser.get_defaults().as_flat()), vars(parsed.as_flat())
    for key, value in given.items():
        if value is None and defaults.get(key) is not None:
            raise ConfigError(f"{key} has no value; give it one or leave it out for {defaults[key]!r}")
    values = parser.instantiate(parsed).as_dict()
    values.pop("config")
    return command.config(**values)


def build_parser(name: str, command: Command) -> ArgumentParser:
    parser = ArgumentParser(prog=f"detector {name}", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below; later ones win.")
    skip = set()
    for flag, help_text in FLAGS.get(command.config, {}).items():
        parser.add_argument(f"--{flag}", action="store_true", help=help_text)
        skip.add(flag)
    if command.config is InferConfig:
        parser.add_argument("sources", nargs="+", type=str, help="Pictures, videos, folders, globs, camera:0, URLs.")
        skip.add("sources")
    if command.config is ReportConfig:
        parser.add_argument("run", type=str, help="Folder of the run.")
        skip.add("run")
    if command.config is ImportConfig:
        parser.add_argument("checkpoint", type=str, help="Published checkpoint: of torch.save, or safetensors.")
        parser.add_argument("out", type=str, help="Weights file to write.")
        skip |= {"checkpoint", "out"}
    parser.add_class_arguments(command.config, as_group=False, skip=skip)
    return parser


def config_files(arguments: Sequence[str]) -> list[str]:
    """The values of --config."""
    following = [value for option, value in pairwise(arguments) if option == "--config"]
    return following + [a.removeprefix("--config=") for a in arguments if a.startswith("--config=")]


def check_file(name: str, command: Command, path: str) -> None:
    """Raise ConfigError naming the file for what is wrong in it, which the parser's own message does not."""
    if not Path(path).is_file():
        raise ConfigError(f"--config: there is no file {path}; configs/ holds the shipped ones")
    try:
        content = yaml.safe_load(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"--config: {path} can't be read ({error.strerror}); choose another file") from error
    except yaml.MarkedYAMLError as error:
        where = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}: this is not YAML: {error.problem}{where}; mend it there") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: this is not YAML but something else; write it as text, UTF-8") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: this holds no options; write lines such as 'out: runs/mine'")
    parser = build_parser(name, command)
    required = [f for f in fields(command.config) if f.default is MISSING and f.default_factory is MISSING]
    parser.set_defaults(
        {f.name: ["?"] if f.name == "sources" else "?" for f in required}
    )  # the command line may have them
    try:
        instantiate(parser, command, parser.parse_path(path, defaults=True))
    except ArgumentError as error:
        raise ConfigError(f"{path}: {explain(parser, error)}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "tuple": "a pair of them in brackets",
}


def explain(parser: ArgumentParser, error: ArgumentError) -> str:
    """One line for the parser's message: the key, what is wrong and what to do."""
    message = " ".join(str(error).split())
    if unknown := unknown_key(message):
        known = [name for name in vars(parser.get_defaults().as_flat()) if name != "config"]
        near = difflib.get_close_matches(unknown, known, n=1) or [
            name for name in known if name.split(".")[-1] == unknown.split(".")[-1]
        ]
        hint = f"; did you mean {near[0]}?" if near else "; --help lists all options"
        return f"there is no option {unknown}{hint}"
    if missing := re.search(r"arguments are required: (.+)|Key \"?(\w+)\"? is required", message):
        in_place = {action.dest for action in parser._actions if not action.option_strings}
        names = [n if n in in_place else f"--{n}" for n in (missing[1] or missing[2]).split(", ")]
        return f"missing: {', '.join(names)}; give a value for each, --help says which"
    if no_value := re.search(r"argument (--[\w.]+): expected", message):
        return f"{no_value[1]}: there is no value after it; give one"
    if stray := re.search(r"unrecognized arguments: (.+)", message):
        return f"{stray[1]!r} belongs to no option; --help lists the options"
    wrong = re.search(r'"([\w.]+)": (Expected .+?) ?Got value: (.*)', message) or re.search(
        r'"([\w.]+)": Does not validate .+ Errors: - (Expected .+) Given value type: .+ Given value: (.*)', message
    )
    if wrong:
        return f"{wrong[1]}: {wrong[3]!r} is not possible; expected {described(wrong[2])}"
    return message.replace("Parser key ", "")


def unknown_key(message: str) -> str:
    """The key that the parser's message calls unknown; empty if it speaks of something else."""
    in_group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    if in_group:
        return f"{in_group[1]}.{in_group[2]}"
    if "required" in message:
        return ""
    alone = re.search(
        r"[Uu]nrecognized arguments: --([\w.]+)|[Oo]ption '([\w.]+)' is not accepted"
        r"|does not accept option '([\w.]+)'|Key '([\w.]+)'",
        message,
    )
    return next(group for group in alone.groups() if group) if alone else ""


def described(expected: str) -> str:
    """What the parser expects, such as "Expected a <class 'int'>", in words."""
    if choices := re.search(r"Literal\[(.+?)\]", expected):
        return f"one of {choices[1].replace(chr(39), '')}"
    names = [name for name in re.findall(r"<class '(\w+)'>|a (tuple) with", expected) if name[0] != "NoneType"]
    kinds = dict.fromkeys(TYPES.get(name or other, "keys with values") for name, other in names)
    return " or ".join(kinds) if kinds else expected.removeprefix("Expected ").strip(" .")


def resumed_file(folder: str) -> str:
    """The file with the configuration that the run to resume was started with."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"--resume: {folder} holds no run (there is no {path}); give the folder that --out named")
    return str(path)


if __name__ == "__main__":
    sys.exit(main())
