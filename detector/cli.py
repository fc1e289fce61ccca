"""The commands. `tools/NAME.py ...` and `detector NAME ...` are the same; each is one function on one configuration."""

import difflib
import os
import re
import shlex
import sys
from argparse import SUPPRESS, ArgumentError
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import MISSING, fields, is_dataclass
from importlib.metadata import version
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from detector.config import (
    BatchConfig,
    BenchmarkConfig,
    CompareConfig,
    ConvertConfig,
    DemoConfig,
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    ImportConfig,
    InferConfig,
    JoinBatchConfig,
    PreviewConfig,
    ReportConfig,
    ServeConfig,
    TrainConfig,
    UiConfig,
    WeightsConfig,
    range_in_words,
    type_in_words,
)
from detector.errors import DISTRIBUTION, ConfigError, DetectorError, printable
from detector.formats.table import FORMATS
from detector.utils.interrupts import stop_signals_interrupt
from detector.utils.memory import tune_malloc
from detector.utils.yaml_file import read_yaml

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def train(config: TrainConfig) -> int:
    if config.engine == "ray":
        from detector.training.on_ray import train_on_ray

        train_on_ray(config)
    else:
        from detector.training.loop import train

        train(config)
    if int(os.environ.get("RANK", 0)) == 0:  # of the processes that torchrun starts
        report_after(ReportConfig(run=config.resume or config.out, paths=config.paths))
    return 0


def report_after(config: ReportConfig) -> None:
    """Draw the report of a run that has ended well; an error is printed but is no failed training."""
    try:
        report(config)
    except (Exception, KeyboardInterrupt) as error:
        reason = error if isinstance(error, DetectorError) else printable(f"{type(error).__name__} {error}")
        again = f"detector report {shlex.quote(config.run)}"
        print(
            f"the training is done and its weights are written, but the report failed ({reason}); draw it with: {again}",
            file=sys.stderr,
        )


def report(config: ReportConfig) -> int:
    from detector.reporting.report import report

    path = report(Path(config.run), config.data, config.device, config.paths)
    print(f"written: {path}, with its images in {path.parent / 'report'}")
    return 0


def preview_augment(config: PreviewConfig) -> int:
    from detector.reporting.preview import preview_augment

    print(f"written: {', '.join(map(str, preview_augment(config)))}")
    return 0


def evaluate(config: EvaluateConfig) -> int:
    from detector.evaluation.evaluate import evaluate

    evaluate(config)
    return 0


def compare(config: CompareConfig) -> int:
    from detector.reporting.compare import compare

    compare(config)
    return 0


def infer(config: InferConfig) -> int:
    from detector.inference.infer import infer

    return infer(config)


def batch(config: BatchConfig) -> int:
    from detector.batch.run import batch

    batch(config)
    return 0


def join_batch(config: JoinBatchConfig) -> int:
    from detector.batch.run import join_batch

    join_batch(config)
    return 0


def serve(config: ServeConfig) -> int:
    from detector.serving.serve import serve

    serve(config)
    return 0


def ui(config: UiConfig) -> int:
    from detector.ui.command import ui

    ui(config)
    return 0


def export(config: ExportConfig) -> int:
    from detector.exporting.export import export

    export(config)
    return 0


def benchmark(config: BenchmarkConfig) -> int:
    from detector.benchmarking.benchmark import benchmark

    benchmark(config)
    return 0


def import_weights(config: ImportConfig) -> int:
    from detector.weights.published.convert import import_weights

    import_weights(config)
    return 0


def convert(config: ConvertConfig) -> int:
    from detector.data.conversion.convert import convert

    convert(config)
    return 0


def weights(config: WeightsConfig) -> int:
    if config.name is None:
        from detector.weights.listing import print_names

        print_names()
    else:
        from detector.weights.published.get import get_weights

        get_weights(config.name, config.source)
    return 0


def doctor(config: DoctorConfig) -> int:
    from detector.doctor.doctor import doctor

    return doctor(config)


def demo(config: DemoConfig) -> int:
    from detector.demo.demo import demo

    demo(config)
    return 0


class Command(NamedTuple):
    """A command.

    config: the type of its configuration, whose first docstring line is the command's help; run: what it does;
    positionals: fields given by position; flags: boolean fields that need no "true" after them; computes: whether it runs
    networks.
    """

    config: type
    run: Callable[[Any], int]
    positionals: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    computes: bool = True


