"""The commands. `tools/NAME.py ...` and `detector NAME ...` are the same; each is one function on one configuration."""

import difflib
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from detector.config import DemoConfig, EvaluateConfig, ExportConfig, InferConfig, TrainConfig
from detector.errors import ConfigError, DetectorError

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def train(config: TrainConfig) -> int:
    from detector.training.loop import train

    train(config)
    return 0


def evaluate(config: EvaluateConfig) -> int:
    from detector.evaluation.evaluate import evaluate

    evaluate(config)
    return 0


def infer(config: InferConfig) -> int:
    from detector.inference.infer import infer

    return infer(config)


def export(config: ExportConfig) -> int:
    from detector.export.export import export

    export(config)
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
    "demo": Command(DemoConfig, demo),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; what the user can mend is one line on stderr, exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
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
        f"  {name:<10}{(command.config.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()
    )
    return f"usage: detector COMMAND [options]\n\n{rows}\n\ndetector COMMAND --help lists a command's options."


def parse(name: str, command: Command, arguments: Sequence[str]) -> Any:
    """The configuration that files and arguments make up. Raises ConfigError naming the key and the remedy."""
    parser = build_parser(name, command)
    try:
        for path in config_files(arguments):
            check_file(parser, path)
        parsed = parser.parse_args(list(arguments))
        if name == "train" and parsed["resume"] is not None:
            parsed = resumed(parser, parsed, arguments)
        values = parser.instantiate(parsed).as_dict()
    except ArgumentError as error:
        raise ConfigError(explain(parser, error)) from error
    values.pop("config")
    return command.config(**values)


def build_parser(name: str, command: Command) -> ArgumentParser:
    parser = ArgumentParser(prog=f"detector {name}", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below; later ones win.")
    skip = set()
    if command.config is InferConfig:
        parser.add_argument("sources", nargs="+", type=str, help="Pictures, folders or globs.")
        skip = {"sources"}
    parser.add_class_arguments(command.config, as_group=False, skip=skip)
    return parser


def config_files(arguments: Sequence[str]) -> list[str]:
    """The values of --config."""
    following = [value for option, value in pairwise(arguments) if option == "--config"]
    return following + [a.removeprefix("--config=") for a in arguments if a.startswith("--config=")]


def check_file(parser: ArgumentParser, path: str) -> None:
    """Raise ConfigError naming the file for what is wrong in it, which the parser's own message does not."""
    if not Path(path).is_file():
        raise ConfigError(f"--config: there is no file {path}; configs/ holds the shipped ones")
    try:
        parser.parse_path(path, defaults=True)
    except ArgumentError as error:
        message = explain(parser, error)
        if "is required" not in message:  # a file may leave that to the command line
            raise ConfigError(f"{path}: {message}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def explain(parser: ArgumentParser, error: ArgumentError) -> str:
    """One line for the parser's message, with the nearest existing key where one is unknown."""
    message = " ".join(str(error).split())
    unknown = re.search(r"[Uu]nrecognized arguments: --([\w.]+)", message)
    in_group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    at_top = re.search(
        r"[Oo]ption '([\w.]+)' is not accepted|does not accept option '([\w.]+)'|Key '([\w.]+)'", message
    )
    if in_group:
        key = f"{in_group[1]}.{in_group[2]}"
    elif unknown:
        key = unknown[1]
    elif at_top and "required" not in message:
        key = next(group for group in at_top.groups() if group)
    else:
        return (
            message.replace("Parser key ", "")
            .replace("<class 'int'>", "whole number")
            .replace("<class 'float'>", "number")
        )
    known = [name for name in vars(parser.get_defaults().as_flat()) if name != "config"]
    near = difflib.get_close_matches(key, known, n=1) or [
        name for name in known if name.split(".")[-1] == key.split(".")[-1]
    ]
    hint = f"; did you mean {near[0]}?" if near else "; --help lists all options"
    return f"there is no option {key}{hint}"


def resumed(parser: ArgumentParser, parsed: Namespace, arguments: Sequence[str]) -> Namespace:
    """The configuration that the run to resume was started with."""
    from detector.training.loop import read_run_config

    folder = parsed["resume"]
    if len([a for a in arguments if a.startswith("--")]) > 1:
        raise ConfigError(
            "--resume: a run continues with the configuration it was started with; leave other options out"
        )
    restored: Namespace = parser.parse_path(str(read_run_config(folder)))
    restored["resume"] = folder
    return restored


if __name__ == "__main__":
    sys.exit(main())
