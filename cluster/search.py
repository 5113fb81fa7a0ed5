"""One search as a Ray Train job, the same as `dasgm search`'s: python cluster/search.py PRESET --workers 2 ..."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from cluster.driver import ended, look_at_data, payload, pretrained_first, run
from cluster.handover import HELP, hand_over
from cluster.job import search as work
from cluster.job import workers_for
from cluster.options import OnWorkers
from cluster.patience import say_now
from cluster.stores import ensure_known
from dasgm.cli.again import called
from dasgm.cli.catalogue import show_config
from dasgm.cli.search import SearchOptions, result_line, search_options
from dasgm.store.bucket import lies_at
from dasgm.store.run import Run


@dataclass(frozen=True)
class Options(OnWorkers, SearchOptions):
    """Where a search lies, how many workers run it, and its settings."""


def main(argv: list[str] | None = None) -> int:
    """The command; the exit code as `dasgm search`'s."""
    words = sys.argv[1:] if argv is None else argv
    if (code := hand_over("cluster.search", words)) is not None:
        return code
    chosen, options = search_options(words, "cluster/search.py", Options, HELP)
    config, folder = chosen.config, options.storage / (options.name or chosen.name())
    command = called(words, "cluster/search.py")
    if options.dry_run:
        from dasgm.jobs.estimate import describe

        show_config(config)
        print(describe(config, workers=options.workers, pretrain=options.pretrain))
        return 0

    def job() -> int:
        ensure_known()
        workers = workers_for(options.workers, options.gpus, wait=options.wait)
        what = f"{chosen.preset} on {chosen.dataset}"
        say_now(f"{what}: starting Ray; the run's folder is {lies_at(folder)}")
        look_at_data(config, workers, options.pretrain)
        begun = pretrained_first(config, options.storage, workers, command) if options.pretrain else config
        about = {"name": folder.name, "title": folder.name, "command": command, "published": chosen.published}
        run(work, payload(begun, folder, options.storage / "cache", about), workers, "search")
        print(result_line(Run(folder).rows()[-1], folder))
        return 0

    return ended(job, folder, command)


if __name__ == "__main__":
    raise SystemExit(main())
