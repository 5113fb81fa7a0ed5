"""`dasgm VERB ...`: which verb it is, and how a command ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import dasgm
from dasgm.cli import verbs
from dasgm.cli.arguments import fail, unread
from dasgm.cli.compare import compare
from dasgm.cli.evaluate import evaluate
from dasgm.cli.export import export
from dasgm.cli.fit import fit
from dasgm.cli.lookup import lookup
from dasgm.cli.measure import measure
from dasgm.cli.predict import predict
from dasgm.cli.pretrain import pretrain
from dasgm.cli.search import search
from dasgm.plugins import nearest
from dasgm.store.files import first_line

USAGE = """\
dasgm: differentiable architecture search with a generative model

  dasgm fit PICTURES          from a folder of pictures to a trained model: a search, then the training of what it finds
  dasgm search [PRESET]       search an architecture (one process; cluster/search.py: the same on many workers)
  dasgm pretrain [PRESET]     train the preset's GAN alone on J_2, for searches that begin with one or freeze it
  dasgm evaluate GENOTYPE     train its network from scratch: the test error, and the model as files
  dasgm compare RUN RUN...    trained networks on the same test pictures: intervals, McNemar's test
  dasgm predict MODEL IMAGE   what a trained model says about pictures
  dasgm export MODEL          a trained model as a PyTorch program or as ONNX
  dasgm presets [NAME]        the paper's rows and small sizes: settings, published results, what was decided and why
  dasgm random --seed N       a random architecture: the baseline
  dasgm draw GENOTYPE         draw both cells to a PNG, SVG or PDF file
  dasgm measure NAME          parameters and multiply-adds of a genotype, a preset's supernet, a GAN
  dasgm lookup GENOTYPE       how accurate a cell of NAS-Bench-201 truly is, from your table of all cells
  dasgm runs                  the runs in a folder: state, epochs, accuracy, disk
  dasgm report FOLDER         write the result page of a run or a sweep again; --paper: every result of the paper

  dasgm VERB --help           more on each;   a sweep of searches: python tuning/sweep.py
"""


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "fit": fit,
    "search": search,
    "pretrain": pretrain,
    "evaluate": evaluate,
    "compare": compare,
    "predict": predict,
    "export": export,
    "presets": verbs.presets,
    "random": verbs.random,
    "draw": verbs.draw,
    "measure": measure,
    "lookup": lookup,
    "runs": verbs.runs,
    "report": verbs.report,
}


def _no_verb(word: str) -> str:
    verbs = ", ".join(VERBS)
    if word.startswith("-"):
        return f"{word}: a verb stands before all options, as in dasgm search {word}; there are: {verbs}"
    if word == "sweep":
        return "a sweep has a command of its own: dasgm-sweep, or python tuning/sweep.py"
    return f"verb {word!r} is not known{nearest(word, list(VERBS))}; there are: {verbs}"


def main(argv: Sequence[str] | None = None) -> int:
    """`dasgm VERB ...`; the exit code: 0 done, 1 the search failed, 2 the user's mistake, 130 stopped."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its allocator warns twice of what becomes one line
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(dasgm.__version__)
        return 0
    verb = VERBS.get(words[0])
    if verb is None:
        fail(_no_verb(words[0]))
    try:
        return verb(words[1:])
    except BrokenPipeError:
        unread()
    except (ValueError, OSError) as error:
        fail(error)
    except (RuntimeError, MemoryError) as error:
        from dasgm.device import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        fail(f"out of memory: {first_line(error):.200}; free the device or choose smaller sizes", 1)
    except KeyboardInterrupt:
        return 130