COMMANDS = {
    "train": Command(TrainConfig, train),
    "preview_augment": Command(PreviewConfig, preview_augment),
    "evaluate": Command(EvaluateConfig, evaluate, flags=("explain",)),
    "compare": Command(CompareConfig, compare, positionals=("first", "second")),
    "infer": Command(InferConfig, infer, positionals=("sources",), flags=("attention", "track")),
    "batch": Command(BatchConfig, batch, positionals=("sources",)),
    "join_batch": Command(JoinBatchConfig, join_batch, positionals=("folder",), computes=False),
    "serve": Command(ServeConfig, serve, flags=("allow_urls",)),
    "ui": Command(UiConfig, ui),
    "export": Command(ExportConfig, export, flags=("batched", "raw", "dynamic", "force")),
    "benchmark": Command(BenchmarkConfig, benchmark),
    "import_weights": Command(ImportConfig, import_weights, positionals=("checkpoint", "out"), computes=False),
    "weights": Command(WeightsConfig, weights, positionals=("action", "name"), computes=False),
    "convert": Command(ConvertConfig, convert, positionals=("sources", "out"), computes=False),
    "report": Command(ReportConfig, report, positionals=("run",)),
    "doctor": Command(DoctorConfig, doctor, positionals=("data",), flags=("annotations_only",)),
    "demo": Command(DemoConfig, demo),
}


