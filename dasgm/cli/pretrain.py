"""`dasgm pretrain`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dasgm.api.choices import placed
from dasgm.cli.again import called
from dasgm.cli.arguments import fail, flattened, parse
from dasgm.cli.progress import on_terminal
from dasgm.cli.settings import BEFORE, Chosen, choose, parts_help
from dasgm.config import PretrainConfig, override
from dasgm.plugins import key_of
from dasgm.store.bucket import lies_at
from dasgm.store.files import printable, shell_line


@dataclass(frozen=True)
class PretrainOptions:
    """Where a pre-training lies, how long it is, and its settings."""

    config: Any
    iterations: int | None = None
    """Number of generator steps; short for --gan.pretrain-iterations. A larger number continues a finished run."""
    storage: Path = Path("runs")
    """Folder for all runs: a path, or an address in object storage such as s3://BUCKET/PREFIX."""
    name: str = ""
    """Name of the run, by default gan-<GAN>-<dataset>-s<seed>-<digest of its settings>, which --pretrain looks for."""
    dry_run: bool = False
    """Print the configuration and the cost of the pre-training (hours, memory, disk), and start nothing."""


def pretrain_options(
    argv: Sequence[str], prog: str, options: type = PretrainOptions, more: str = ""
) -> tuple[Chosen, Any]:
    """The command line of one pre-training, alone or under Ray Train; `more` for --help."""
    try:
        chosen = choose(argv)
        default = options(PretrainConfig.of(chosen.config))
    except ValueError as error:
        fail(error)
    about = f"Train a GAN alone on J_2. To continue, run the same command. {more} {parts_help(pretrain=True)}"
    found = parse(flattened(options, PretrainConfig), chosen.rest, default, prog, about, BEFORE, "[PRESET]")
    found = replace(found, config=placed(found.config))
    if found.iterations is not None:
        if found.iterations < 1:
            fail(f"iterations {found.iterations}: expected at least 1")
        found = replace(found, config=override(found.config, {"gan.pretrain_iterations": found.iterations}))
    return chosen, found


def pretrain(argv: Sequence[str]) -> int:
    chosen, options = pretrain_options(argv, "dasgm pretrain")
    config, folder = options.config, options.storage / (options.name or options.config.name)
    what = f"{key_of(config.gan)} on {key_of(config.data)}"
    print(printable(f"{what}: loading; the run's folder is {lies_at(folder)}"), flush=True)
    if options.dry_run:
        from dasgm.cli.catalogue import show_config
        from dasgm.jobs.estimate import describe_pretraining

        show_config(config)
        print(describe_pretraining(config))
        return 0
    from dasgm.jobs.pretrain import main

    with on_terminal(called(["pretrain", *argv], "dasgm")) as caller:
        with caller.ending("pre-training", folder):
            main(config, folder, caller.hooks(folder))
        caller.say(pretrained_line(folder))
    return 0


def pretrained_line(folder: Path) -> str:
    """What a pre-training came to, and how a search takes it."""
    from dasgm.pretrained import read

    found = read(folder)
    return (
        f"finished: a fixed CNN assigns {found.about['synthetic_accuracy']:.3f} of the averaged generator's images to "
        f"their label (of real images {found.about['judge']:.3f})\n"
        f"  use it    dasgm search PRESET --gan-checkpoint {shell_line([lies_at(folder)])} "
        "[--freeze-gan --val-portion 0.5]"
    )
