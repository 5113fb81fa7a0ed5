"""The numbers that the paper publishes, as it prints them: the only place that has them. Values.

Errors are in %, parameters in millions, costs of a search in GPU-days.
"""

from __future__ import annotations

from dataclasses import dataclass

CIFAR = ("cifar10", "cifar100")
SEEDS = 4  # searches of each row (caption of Table 2)


@dataclass(frozen=True)
class Published:
    """A row of a table, for one data set; '' stands for what the paper does not give."""

    table: str
    title: str
    """As the paper calls it."""
    row: str
    """What makes it here: a preset, PRESET:GAN, or torchvision:NAME. '': nothing does."""
    dataset: str
    """The data set on which it is tested."""
    error: str
    parameters: str = ""
    cost: str = ""
    top5: str = ""
    searched_on: str = ""
    """The data set on which it is searched. '': that on which it is tested, or it is not searched."""


def _table_2(title: str, row: str, errors: str, parameters: str, cost: str) -> tuple[Published, ...]:
    """A row for each data set; of the two values of a column the first is CIFAR-10's."""
    columns = zip(CIFAR, errors.split(", "), parameters.split(", "), strict=True)
    return tuple(Published("2", title, row, *one, cost) for one in columns)


def _table_3(
    title: str, row: str, top1: str, top5: str, parameters: str, cost: str = "", searched_on: str = ""
) -> Published:
    return Published("3", title, row, "imagenet", top1, parameters, cost, top5, searched_on)


TABLE_2 = (
    *_table_2("DenseNet", "", "3.46, 17.18", "25.6, 25.6", ""),
    *_table_2("PNAS", "", "3.41 ± 0.09, 19.53", "3.2, 3.2", "225"),
    *_table_2("ENAS", "", "2.89, 19.43", "4.6, 4.6", "0.5"),
    *_table_2("AmoebaNet", "", "2.55 ± 0.05, 18.93", "2.8, 3.1", "3150"),
    *_table_2("Hierarchical Evolution", "", "3.75, ", "15.7, ", "300"),
    *_table_2("GDAS", "gdas", "2.93, 18.38", "3.4, 3.4", "0.2"),
    *_table_2("DropNAS", "dropnas", "2.58 ± 0.14, 16.39", "4.1, 4.4", "0.7"),
    *_table_2("ProxylessNAS", "", "2.08, ", "5.7, ", "4.0"),
    *_table_2("DASGM+DARTS", "dasgm-darts", "2.70 ± 0.08, 17.14 ± 0.10", "3.1, 3.2", "5.2"),
    *_table_2("DASGM+DARTS+30% Val", "dasgm-darts-val30", "2.85 ± 0.08, 18.49 ± 0.27", "4.5, 4.6", "4.0"),
    *_table_2("DASGM+DARTS+50% Val", "dasgm-darts-val50", "2.75 ± 0.02, 18.40 ± 0.27", "2.8, 2.8", "4.0"),
    *_table_2("DASGM+DARTS+70% Val", "dasgm-darts-val70", "3.28 ± 0.05, 18.79 ± 0.21", "2.3, 2.4", "4.0"),
    *_table_2("DARTS-1st", "darts-1st", "3.00 ± 0.14, 20.52 ± 0.31", "3.3, 3.3", "1.5"),
    *_table_2("DARTS-2nd", "darts-2nd", "2.76 ± 0.09, 20.58 ± 0.44", "3.3, 3.3", "4.0"),
    *_table_2("DASGM+PDARTS", "dasgm-pdarts", "2.56 ± 0.04, 16.82 ± 0.03", "3.4, 4.1", "0.5"),
    *_table_2("DASGM+PDARTS+30% Val", "dasgm-pdarts-val30", "3.01 ± 0.06, 18.98 ± 0.16", "3.0, 2.2", "0.3"),
    *_table_2("DASGM+PDARTS+50% Val", "dasgm-pdarts-val50", "2.94 ± 0.03, 17.28 ± 0.23", "3.0, 2.9", "0.3"),
    *_table_2("DASGM+PDARTS+70% Val", "dasgm-pdarts-val70", "3.03 ± 0.05, 18.74 ± 0.13", "4.2, 2.6", "0.3"),
    *_table_2("P-DARTS", "pdarts", "2.50, 17.49", "3.4, 3.6", "0.3"),
    *_table_2("DASGM+PCDARTS", "dasgm-pcdarts", "2.52 ± 0.04, 17.42 ± 0.11", "3.8, 4.4", "0.4"),
    *_table_2("DASGM+PCDARTS+30% Val", "dasgm-pcdarts-val30", "3.43 ± 0.12, 18.19 ± 0.31", "2.8, 2.7", "0.1"),
    *_table_2("DASGM+PCDARTS+50% Val", "dasgm-pcdarts-val50", "3.13 ± 0.05, 17.90 ± 0.12", "2.5, 2.8", "0.1"),
    *_table_2("DASGM+PCDARTS+70% Val", "dasgm-pcdarts-val70", "2.74 ± 0.08, 18.16 ± 0.29", "3.3, 2.9", "0.1"),
    *_table_2("PC-DARTS", "pcdarts", "2.57 ± 0.07, 17.96 ± 0.15", "3.6, 3.9", "0.1"),
)

