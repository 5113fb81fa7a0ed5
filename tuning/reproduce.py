"""Make a table or a figure of the paper: searches, trainings of what they find, and the page of the paper's results.

python tuning/reproduce.py --table 2 --budget smoke --data-dir FOLDER    a table at a size for two cores
python tuning/reproduce.py --figure 5                                    a figure at the paper's size, for GPUs
python tuning/reproduce.py --table 3 --imagenet FOLDER --dry-run         what it would cost, part by part
python tuning/reproduce.py --rows pdarts dasgm-pdarts --seeds 3          searches alone, of rows: preset, or preset:GAN
"""

from __future__ import annotations

import sys
from dataclasses import replace

from cluster.group import carry_out
from cluster.handover import HELP, hand_over
from dasgm.cli.again import called
from dasgm.cli.arguments import fail, parse, without_config
from dasgm.cli.settings import Chosen
from tuning.rows import Options, Table, show

ABOUT, _, _EXAMPLES = (__doc__ or "").partition("\n\n")
EXAMPLES = "".join(f"\n- {example}" for example in _EXAMPLES.splitlines())


def main(argv: list[str] | None = None) -> int:
    """The command; exit codes as the sweep's."""
    words = sys.argv[1:] if argv is None else list(argv)
    if (code := hand_over("tuning.reproduce", words)) is not None:
        return code
    prog = "python tuning/reproduce.py"
    command = called(words, "tuning/reproduce.py")
    try:
        options: Options = parse(without_config(Options), words, Options(), prog, f"{ABOUT} {HELP}{EXAMPLES}")
        if options.what:
            from tuning.reproduction import Reproduction

            return Reproduction(options, command).main()
        sweep = _of_rows(options, command)
    except (ValueError, OSError) as error:
        fail(error)
    code = carry_out(sweep)
    if not options.dry_run:
        show(sweep, sweep.options)
    return code


def _of_rows(options: Options, command: str) -> Table:
    """The sweep of the rows of --rows."""
    configs = options.configs()
    # one with a frozen GAN, if any, so that its pre-training is checked
    first = max(configs.values(), key=lambda config: config.freeze_gan)
    name = f"rows{options.size.rows}"
    chosen = Chosen(name, first, [])
    options = replace(options, name=options.name or f"{name}-{chosen.dataset}", config=first)
    return Table(chosen, options, configs, command)


if __name__ == "__main__":
    from tuning.reproduce import main as installed  # so that what is pickled names a module, not __main__

    sys.exit(installed())