BROKEN_PIPE = 141
"""Exit code that a shell gives a program whose output nobody reads any more, as head after its lines: 128 + SIGPIPE."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; what the user can fix is one line on stderr, exit code 2; `BROKEN_PIPE` where nobody reads the output."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, TextIOWrapper)]
    for stream in streams:  # a character that the encoding lacks must not end the work
        stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return exit_code_of(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        broken = next((stream for stream in streams if is_broken(stream)), None)
        if broken is None:  # another pipe
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), broken.fileno())  # Python would complain when it writes what is left
        return BROKEN_PIPE


def is_broken(stream: TextIOWrapper) -> bool:
    """Whether nobody reads the other end of this pipe."""
    try:
        print(file=stream, flush=True)  # to flush is not enough: what could not be written may be forgotten
    except BrokenPipeError:
        return True
    return False


def exit_code_of(arguments: list[str]) -> int:
    """Run a command; what the user can fix is one line on stderr."""
    # read when torch is imported: threads that wait spin so often, then sleep; OpenMP's default spins for seconds on cores
    # that others need (loader workers, other programs), no spinning at all costs a quarter (benchmarks/RESULTS.md)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    os.environ.pop("MPLBACKEND", None)  # a notebook's may lack here, where no chart is shown in a window
    try:
        # not under torchrun: its processes may wait for each other, and then answer nothing
        with nullcontext() if "RANK" in os.environ else stop_signals_interrupt():
            return run(arguments)
    except DetectorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except PermissionError as error:
        what = printable(str(error if error.filename is None else error.filename))
        print(f"error: {what}: permission denied; give this user the right to it", file=sys.stderr)
        return DetectorError.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 2


def run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(DISTRIBUTION, version(DISTRIBUTION))
        return 0
    if arguments[0] not in COMMANDS:
        raise ConfigError(f"there is no command {arguments[0]!r}; choose one of {', '.join(COMMANDS)}")
    command = COMMANDS[arguments[0]]
    config = parse(arguments[0], command, arguments[1:])
    from detector.utils.fileio import require_apart  # only now: --help loads nothing heavy

    out = Path(getattr(config, "out", None) or "")
    if not getattr(config, "resume", None):  # a resumed run keeps its config.yaml
        require_apart(
            config_files(with_config_paths(arguments)), [out / "config.yaml" if arguments[0] == "train" else out]
        )
    if command.computes:
        tune_malloc()
    return command.run(config)


def usage() -> str:
    rows = "\n".join(
        f"  {name:<16}{(command.config.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()
    )
    more = "detector COMMAND --help lists a command's options, detector --version says which this is."
    return f"usage: detector COMMAND [options]\n\n{rows}\n\n{more}"


def parse(name: str, command: Command, arguments: Sequence[str]) -> Any:
    """The configuration from files and arguments. Raises ConfigError that names the key and the remedy."""
    arguments = with_config_paths(arguments)
    for path in config_files(arguments):
        check_file(name, command, path)
    parser = build_parser(name, command)
    require_known(parser, (argument.split("=")[0] for argument in arguments if argument.startswith("--")))
    try:
        parsed = parser.parse_args(list(arguments))
        if name == "train" and parsed["resume"] is not None:
            for option in ("--out", "--weights"):
                if any(argument.split("=")[0] == option for argument in arguments):
                    raise ConfigError(
                        f"--resume: leave {option} out; a run continues in its own folder, from its checkpoint"
                    )
            resumed = resumed_file(parsed["resume"], parsed["train.checkpoint_url"])
            if resumed is not None:
                check_file(name, command, resumed)
                parsed = parser.parse_args(
                    ["--config", resumed, *arguments]
                )  # training refuses what differs from the run
    except ArgumentError as error:
        raise ConfigError(explain(command, error)) from error
    return instantiate(parser, command, parsed)


def instantiate(parser: ArgumentParser, command: Command, parsed: Namespace) -> Any:
    """The configuration of parsed values. Raises ConfigError for one that is empty or out of range."""
    for key, value in vars(parsed.as_flat()).items():
        if isinstance(value, str | list):
            parsed[key] = expand_home(value)
    require_values(parser, parsed.as_dict())
    values = parser.instantiate(parsed).as_dict()
    values.pop("config")
    return command.config(**values)


def expand_home(value: Any) -> Any:
    """A path, or each one of a list, with ~ as the home folder; the shell knows it only at the beginning of an argument."""
    if isinstance(value, list):
        return [expand_home(each) for each in value]
    is_below_home = isinstance(value, str) and (value == "~" or value.startswith("~/"))
    return os.path.expanduser(value) if is_below_home else value  # noqa: PTH111


def build_parser(name: str, command: Command) -> ArgumentParser:
    parser = ArgumentParser(prog=f"detector {name}", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below; later ones win.")
    helps, hints = field_docs(command.config), get_type_hints(command.config)
    for flag in command.flags:
        parser.add_argument(f"--{flag}", action="store_true", help=helps[flag])
    for positional in command.positionals:
        kind, text = hints[positional], helps[positional]
        if hasattr(command.config, positional):  # its default, given to the parser, would win over a file's value
            parser.add_argument(positional, type=kind, help=text, nargs="?", default=SUPPRESS)
        else:
            parser.add_argument(positional, type=str, help=text, nargs="+" if get_origin(kind) is list else None)
    parser.add_class_arguments(command.config, as_group=False, skip={*command.flags, *command.positionals})
    limits_of = ranges(command.config)
    for action in parser._actions:
        if action.dest == "format" and command.config is ExportConfig:
            kinds = "; ".join(f"{key}: {each.description}" for key, each in FORMATS.items())
            action.help = f"{helps['format']} {kinds}."
        if limits := limits_of.get(action.dest):
            action.help = f"{str(action.help).rstrip('.')}; {range_in_words(*limits)}."
    return parser


def ranges(config: type, prefix: str = "") -> dict[str, tuple[float, float]]:
    """The smallest and largest value of each option that takes a number, by dotted name."""
    found = {f"{prefix}{name}": limits for name, limits in getattr(config, "RANGES", {}).items()}
    for each in fields(config):
        if is_dataclass(each.default_factory):
            found |= ranges(each.default_factory, f"{prefix}{each.name}.")
    return found


def field_docs(config: type) -> dict[str, str]:
    """The docstrings of a configuration's fields, inherited ones too."""
    parsed = [docstring_parser.parse_from_object(each) for each in reversed(config.__mro__) if is_dataclass(each)]
    return {parameter.arg_name: parameter.description or "" for doc in parsed for parameter in doc.params}


RECIPES = Path(__file__).parent / "recipes"
"""Folder of the shipped configurations: in a clone a link to `configs/`, as with the shipped weights."""