TABLE_3 = (
    _table_3("Inception-v1", "torchvision:googlenet", "30.2", "10.1", "6.6"),
    _table_3("MobileNet", "torchvision:mobilenet_v2", "29.4", "10.5", "4.2"),
    _table_3("ShuffleNet 2x (v1)", "", "26.4", "10.2", "5"),
    _table_3("ShuffleNet 2x (v2)", "torchvision:shufflenet_v2_x2_0", "25.1", "", "5"),
    _table_3("NASNet-A", "", "26.0", "8.4", "5.3", "1800"),
    _table_3("NASNet-B", "", "27.2", "8.7", "5.3", "488"),
    _table_3("NASNet-C", "", "27.5", "9.0", "4.9", "558"),
    _table_3("AmoebaNet", "", "24.3", "7.6", "6.4", "3150"),
    _table_3("PNAS", "", "25.8", "8.1", "5.1", "225"),
    _table_3("MnasNet-92", "torchvision:mnasnet1_0", "25.2", "8.0", "4.4"),
    _table_3("ProxylessNAS", "", "24.9", "7.5", "7.1", "8.3"),
    _table_3("SNAS", "", "27.3", "9.2", "4.3", "1.5"),
    _table_3("DASGM+DARTS-CIFAR10", "dasgm-darts", "25.6", "8.2", "4.6", "5.2", "cifar10"),
    _table_3("DARTS-2nd", "darts-2nd", "26.7", "8.7", "4.7", "4", "cifar10"),
    _table_3("DASGM+PDARTS-CIFAR10", "dasgm-pdarts", "24.5", "6.8", "5.7", "0.5", "cifar10"),
    _table_3("P-DARTS-CIFAR10", "pdarts", "24.4", "7.4", "4.9", "0.3", "cifar10"),
    _table_3("P-DARTS-CIFAR100", "pdarts", "24.7", "7.5", "5.1", "0.3", "cifar100"),
    _table_3("DASGM+PCDARTS-CIFAR10", "dasgm-pcdarts", "23.9", "7.1", "5.3", "0.4", "cifar10"),
    _table_3("PC-DARTS-CIFAR10", "pcdarts", "25.1", "7.8", "5.3", "0.1", "cifar10"),
    _table_3("PC-DARTS-ImageNet", "", "24.2", "7.3", "5.3", "3.8"),  # searched on ImageNet
)

TABLE_4 = (  # one run each
    Published("4", "BigGAN", "dasgm-darts", "cifar100", "16.98"),
    Published("4", "StyleGAN2-ADA", "dasgm-darts:stylegan2ada", "cifar100", "16.90"),
    Published("4", "ContraGAN", "dasgm-darts:contragan", "cifar100", "16.93"),
)

TABLE_5 = {  # epoch -> FID and IS, of dasgm-darts on CIFAR-100
    10: ("62.69", "2.39"),
    20: ("63.27", "2.38"),
    30: ("63.86", "2.41"),
    40: ("64.08", "2.42"),
    50: ("62.34", "2.44"),
}

TABLE_6 = {  # (row with DASGM, its baseline) -> p on CIFAR-10 and on CIFAR-100
    ("dasgm-darts", "darts-2nd"): ("0.3575", "0.0000"),
    ("dasgm-pdarts", "pdarts"): ("0.2722", "0.0003"),
    ("dasgm-pcdarts", "pcdarts"): ("0.2472", "0.0005"),
}

FIGURE_3 = {"a": "dasgm-darts", "b": "dasgm-darts-val50", "c": "darts-1st", "d": "darts-2nd"}
"""Letter -> the row whose normal cell it shows. The text says that they are of CIFAR-10, the caption of CIFAR-100."""
FIGURE_5 = ("dasgm-darts", "darts-2nd")
"""The row that is right on the pictures of Figure 5, and the one that is wrong; on CIFAR-100."""


def errors(row: str) -> str:
    """The errors of a row of Table 2 in words; '' of a row that is not in it."""
    found = [one.error for one in TABLE_2 if one.row == row]
    return f"CIFAR-10 {found[0]}, CIFAR-100 {found[1]} (Table 2)" if found else ""
