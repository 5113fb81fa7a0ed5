"""The commands as functions: the same names, the same runs. The command line calls what they call.

from dasgm.api import evaluate, load, search

found = search("quickstart", gan="none", settings={"method.epochs": 2}, progress=True)
trained = evaluate(found, "digits-small", progress=True)
print(trained.accuracy, trained.parameters)
model = load(trained.folder)

A sweep of searches is `tuning.api.sweep`.
"""

from dasgm import load
from dasgm.api.evaluations import evaluate
from dasgm.api.fits import fit
from dasgm.api.results import Accuracy, EvaluationResult, FitResult, SearchResult
from dasgm.api.searches import search

__all__ = ["Accuracy", "EvaluationResult", "FitResult", "SearchResult", "evaluate", "fit", "load", "search"]
