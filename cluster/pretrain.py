"""One pre-training as a Ray Train job, the same as `dasgm pretrain`'s: python cluster/pretrain.py PRESET --workers 2"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from cluster.driver import ended, payload, run
from cluster.handover import HELP, hand_over
from cluster.job import ensure_device, workers_for
from cluster.job import pretrain as work
from cluster.options import OnWorkers
from cluster.patience import say_now
from cluster.stores import ensure_known
from dasgm.cli.again import called
from dasgm.cli.catalogue import show_config
from dasgm.cli.pretrain import PretrainOptions, pretrain_options, pretrained_line
from dasgm.store.bucket import lies_at


@dataclass(frozen=True)
class Options(OnWorkers, PretrainOptions):
    """Where a pre-training lies, how many workers run it, how long it is, and its settings."""


def main(argv: list[str] | None = None) -> int:
    """The command; the exit code as `dasgm pretrain`'s."""
    words = sys.argv[1:] if argv is None else argv
    if (code := hand_over("cluster.pretrain", words)) is not None:
        return code
    _, options = pretrain_options(words, "cluster/pretrain.py", Options, HELP)
    config, folder = options.config, options.storage / (options.name or options.config.name)
    command = called(words, "cluster/pretrain.py")
    if options.dry_run:
        from dasgm.jobs.estimate import describe_pretraining

        show_config(config)
        print(describe_pretraining(config, options.workers))
        return 0

    def job() -> int:
        from dasgm.jobs.pretrain import fits

        ensure_known()
        workers = workers_for(options.workers, options.gpus, wait=options.wait)
        say_now(f"pre-training: starting Ray; the run's folder is {lies_at(folder)}")
        ensure_device(config, workers)
        fits(config, config.data.load(config.data_dir, "cpu"), workers.number)
        about = {"name": folder.name, "title": folder.name, "command": command}
        run(work, payload(config, folder, options.storage / "cache", about), workers, "pre-training")
        print(pretrained_line(folder))
        return 0

    return ended(job, folder, command)


if __name__ == "__main__":
    raise SystemExit(main())
