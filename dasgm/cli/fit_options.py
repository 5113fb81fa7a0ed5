"""The command line of `dasgm fit`: what it takes, the settings of both stages, and what it refuses at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dasgm.api.asked import SIDE, Asked, FitOptions, elsewhere, ensure_here, on_gpu
from dasgm.cli.arguments import parse, take
from dasgm.genotype import Genotype
from dasgm.given import flags
from dasgm.presets import PRESETS
from dasgm.recipes import RECIPES

BEFORE = {
    "--genotype": "Genotype to train instead of a search: a file, a run's folder, its text, or a name (DARTS_V2).",
    "--preset": f"Settings of the search to begin with: {', '.join(PRESETS)}, or a JSON file. The default is fit-small "
    "on a CPU, dasgm-darts on a GPU.",
    "--recipe": f"Settings of the training to begin with: {', '.join(RECIPES)}. The default is the ImageNet form above "
    "64 pixels, else the CIFAR form, both in small sizes on a CPU.",
    "--image-size": "Side of the images that the network is trained on, in pixels: a multiple of 4 from 32 to 320. The "
    "default is the largest of 32, 64, 96, ... 224 that is no more than the shorter side of half of the photographs "
    "and leaves the budget at least 10 epochs.",
    "--config": "Configuration or folder below PICTURES to read, if the Parquet files there hold several data sets.",
    "--search.image-size": "Side of the images of the search, in pixels. The default is 32.",
    "--device": "Device of both stages: auto (a GPU if there is one), cpu, cuda, cuda:N or mps.",
    "--seed": "Seed of both stages. The default is 0.",
}
ABOUT = (
    "From a folder of pictures to a trained model: a search, then the training of the network that it finds. To "
    "continue, run the same command.\n- PICTURES: Folder with class/*.jpg, or train/ val/ test/ with such folders, or "
    "Parquet files, or CSV files (path,label).\n"
    + "\n".join(f"- {option} VALUE: {sentence}" for option, sentence in BEFORE.items())
)


def asked(argv: Sequence[str]) -> Asked:
    """The command line up to the settings of the stages. ValueError: something of it cannot be used."""
    values, first, rest = take(argv, tuple(BEFORE), 1)
    if not first and {"-h", "--help"} & set(rest):
        first = ["PICTURES"]
    if not first:
        raise ValueError("name the folder with your pictures first, as in dasgm fit PICTURES")
    given = flags(rest)
    ensure_here(given)
    source = values.get("--genotype", "")

    def settle(default: FitOptions) -> FitOptions:
        found: FitOptions = parse(FitOptions, rest, default, "dasgm fit", ABOUT, tuple(BEFORE), "PICTURES", elsewhere)
        return found

    return Asked(
        first[0],
        gpu=on_gpu(values.get("--device")),
        genotype=Genotype.load(source) if "--genotype" in values else None,
        source=source,
        preset_name=values.get("--preset", ""),
        recipe_name=values.get("--recipe", ""),
        image_size=_number(values, "--image-size", 0) if "--image-size" in values else None,
        search_image_size=_number(values, "--search.image-size", SIDE),
        config=values.get("--config", ""),
        device=values.get("--device"),
        seed=_number(values, "--seed", 0),
        skip_unreadable="skip_unreadable" in given,
        given=given | frozenset(name for name in flags(argv) if name.startswith("search.")),
        settle=settle,
    )


def _number(values: Mapping[str, str], flag: str, default: int) -> int:
    """The value of an option that takes a whole number."""
    given = values.get(flag, str(default))
    if not given.isdecimal():
        raise ValueError(f"{flag} {given!r:.80}: expected a whole number")
    return int(given)
