"""Cells of DARTS's space as their authors released them: two operations into each of four nodes, each with the state
that it reads. `-` is an edge that was not derived; a node of two such edges is no part of the cell's output. Data.
"""

from __future__ import annotations

RELEASED: dict[str, dict[str, tuple[str, str]]] = {
    "DARTS, arXiv 1806.09055": {
        "DARTS_V1": (
            "sep3(1) sep3(0)  skip(0) sep3(1)  skip(0) sep3(1)  sep3(0) skip(2)",
            "max(0) max(1)  skip(2) max(0)  max(0) skip(2)  skip(2) avg(0)",
        ),
        "DARTS_V2": (
            "sep3(0) sep3(1)  sep3(0) sep3(1)  sep3(1) skip(0)  skip(0) dil3(2)",
            "max(0) max(1)  skip(2) max(1)  max(0) skip(2)  skip(2) max(1)",
        ),
    },
    "P-DARTS, arXiv 1904.12760": {
        "PDARTS": (
            "skip(0) dil3(1)  skip(0) sep3(1)  sep3(1) sep3(3)  sep3(0) dil5(4)",
            "avg(0) sep5(1)  sep3(0) dil5(2)  max(0) dil3(1)  dil3(1) dil5(3)",
        ),
    },
    "PC-DARTS, arXiv 1907.05737": {
        "PC_DARTS_cifar": (
            "sep3(1) skip(0)  sep3(0) dil3(1)  sep5(0) sep3(1)  avg(0) dil3(1)",
            "sep5(1) max(0)  sep5(1) sep5(2)  sep3(0) sep3(3)  sep3(1) sep3(2)",
        ),
        "PC_DARTS_image": (
            "skip(1) sep3(0)  sep3(0) skip(1)  sep3(1) sep3(3)  sep3(1) dil5(4)",
            "sep3(0) skip(1)  dil5(2) max(1)  sep3(2) sep3(1)  sep5(0) sep3(3)",
        ),
    },
    "SNAS, arXiv 1812.09926": {
        "SNAS_mild": (
            "sep3(0) sep3(1)  skip(0) dil3(1)  skip(0) skip(1)  skip(0) sep3(1)",
            "max(0) max(1)  max(1) skip(2)  max(1) skip(2)  max(0) dil5(2)",
        ),
        "SNAS_moderate": (
            "dil5(0) skip(1)  sep3(0) skip(1)  skip(0) skip(1)  sep3(0) dil5(1)",
            "max(0) max(1)  sep5(0) dil5(1)  sep5(0) sep5(1)  sep5(0) sep5(1)",
        ),
        "SNAS_aggressive": (  # `none` was derived: the last two nodes are 0, and are concatenated
            "sep5(0) skip(1)  skip(0) skip(1)  dil5(1) skip(0)  skip(0) dil5(1)",
            "sep5(0) none(1)  sep5(0) none(1)  none(1) none(0)  none(1) none(0)",
        ),
    },
    "GDAS, arXiv 1910.04465": {
        "GDAS_V1": (
            "skip(0) skip(1)  skip(0) sep5(2)  sep3(3) skip(0)  sep5(4) sep3(3)",
            "sep5(0) sep3(1)  sep5(2) sep5(1)  dil5(2) sep3(1)  sep5(0) sep5(1)",
        ),
    },
    "Fair DARTS, arXiv 1911.12126": {  # what reads a node without edges is left out
        "FairDARTS_a": (
            "sep3(0) sep5(1)  - -  max(0) -  sep3(0) -",
            "max(0) avg(1)  avg(0) dil5(1)  avg(0) sep5(1)  skip(0) skip(1)",
        ),
        "FairDARTS_b": (
            "sep3(0) sep3(1)  sep3(1) -  dil3(0) sep5(1)  dil5(1) -",
            "skip(0) dil3(1)  skip(0) dil3(1)  max(0) sep3(1)  skip(2) max(0)",
        ),
        "FairDARTS_c": (
            "max(0) sep5(1)  - -  dil3(0) dil5(2)  sep3(0) -",
            "dil3(1) dil5(0)  dil3(0) sep3(1)  sep5(0) sep5(3)  sep5(0) skip(1)",
        ),
        "FairDARTS_d": (
            "sep3(0) sep5(1)  dil3(1) max(0)  dil3(0) dil3(1)  sep3(0) dil5(1)",
            "max(0) sep5(1)  avg(0) dil5(2)  dil3(3) avg(0)  avg(0) skip(3)",
        ),
        "FairDARTS_e": (
            "sep3(0) sep3(1)  - -  dil3(1) dil3(2)  dil3(0) dil5(1)",
            "max(1) max(0)  max(1) max(0)  sep5(1) max(0)  avg(0) dil5(1)",
        ),
        "FairDARTS_f": (
            "max(0) sep3(1)  dil3(1) -  sep5(1) -  sep3(0) sep3(1)",
            "max(0) max(1)  max(0) dil3(1)  dil3(2) max(0)  max(0) sep3(1)",
        ),
        "FairDARTS_g": (
            "sep3(0) sep3(1)  - -  sep5(1) -  dil3(0) sep3(1)",
            "avg(1) skip(0)  skip(2) max(1)  sep5(3) max(0)  dil3(1) dil3(4)",
        ),
    },
    "SGAS, arXiv 1912.00195": {  # in its code Cri1_CIFAR_3, Cri2_CIFAR_3 and Cri2_CIFAR_4
        "SGAS_cri1_best": (
            "sep3(0) dil3(1)  sep3(0) sep3(1)  sep5(1) sep5(3)  skip(0) dil5(2)",
            "max(0) dil5(1)  sep3(0) skip(2)  sep3(1) skip(2)  max(0) max(1)",
        ),
        "SGAS_cri2_best": (
            "sep3(0) sep3(1)  sep3(0) sep3(2)  max(0) sep3(3)  sep3(2) sep3(3)",
            "sep3(0) max(1)  dil3(0) max(1)  max(0) sep3(2)  max(0) sep5(2)",
        ),
        "SGAS_cri2_image": (
            "sep3(0) sep3(1)  sep3(0) sep3(1)  dil5(0) dil3(2)  sep3(1) dil5(3)",
            "sep5(0) dil3(1)  max(0) max(1)  dil3(0) dil5(2)  max(0) avg(1)",
        ),
    },
    "SDARTS, arXiv 2002.05283": {  # in its code c10_s5_random and c10_s5_pgd
        "SDARTS_RS": (
            "sep3(1) sep3(0)  sep5(1) skip(0)  sep3(3) skip(1)  sep3(1) dil3(2)",
            "max(0) sep3(1)  skip(2) max(0)  dil5(3) max(0)  sep3(2) sep5(3)",
        ),
        "SDARTS_ADV": (
            "sep3(0) sep3(1)  sep3(1) skip(0)  sep5(0) dil3(3)  dil3(4) skip(0)",
            "max(0) sep5(1)  skip(2) max(0)  skip(3) skip(2)  skip(2) sep5(4)",
        ),
    },
    "DropNAS, IJCAI 2020": {
        "DropNAS_cifar10": (
            "sep3(1) skip(0)  sep3(1) sep3(0)  sep3(1) sep3(0)  dil5(4) dil3(1)",
            "max(0) sep5(1)  dil5(2) sep5(1)  dil5(3) dil5(2)  dil5(3) dil5(4)",
        ),
    },
    "DrNAS, arXiv 2006.10355": {
        "DrNAS_cifar10": (
            "sep3(0) sep5(1)  sep3(1) sep3(2)  skip(0) sep3(1)  sep3(2) dil5(3)",
            "max(0) sep5(1)  dil5(2) sep5(1)  sep5(1) dil5(3)  skip(4) sep5(1)",
        ),
        "DrNAS_imagenet": (
            "sep3(1) sep3(0)  sep3(0) sep3(1)  sep3(0) dil3(3)  skip(0) sep3(1)",
            "max(0) sep3(1)  sep3(0) skip(2)  sep3(0) sep3(2)  sep3(3) sep3(1)",
        ),
    },
    "DARTS-, arXiv 2009.01027": {  # in its code cifar10_s0_0 and cifar100_s0_0
        "DARTS_minus_c10": (
            "sep3(0) sep5(1)  sep3(1) dil3(2)  skip(1) sep3(0)  skip(1) sep3(0)",
            "sep3(0) max(1)  skip(2) max(0)  skip(2) skip(3)  skip(2) skip(3)",
        ),
        "DARTS_minus_c100": (
            "dil5(0) dil3(1)  sep3(1) dil3(0)  dil5(0) dil3(1)  sep3(1) dil5(0)",
            "max(0) sep5(1)  skip(2) sep5(0)  skip(2) skip(3)  skip(2) skip(3)",
        ),
    },
    "Lambda-DARTS, arXiv 2210.07998": {
        "Lambda_corr_0": (
            "sep5(0) skip(1)  sep3(2) sep5(1)  sep3(1) max(0)  dil3(2) max(0)",
            "skip(1) skip(0)  max(0) dil3(2)  dil5(3) dil5(1)  skip(1) sep5(2)",
        ),
        "Lambda_corr_1": (
            "sep3(0) sep5(1)  sep3(1) sep3(0)  sep3(1) skip(0)  skip(0) sep3(1)",
            "max(0) max(1)  max(0) max(1)  max(0) dil5(3)  dil5(4) dil5(3)",
        ),
    },
    "OLES, NeurIPS 2023": {
        "OLES_cifar10": (
            "sep3(1) sep3(0)  sep5(0) sep3(1)  sep3(0) sep5(1)  sep3(0) dil3(1)",
            "max(0) sep3(1)  avg(0) skip(2)  skip(2) avg(0)  skip(2) skip(3)",
        ),
        "OLES_cifar100": (
            "skip(0) sep3(1)  skip(0) sep5(1)  skip(0) skip(1)  skip(0) sep3(1)",
            "skip(0) sep5(1)  max(0) skip(2)  max(0) skip(2)  skip(2) max(0)",
        ),
    },
    "IS-DARTS, AAAI 2024": {  # nodes may read the same state twice
        "ISDARTS": (
            "sep5(0) sep3(1)  dil5(0) sep5(1)  sep5(0) sep5(1)  sep3(0) sep5(2)",
            "sep5(0) max(1)  dil5(2) sep5(2)  sep5(0) sep5(2)  dil5(0) sep5(2)",
        ),
    },
}
"""{paper: {name: (normal cell, reduction cell)}}"""