def with_config_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments with --config=FILE as two, and the file of each shipped configuration in the place of its name."""
    split = [part for a in arguments for part in (a.split("=", 1) if a.startswith("--config=") else [a])]
    shipped = {path.stem: str(path) for path in RECIPES.glob("*.yaml")}
    return [
        shipped.get(value, expand_home(value)) if option == "--config" and not Path(value).is_file() else value
        for option, value in pairwise(["", *split])
    ]


def config_files(arguments: Sequence[str]) -> list[str]:
    """The values of --config in what `with_config_paths` returned."""
    return [path for option, path in pairwise(arguments) if option == "--config"]


def check_file(name: str, command: Command, path: str) -> None:
    """Raise ConfigError naming the file for what is wrong in it, which the parser's own message does not."""
    if not Path(path).exists():
        shipped = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise ConfigError(f"--config: there is no file {path}; the names of shipped ones are: {shipped}")
    content = read_yaml(Path(path))
    if "config" in content:
        raise ConfigError(f"{path}: config: a configuration file can't name another one; give both as --config")
    parser = build_parser(name, command)
    required = [f.name for f in fields(command.config) if f.default is MISSING and f.default_factory is MISSING]
    for each in required:  # the command line may have them
        hint = get_type_hints(command.config)[each]
        choice = get_args(hint)[0] if get_origin(hint) is Literal else "?"
        parser.set_defaults({each: ["?"] if get_origin(hint) is list else choice})
    try:
        require_known(parser, keys_of(content))
        require_values(parser, content)
        instantiate(parser, command, parser.parse_path(path, defaults=True))
    except ArgumentError as error:
        raise ConfigError(f"{path}: {explain(command, error)}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def keys_of(content: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """The keys of a configuration file by dotted name; sections themselves are not among them."""
    for key, value in content.items():
        if isinstance(value, dict) and f"{prefix}{key}" in SECTIONS:
            yield from keys_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


SECTIONS = {each.name for each in fields(TrainConfig) if is_dataclass(each.default_factory)}


def require_values(parser: ArgumentParser, content: Mapping[str, Any]) -> None:
    """Raise ConfigError for a key without a value where none is no possible value, and for a section that is one value."""
    sections = [("", content)]
    for name in SECTIONS & content.keys():
        if not isinstance(content[name], dict):
            raise ConfigError(f"{name}: invalid value {content[name]!r}: expected lines of keys with values")
        sections.append((f"{name}.", content[name]))
    defaults = vars(parser.get_defaults().as_flat())
    for key, value in ((f"{prefix}{name}", value) for prefix, part in sections for name, value in part.items()):
        if value is None and defaults.get(key) is not None:
            raise ConfigError(f"{key} has no value; give it one or leave it out for {defaults[key]!r}")


def require_known(parser: ArgumentParser, names: Iterable[str]) -> None:
    """Raise ConfigError for the first option that the parser does not have, with the nearest one that it has."""
    known = [option.removeprefix("--") for action in parser._actions for option in action.option_strings]
    known += [action.dest for action in parser._actions]
    for name in (each.removeprefix("--") for each in names):
        if name not in known and name not in SECTIONS and name.removesuffix("+") not in known:
            by_end = {each.split(".")[-1]: each for each in known}
            near = difflib.get_close_matches(name.split(".")[-1], by_end, n=1)
            hint = f"; did you mean {by_end[near[0]]}?" if near else "; --help lists all options"
            raise ConfigError(f"there is no option {name}{hint}")


def explain(command: Command, error: ArgumentError) -> str:
    """One line for the parser's message: the key, what is wrong and what to do."""
    message = " ".join(str(error).split())
    if missing := re.search(r"arguments are required: (.+)|Key \"?(\w+)\"? is required", message):
        names = (missing[1] or missing[2]).split(", ")
        options = [name if name in command.positionals else f"--{name}" for name in names]
        return f"missing: {', '.join(options)}; give a value for each, --help says which"
    if no_value := re.search(r"argument (--[\w.]+): expected", message):
        return f"{no_value[1]}: there is no value after it; give one"
    if stray := re.search(r"unrecognized arguments: (.+)", message):
        name = re.split(r"[=\s]", stray[1])[0]
        if name.removeprefix("--") in command.positionals:
            return f"{name}: give the value alone, without {name}"
        return f"{stray[1]!r} belongs to no option; --help lists the options, and values with spaces need quotes"
    if wrong := re.search(r'"([\w.]+)": .*(?:Got|Given) value: (.*)', message):
        return f"{wrong[1]}: invalid value {wrong[2]!r}: expected {expected_type(command.config, wrong[1])}"
    return message.replace("Parser key ", "")


def expected_type(config: Any, name: str) -> str:
    """What the field of this dotted name takes, in words."""
    hint = config
    for part in name.split("."):
        hint = get_type_hints(hint).get(part, str) if is_dataclass(hint) else str
    return type_in_words(hint)


def resumed_file(folder: str, url: str | None) -> str | None:
    """The file with the configuration that the run to resume was started with; where it is gone, that of its copy at the URL,
    None if there is no copy yet: then the run begins."""
    path = Path(folder) / "config.yaml"
    if url is not None and not path.exists():
        from detector.training.run_copy import bring_config  # loads PyTorch

        bring_config(url, path.parent)
    if path.is_file():
        return str(path)
    if url is None:
        raise ConfigError(f"--resume: {folder} holds no run (there is no {path}); give the folder that --out named")
    return None


if __name__ == "__main__":
    sys.exit(main())
